//! Building, and finding what was built.

use std::path::{Path, PathBuf};

use crate::{Outcome, elf, shell};

/// Which of cargo's two standard profiles.
#[derive(Clone, Copy)]
pub enum Profile {
    /// For tests: builds fast.
    Debug,
    /// For what is measured and shown.
    Release,
}

impl Profile {
    fn folder(self) -> &'static str {
        match self {
            Profile::Debug => "debug",
            Profile::Release => "release",
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Profile::Debug => &[],
            Profile::Release => &["--release"],
        }
    }
}

/// Builds the whole workspace. One set of features for everything that is built here and by the tests, so that
/// nothing is built twice.
pub fn workspace(profile: Profile) -> Outcome {
    shell::run(shell::cargo().args(["build", "--workspace"]).args(profile.flags()))?;
    check_supervisor(profile)
}

/// Builds the product and some programs beside it, with optimisation: what is shown and measured. Always the same
/// packages, so that the features of what they depend on are the same and nothing is built twice.
pub fn release(programs: &[&str]) -> Outcome {
    let mut build = shell::cargo();
    build.args(["build", "--release", "--example", "demo"]);
    for package in ["garden-server", "backend-linux", "garden-client", "tests"] {
        build.args(["--package", package]);
    }
    for program in ["garden-server", "garden-init", "garden"].iter().chain(programs) {
        build.args(["--bin", program]);
    }
    shell::run(&mut build)?;
    check_supervisor(Profile::Release)
}

/// A program that was built, or one of cargo's examples (`examples/demo`).
pub fn binary(profile: Profile, name: &str) -> Result<PathBuf, String> {
    let file = shell::target()?.join(profile.folder()).join(name);
    if file.is_file() { Ok(file) } else { Err(format!("{} was not built", file.display())) }
}

/// The programs of the `tests` crate, all or some (`--test NAME`), as cargo reports them: name and file. With all comes
/// that of `backend-linux`'s own unit tests, many of which are about the kernel.
pub fn test_programs(which: &[&str]) -> Result<Vec<(String, PathBuf)>, String> {
    let mut cargo = shell::cargo();
    cargo.args(["test", "--workspace", "--no-run", "--message-format=json"]).args(which);
    let report = shell::output(&mut cargo)?;
    let (tests, unit_tests) =
        (shell::root().join("tests/tests"), shell::root().join("backend-linux/src/lib.rs"));
    let program = |line: &str| {
        let target = &line[line.find("\"target\":")?..];
        let source = Path::new(field(target, "\"src_path\":\"")?);
        // A library has no executable unless it is built for its tests.
        let executable = PathBuf::from(field(target, "\"executable\":\"")?);
        let wanted = source.starts_with(&tests) || source == unit_tests;
        wanted.then_some((field(target, "\"name\":\"")?.to_owned(), executable))
    };
    Ok(report.lines().filter_map(program).collect())
}

/// The text after `key` up to the next quote. cargo's names and our paths hold nothing that JSON escapes.
fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let rest = &line[line.find(key)? + key.len()..];
    rest.split('"').next()
}

/// garden-init is executed where none of the host's libraries is: a dynamic one would fail there, late and oddly.
fn check_supervisor(profile: Profile) -> Outcome {
    let file = binary(profile, "garden-init")?;
    if !elf::is_static(&file).map_err(|e| format!("cannot read {}: {e}", file.display()))? {
        let why =
            "was linked dynamically: .cargo/rustc should have seen to that; is RUSTC_WORKSPACE_WRAPPER set?";
        return Err(format!("{} {why}", file.display()));
    }
    Ok(())
}
