//! The project's own commands, run as `cargo xtask COMMAND`.
//!
//! Everything here starts other programs and looks at how they ended; the work itself is in them. The standard
//! library is enough for that, and compiles in seconds.

#![forbid(unsafe_code)]

mod bench;
mod build;
mod conformance;
mod demo;
mod elf;
mod fuzz;
mod interop;
mod mutants;
mod openapi;
mod phases;
mod picture;
mod server;
mod setup;
mod shell;
mod test;
mod vm;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  demo     the main job on a real kernel: a container's whole life, step by step
           (demo --fake, or without root: the same in memory)
  test     everything that must hold: set-up, formatting, clippy, all tests, the Go client, OpenAPI, the tests that
           make containers on Debian's stock kernel too, nothing left behind
  vm       the tests that make containers on Debian's stock kernel (cgroup v2 only), in machines that are emulated
           where there is no KVM; vm --test PROGRAM NAME: of that program those with that name
  conformance  the conformance suite on every backend, directly and through HTTP, as a table: docs/CONFORMANCE.md
           (conformance ADDRESS, as unix:/PATH or tcp:HOST:PORT: any Garden server there too)
  bench    create, run, destroy beside the bare system calls, crun and runc; bench N: N lives each
           (bench http: the CPU time of a request beside a bare hyper server;
           bench stream: a process's output to a client beside a bare copy; bench stream N: N GiB;
           bench metrics: those of 250 containers in one request;
           bench network: what ports and outbound rules add, also beside 500 containers)
  fuzz     the fuzz targets, led by coverage, a minute each; fuzz TARGET: that one; fuzz --seconds N: N seconds each
  mutants  takes each defence and each limit away in turn, and expects the test that is meant to see it to fail
           (mutants NAME ...: those whose name contains one of these)
  soak     10,000 processes that end at once, their output read late, every byte compared; soak N: N of them
  build    everything, debug; build --release: with optimisation
  setup    install what the system lacks (Debian, as root), or list it
  help     this text

Environment: CI=true makes a missing tool a failure instead of a skip. VM_DIR: see tests/vm.
VM_TIME, VM_MEMORY, VM_CPUS: of each machine, in seconds and MiB. VM_MAKE=1: test makes the machines' image, too.
";

/// What every command answers: nothing, or why it failed, in words for the person at the terminal.
type Outcome = Result<(), String>;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_else(|| "help".to_owned());
    let rest: Vec<String> = arguments.collect();
    let outcome = match (command.as_str(), rest.as_slice()) {
        ("demo", []) => demo::demo(shell::is_root()),
        ("demo", [flag]) if flag == "--fake" => demo::demo(false),
        ("test", []) => test::test(),
        ("vm", _) => vm::vm(&rest),
        ("conformance", []) => conformance::conformance(None),
        ("conformance", [address]) => conformance::conformance(Some(address)),
        ("bench", _) => bench::bench(&rest),
        ("fuzz", _) => fuzz::fuzz(&rest),
        ("soak", _) => bench::against_a_server("soak-streams", &[], &rest),
        ("build", []) => build::workspace(build::Profile::Debug),
        ("build", [flag]) if flag == "--release" => build::workspace(build::Profile::Release),
        ("mutants", _) => mutants::mutants(&rest),
        ("setup", []) => setup::setup(&setup::ALL),
        ("help" | "-h" | "--help", _) => {
            print!("{HELP}");
            Ok(())
        }
        _ => Err(format!("unknown: {command} {}\n\n{HELP}", rest.join(" "))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}
