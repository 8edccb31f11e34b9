//! The machines, and what is run in each.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
};

use super::{scripts, setting};
use crate::{Outcome, shell};

/// How many test programs one runs: many, since each must boot; not all, since one that hangs takes its other ones along.
const PROGRAMS_EACH: usize = 12;
/// How long one may run, in seconds.
const LONGEST: &str = "3000";
/// In MiB.
const MEMORY: &str = "2048";
const CPUS: &str = "2";

/// Runs test programs in machines that see the folder `stage`, one after the other, and prints what they print: that,
/// and how it ended. `names`: of single tests; none: all of those programs.
pub fn run_all(stage: &Path, programs: &[String], names: &[String]) -> Result<(String, Outcome), String> {
    let (mut printed, mut all) = (String::new(), Ok(()));
    for some in programs.chunks(PROGRAMS_EACH) {
        let (more, ended) = run(stage, some, names)?;
        printed.push_str(&more);
        all = all.and(ended);
    }
    Ok((printed, all))
}

fn run(stage: &Path, programs: &[String], names: &[String]) -> Result<(String, Outcome), String> {
    let mut vmrun = shell::command(scripts().join("vmrun"));
    vmrun.args(["--cpus", &setting("VM_CPUS", CPUS), "--mem", &setting("VM_MEMORY", MEMORY)]);
    vmrun.args(["--time", &setting("VM_TIME", LONGEST), "--share"]).arg(stage);
    vmrun.arg("--").arg(stage.join("inside"));
    vmrun.args(programs.iter().flat_map(|program| ["--test", program])).args(names);
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
