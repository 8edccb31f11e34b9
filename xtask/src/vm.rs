//! `cargo xtask vm`: the privileged tests on Debian's stock kernel, in a machine that is emulated where it must be.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::{
    Outcome,
    build::{self, Profile},
    setup, shell,
};

/// Prepares the machine's image once, lays out what runs in it, and runs `tests/vm/inside` there. Arguments go to
/// `inside`: names of single tests, as for `cargo test`.
pub fn vm(arguments: &[String]) -> Outcome {
    if !shell::is_root() {
        return Err("the machine's image is made with Debian's package tools, as root: sudo cargo xtask vm"
            .to_owned());
    }
    setup::setup(&setup::DEMO)?;
    let scripts = shell::root().join("tests/vm");
    if !image_folder()?.join("root.img").exists() {
        println!("vm: making the machine's image, once; this takes minutes");
        shell::run(&mut shell::command(scripts.join("vmprepare")))?;
    }
    build::workspace(Profile::Debug)?;
    let stage = lay_out()?;

    let mut vmrun = shell::command(scripts.join("vmrun"));
    for (option, variable, default) in
        [("--mem", "VM_MEMORY", "2048"), ("--cpus", "VM_CPUS", "2"), ("--time", "VM_TIME", "3000")]
    {
        vmrun.arg(option).arg(env::var(variable).unwrap_or_else(|_| default.to_owned()));
    }
    shell::run(vmrun.arg("--share").arg(&stage).arg("--").arg(stage.join("inside")).args(arguments))
}

/// Where vmprepare puts the image.
fn image_folder() -> Result<PathBuf, String> {
    match (env::var_os("VM_DIR"), env::var_os("HOME")) {
        (Some(folder), _) => Ok(folder.into()),
        (None, Some(home)) => Ok(Path::new(&home).join(".cache/vm")),
        (None, None) => Err("neither VM_DIR nor HOME is set".to_owned()),
    }
}

/// A folder with the programs and tests, without their debug information: an emulated machine reads slowly.
fn lay_out() -> Result<PathBuf, String> {
    let stage = shell::target()?.join("vm");
    if stage.exists() {
        fs::remove_dir_all(&stage).map_err(|e| format!("cannot empty {}: {e}", stage.display()))?;
    }
    let tests = stage.join("tests");
    fs::create_dir_all(&tests).map_err(|e| format!("cannot make {}: {e}", tests.display()))?;
    for (name, file) in build::test_programs(&[])? {
        strip(&file, &tests.join(name))?;
    }
    // cargo has built the examples along with the tests.
    for (name, built) in [
        ("garden-server", "garden-server"),
        ("garden-init", "garden-init"),
        ("garden", "garden"),
        ("attack", "attack"),
        ("demo", "examples/demo"),
    ] {
        strip(&build::binary(Profile::Debug, built)?, &stage.join(name))?;
    }
    let inside = stage.join("inside");
    fs::copy(shell::root().join("tests/vm/inside"), &inside)
        .map_err(|e| format!("cannot copy tests/vm/inside: {e}"))?;
    Ok(stage)
}

fn strip(from: &Path, to: &Path) -> Outcome {
    shell::run(shell::command("strip").args(["--strip-debug", "-o"]).arg(to).arg(from))
}
