//! The network on a real kernel, with real packets. Host, containers and the rest of the world are network namespaces
//! that the tests make; the machine's own stays untouched.

mod bandwidth;
mod firewalls;
mod foreign;
mod ipv6;
mod isolation;
mod lifecycle;
mod ports;
mod programs;
mod rules;
mod subnets;
pub(super) mod world;
