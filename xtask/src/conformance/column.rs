//! One column of the conformance table: a test program, run, and what became of each of its behaviours.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use crate::{shell, shell::TempDir};

/// What became of a behaviour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Passed,
    Failed,
    /// With the reason.
    Skipped(String),
}

/// Behaviours by name, `theme::what_is_done`.
pub type Ends = BTreeMap<String, End>;

/// A test program at work.
pub struct Running {
    child: Child,
    directory: TempDir,
}

impl Running {
    /// Starts a test program with these variables in its environment. What it prints goes to a file.
    pub fn start(name: &str, program: &PathBuf, variables: &[(&str, &str)]) -> Result<Running, String> {
        let directory = TempDir::new(&format!("column-{}", name.replace(' ', "-")))?;
        let file = std::fs::File::create(directory.path("output"));
        let output = file.map_err(|error| format!("cannot keep what {name} prints: {error}"))?;
        let child = Command::new(program)
            .arg("--show-output")
            // Most of the time a behaviour waits for a server.
            .args(["--test-threads", "4"])
            .envs(variables.iter().copied())
            .current_dir(shell::root().join("tests"))
            .stdin(Stdio::null())
            .stdout(output)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        Ok(Running { child, directory })
    }

    /// Waits for its end: what became of each behaviour, and everything that it printed.
    pub fn finish(mut self) -> Result<(Ends, String), String> {
        self.child.wait().map_err(|error| format!("cannot wait for a test program: {error}"))?;
        let output = std::fs::read(self.directory.path("output"));
        let output = output.map_err(|error| format!("cannot read what a test program printed: {error}"))?;
        let output = String::from_utf8_lossy(&output).into_owned();
        Ok((read(&output)?, output))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only where a command failed half-way; errors have nowhere better to go.
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What became of each behaviour, from what a test program printed with `--show-output`.
pub fn read(output: &str) -> Result<Ends, String> {
    let ends = parse(output);
    if ends.is_empty() { Err(format!("no behaviour was run:\n{output}")) } else { Ok(ends) }
}

/// Reads what libtest prints with `--show-output`: a line for each test, and then what each has printed.
fn parse(output: &str) -> Ends {
    let mut ends = Ends::new();
    let mut printing = "";
    for line in output.lines() {
        if let Some((name, end)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            let end = if end == "ok" { End::Passed } else { End::Failed };
            ends.insert(name.to_owned(), end);
        } else if let Some(name) =
            line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            printing = name;
        } else if let (Some(reason), Some(end)) = (line.strip_prefix("skipped: "), ends.get_mut(printing))
            && *end == End::Passed
        {
            *end = End::Skipped(reason.to_owned());
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libtest_prints_is_understood() {
        let output = "\nrunning 3 tests\ntest files::one ... ok\ntest files::two ... FAILED\ntest files::three ... ok\n\
            \nsuccesses:\n\n---- files::three stdout ----\nskipped: no kernel\n\n\nsuccesses:\n    files::one\n\
            \nfailures:\n\n---- files::two stdout ----\nskipped: not really\n\ntest result: FAILED. 2 passed; 1 failed\n";
        let expected = [
            ("files::one", End::Passed),
            ("files::three", End::Skipped("no kernel".to_owned())),
            ("files::two", End::Failed),
        ];
        assert_eq!(parse(output), expected.map(|(name, end)| (name.to_owned(), end)).into());
    }
}
