//! The machine's image: whether it is there, and making it.

use std::{
    env,
    path::{Path, PathBuf},
};

use super::scripts;
use crate::{Outcome, shell};

/// Asks for the image to be made by whatever needs it.
const MAKE: &str = "VM_MAKE";

/// Whether the processor runs the machine by itself, rather than a program that plays the processor.
pub fn has_kvm() -> bool {
    shell::output(shell::command(scripts().join("vmrun")).arg("--accelerator"))
        .is_ok_and(|accelerator| accelerator.trim() == "kvm")
}

/// Makes the image where it is missing and whoever asked for a test will not mind: where the machine is not emulated,
/// or they say so. The error is why the machine cannot be had.
pub fn have_for_test() -> Outcome {
    let asked = env::var_os(MAKE).is_some_and(|value| !value.is_empty() && value != "0");
    if is_there() || has_kvm() || asked {
        return prepare();
    }
    Err(format!(
        "there is no image of its machine, which would be emulated here, for a quarter of an hour and more: \
         `cargo xtask vm` makes one, as does {MAKE}=1"
    ))
}

/// Makes the image, once. The error is for people.
pub fn prepare() -> Outcome {
    if !shell::is_root() {
        return Err("the machine's image is made with Debian's package tools, as root: sudo cargo xtask vm"
            .to_owned());
    }
    folder()?;
    if is_there() {
        return Ok(());
    }
    if shell::find("apt-get").is_none() {
        return Err("the machine's image is made with Debian's package tools, which are not here".to_owned());
    }
    println!("vm: making the machine's image, once; this takes minutes");
    shell::run(&mut shell::command(scripts().join("vmprepare")))
}

fn is_there() -> bool {
    let image = folder().is_ok_and(|folder| folder.join("root.img").exists());
    image && shell::find("qemu-system-x86_64").is_some()
}

/// Where vmprepare puts it.
fn folder() -> Result<PathBuf, String> {
    match (env::var_os("VM_DIR"), env::var_os("HOME")) {
        (Some(folder), _) => Ok(folder.into()),
        (None, Some(home)) => Ok(Path::new(&home).join(".cache/vm")),
        (None, None) => Err("neither VM_DIR nor HOME is set".to_owned()),
    }
}
