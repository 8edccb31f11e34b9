//! What the machine is shown of the host: a folder with the programs and tests.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{DEMO, UNIT_TESTS, scripts};
use crate::{
    Outcome,
    build::{self, Profile},
    setup, shell,
};

/// Builds and lays out the test programs of these names, or all where there are none, and what they need: without debug
/// information, since an emulated machine reads slowly. Answers the folder and the names of the test programs in it.
pub fn lay_out(programs: &[&str]) -> Result<(PathBuf, Vec<String>), String> {
    setup::setup(&setup::DEMO)?;
    build::workspace(Profile::Debug)?;
    let stage = shell::target()?.join("vm");
    if stage.exists() {
        fs::remove_dir_all(&stage).map_err(|e| format!("cannot empty {}: {e}", stage.display()))?;
    }
    let tests = stage.join("tests");
    fs::create_dir_all(&tests).map_err(|e| format!("cannot make {}: {e}", tests.display()))?;
    let which = programs.iter().flat_map(|&program| match program {
        UNIT_TESTS => vec!["--lib"],
        DEMO => vec!["--example", "demo"],
        program => vec!["--test", program],
    });
    let mut names = Vec::new();
    for (name, file) in build::test_programs(&which.collect::<Vec<_>>())? {
        strip(&file, &tests.join(&name))?;
        names.push(name);
    }
    for binary in ["garden-server", "garden-init", "garden", "attack", "web"] {
        strip(&build::binary(Profile::Debug, binary)?, &stage.join(binary))?;
    }
    if programs.is_empty() || programs.contains(&DEMO) {
        // cargo has built the examples along with all tests.
        strip(&build::binary(Profile::Debug, "examples/demo")?, &tests.join(DEMO))?;
        names.push(DEMO.to_owned());
    }
    names.sort();
    let inside = stage.join("inside");
    fs::copy(scripts().join("inside"), &inside).map_err(|e| format!("cannot copy tests/vm/inside: {e}"))?;
    Ok((stage, names))
}

fn strip(from: &Path, to: &Path) -> Outcome {
    shell::run(shell::command("strip").args(["--strip-debug", "-o"]).arg(to).arg(from))
}
