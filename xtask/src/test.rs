//! `cargo xtask test`: everything that must hold.

use crate::{
    Outcome,
    build::{self, Profile},
    conformance, interop, openapi,
    phases::Phases,
    picture::Picture,
    setup, shell, vm,
};

/// Runs the phases in order. Once built, all tests run, so that one failure does not hide another.
pub fn test() -> Outcome {
    let mut phases = Phases::default();
    phases.run("setup", || setup::setup(&setup::ALL));
    phases.run("formatting", || shell::run(shell::cargo().args(["fmt", "--all", "--check"])));
    phases.run("clippy", || {
        shell::run(shell::cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
    phases.run("build", || build::workspace(Profile::Debug));

    let mut before = None;
    phases.run("picture of the host", || {
        before = Some(Picture::save(Profile::Debug)?);
        Ok(())
    });
    if before.is_some() {
        let root = shell::is_root();
        if !root {
            println!("\nnot root: tests that make containers will skip themselves, and say so");
        }
        phases.run("tests", || {
            // Many of them wait for the kernel, or for a time-out, more than they compute.
            let threads = ("RUST_TEST_THREADS", "4");
            let mut tests = shell::cargo();
            tests.args(["test", "--workspace", "--no-fail-fast"]).env(threads.0, threads.1);
            shell::run(&mut tests)
        });
        phases.run_anyway("conformance of servers at an address", conformance::at_address);
        let go = shell::find("go").is_some();
        match (root, go) {
            (true, true) => {
                phases.run_anyway("Go client", interop::go_client);
            }
            (false, _) => phases.skip("Go client", "only root can make containers"),
            (_, false) => phases.skip("Go client", "go is not installed"),
        }
        match openapi::prepare() {
            Ok(schemathesis) => {
                phases.run_anyway("OpenAPI", || openapi::drive(&schemathesis));
            }
            Err(why) => phases.skip("OpenAPI", &format!("schemathesis cannot be had: {why}")),
        }
    }
    if before.is_some() {
        match vm::have_for_test() {
            Ok(()) => {
                phases.run_anyway("stock kernel", vm::in_test);
            }
            Err(why) => phases.leave_out("stock kernel", &why),
        }
    }
    if let Some(before) = before {
        phases.run_anyway("nothing left behind", || before.compare());
    }
    phases.finish()
}
