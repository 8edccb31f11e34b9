//! The runner: with programs of the tests' own that misbehave, and with real plug-ins on hosts that the tests make.

mod programs;
mod real;
