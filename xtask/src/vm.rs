//! `cargo xtask vm`: the privileged tests on Debian's stock kernel, in a machine that is emulated where it must be.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
};

use crate::{
    Outcome,
    build::{self, Profile},
    setup, shell,
};

/// The test programs that `cargo xtask test` runs there: those that a kernel, its cgroups v2 and its AppArmor can make
/// a difference to. All others take too long where every system call is emulated: they are for `cargo xtask vm`.
const IN_TEST: &[&str] = &["apparmor", "confinement", "devices", "ids", "kernel", "surface"];
/// The conformance suite there: through HTTP, which is all of it.
const CONFORMANCE: &str = "conformance_linux_http";
/// How long all that may take.
const TEST_SECONDS: &str = "900";

/// Runs `tests/vm/inside` in the machine. Arguments go to it: test programs and names of single tests, as for
/// `cargo test`.
pub fn vm(arguments: &[String]) -> Outcome {
    prepare()?;
    let seconds = env::var("VM_TIME").unwrap_or_else(|_| "3000".to_owned());
    run(arguments, &seconds)?.1
}

/// What everybody runs who runs the tests.
pub fn in_test() -> Outcome {
    let programs = [CONFORMANCE].into_iter().chain(IN_TEST.iter().copied());
    let arguments: Vec<String> = programs.flat_map(|name| ["--test".to_owned(), name.to_owned()]).collect();
    run(&arguments, TEST_SECONDS)?.1
}

/// What the conformance suite prints there.
pub fn conformance() -> Result<String, String> {
    let (printed, ended) = run(&["--test".to_owned(), CONFORMANCE.to_owned()], TEST_SECONDS)?;
    // A behaviour that failed is in what was printed, and of no less interest than the others.
    if printed.contains("\ntest result: ") { Ok(printed) } else { ended.map(|()| printed) }
}

/// Whether the machine can be run as it is.
pub fn image_is_there() -> bool {
    let image = image_folder().is_ok_and(|folder| folder.join("root.img").exists());
    image && shell::is_root() && shell::find("qemu-system-x86_64").is_some()
}

/// Prepares the machine's image, once. The reason why not is for people.
pub fn prepare() -> Outcome {
    if !shell::is_root() {
        return Err("the machine's image is made with Debian's package tools, as root: sudo cargo xtask vm"
            .to_owned());
    }
    image_folder()?;
    if !image_is_there() {
        if shell::find("apt-get").is_none() {
            return Err(
                "the machine's image is made with Debian's package tools, which are not here".to_owned()
            );
        }
        println!("vm: making the machine's image, once; this takes minutes");
        shell::run(&mut shell::command(scripts().join("vmprepare")))?;
    }
    Ok(())
}

/// Runs something in the machine, and prints what it prints: that, and how it ended.
fn run(arguments: &[String], seconds: &str) -> Result<(String, Outcome), String> {
    setup::setup(&setup::DEMO)?;
    build::workspace(Profile::Debug)?;
    let stage = lay_out(arguments)?;
    let mut vmrun = shell::command(scripts().join("vmrun"));
    for (option, variable, default) in [("--mem", "VM_MEMORY", "2048"), ("--cpus", "VM_CPUS", "2")] {
        vmrun.arg(option).arg(env::var(variable).unwrap_or_else(|_| default.to_owned()));
    }
    vmrun
        .args(["--time", seconds, "--share"])
        .arg(&stage)
        .arg("--")
        .arg(stage.join("inside"))
        .args(arguments);
    let failed = |error: std::io::Error| format!("cannot run the machine: {error}");
    let mut machine = vmrun.stdout(Stdio::piped()).spawn().map_err(failed)?;
    let mut printed = String::new();
    if let Some(output) = machine.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line.map_err(failed)?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            printed.push_str(&line);
            printed.push('\n');
        }
    }
    let status = machine.wait().map_err(failed)?;
    let ended = if status.success() { Ok(()) } else { Err(format!("the machine ended with {status}")) };
    Ok((printed, ended))
}

fn scripts() -> PathBuf {
    shell::root().join("tests/vm")
}

/// Where vmprepare puts the image.
fn image_folder() -> Result<PathBuf, String> {
    match (env::var_os("VM_DIR"), env::var_os("HOME")) {
        (Some(folder), _) => Ok(folder.into()),
        (None, Some(home)) => Ok(Path::new(&home).join(".cache/vm")),
        (None, None) => Err("neither VM_DIR nor HOME is set".to_owned()),
    }
}

/// A folder with the programs and the tests that are asked for, without their debug information: an emulated machine
/// reads slowly.
fn lay_out(arguments: &[String]) -> Result<PathBuf, String> {
    let stage = shell::target()?.join("vm");
    if stage.exists() {
        fs::remove_dir_all(&stage).map_err(|e| format!("cannot empty {}: {e}", stage.display()))?;
    }
    let tests = stage.join("tests");
    fs::create_dir_all(&tests).map_err(|e| format!("cannot make {}: {e}", tests.display()))?;
    // What follows are names of single tests.
    let pairs = arguments.chunks_exact(2).take_while(|pair| pair[0] == "--test");
    let programs: Vec<&str> = pairs.flatten().map(String::as_str).collect();
    for (name, file) in build::test_programs(&programs)? {
        strip(&file, &tests.join(name))?;
    }
    let mut binaries = vec!["garden-server", "garden-init", "garden", "attack"];
    if programs.is_empty() {
        // cargo has built the examples along with all tests.
        binaries.push("examples/demo");
    }
    for binary in binaries {
        let name = binary.trim_start_matches("examples/");
        strip(&build::binary(Profile::Debug, binary)?, &stage.join(name))?;
    }
    let inside = stage.join("inside");
    fs::copy(shell::root().join("tests/vm/inside"), &inside)
        .map_err(|e| format!("cannot copy tests/vm/inside: {e}"))?;
    Ok(stage)
}

fn strip(from: &Path, to: &Path) -> Outcome {
    shell::run(shell::command("strip").args(["--strip-debug", "-o"]).arg(to).arg(from))
}
