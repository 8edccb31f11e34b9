//! The tests that make containers on Debian's stock kernel, in machines that are emulated where they must be.

mod image;
mod machine;
mod stage;

use std::{env, path::PathBuf};

use crate::{Outcome, shell};
pub use image::{have_for_test, prepare};

/// The conformance suite there: through HTTP, which is all of it.
const CONFORMANCE: &str = "conformance_linux_http";
/// The unit tests of `backend-linux`, many of which are about the kernel: a program like the others.
const UNIT_TESTS: &str = "backend_linux";
/// No test program but treated as one: the main job, step by step.
const DEMO: &str = "demo";

/// Test programs that are not run there, and why.
const NOT_THERE: &[(&str, &str)] = &[
    ("architecture", "it is about our sources"),
    ("documents", "it is about our sources"),
    ("conformance_fake", "the fake is nothing to a kernel"),
    ("conformance_fake_http", "the fake is nothing to a kernel"),
    ("conformance_linux", "conformance_linux_http is the same, and HTTP beside it"),
];

/// Those that the test command leaves to `cargo xtask vm` where everything is emulated, since they take minutes there and
/// are the least about the kernel.
const LONG: &[(&str, &str)] = &[
    ("cni_faults", "it starts and kills servers"),
    (
        "conformance_linux_iptables",
        "it is the network's part of conformance_linux_http with the other firewall",
    ),
    ("conformance_linux_ids", "it is conformance_linux_http with ranges of ids, which have the program ids"),
    ("descriptors", "it opens thousands of streams"),
    ("prepared", "it starts and kills servers"),
    ("streams", "it moves hundreds of megabytes, and waits for readers that do not read"),
    ("survival", "it starts and kills a hundred servers"),
    ("vanishing", "it starts and kills servers"),
];

/// `cargo xtask vm`: everything, or `--test PROGRAM`, repeatable, and then names of single tests, as for `cargo test`.
pub fn vm(arguments: &[String]) -> Outcome {
    prepare()?;
    let pairs = arguments.chunks_exact(2).take_while(|pair| pair[0] == "--test");
    let named: Vec<&str> = pairs.map(|pair| pair[1].as_str()).collect();
    let names = &arguments[2 * named.len()..];
    let (stage, programs) = stage::lay_out(&named)?;
    let programs = if named.is_empty() { without(programs, NOT_THERE) } else { programs };
    machine::run_all(&stage, &programs, names)?.1
}

/// What everybody runs who runs the tests.
pub fn in_test() -> Outcome {
    let (stage, programs) = stage::lay_out(&[])?;
    let mut programs = without(programs, NOT_THERE);
    if !image::has_kvm() {
        programs = without(programs, LONG);
        let rest: String = LONG.iter().map(|(program, _)| format!(" --test {program}")).collect();
        println!(
            "stock kernel: everything is emulated here: to run the last {}: cargo xtask vm{rest}",
            LONG.len()
        );
    }
    machine::run_all(&stage, &programs, &[])?.1
}

/// What the conformance suite prints there.
pub fn conformance() -> Result<String, String> {
    let (stage, programs) = stage::lay_out(&[CONFORMANCE])?;
    let (printed, ended) = machine::run_all(&stage, &programs, &[])?;
    // A behaviour that failed is in what was printed, and of no less interest than the others.
    if printed.contains("\ntest result: ") { Ok(printed) } else { ended.map(|()| printed) }
}

/// Says what is left out, and why.
fn without(mut programs: Vec<String>, left_out: &[(&str, &str)]) -> Vec<String> {
    for (program, why) in left_out {
        println!("stock kernel: {program} is left out: {why}");
    }
    programs.retain(|program| left_out.iter().all(|(name, _)| name != program));
    programs
}

/// A setting of the environment.
fn setting(variable: &str, default: &str) -> String {
    env::var(variable).unwrap_or_else(|_| default.to_owned())
}

fn scripts() -> PathBuf {
    shell::root().join("tests/vm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_a_program() {
        for (program, _) in NOT_THERE.iter().chain(LONG) {
            let source = shell::root().join("tests/tests").join(format!("{program}.rs"));
            assert!(source.is_file(), "there is no {}", source.display());
        }
    }

    #[test]
    fn what_is_left_out_is_not_run_and_the_rest_is() {
        let all = ["ids", "streams", "survival"].map(str::to_owned).to_vec();
        assert_eq!(without(all, &[("streams", "too long"), ("never", "not there")]), ["ids", "survival"]);
    }
}
