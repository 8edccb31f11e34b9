//! `cargo xtask mutants`: does each defence and each limit have a test that sees it go? Every mutation of
//! `tests/mutants.txt` is made in a copy of the tree, one after another, and the test that it names has to fail.

use std::{fs, path::PathBuf, process::Stdio};

use crate::{Outcome, shell};

/// The most that is shown of it.
const COMPLAINT_CHARACTERS: usize = 300;

/// One change of the source that must not go unnoticed.
struct Mutant {
    name: String,
    file: String,
    from: String,
    to: String,
    test: Test,
}

#[derive(Debug, PartialEq)]
struct Test {
    binary: String,
    name: String,
    /// Only on the stock kernel.
    in_vm: bool,
}

/// How a test ended.
enum Ended {
    Passed,
    /// With what it says about that.
    Failed(String),
}

/// Makes those whose names contain one of `wanted`, or all.
pub fn mutants(wanted: &[String]) -> Outcome {
    if !shell::is_root() {
        return Err("the tests make containers: sudo cargo xtask mutants".to_owned());
    }
    let list = fs::read_to_string(shell::root().join("tests/mutants.txt"));
    let mut mutants = parse(&list.map_err(|error| format!("cannot read tests/mutants.txt: {error}"))?)?;
    mutants.retain(|mutant| wanted.is_empty() || wanted.iter().any(|name| mutant.name.contains(name)));
    let copy = Copy::make()?;
    copy.build()?;
    let mut sound: Vec<&Test> = Vec::new();
    for Mutant { test, .. } in &mutants {
        if !sound.contains(&test) {
            if let Ended::Failed(why) = copy.run(test)? {
                return Err(format!("{} fails as it is, and so proves nothing: {why}", test.name));
            }
            sound.push(test);
        }
    }
    let mut survivors = Vec::new();
    for mutant in &mutants {
        let (seen, why) = match copy.run_changed(mutant) {
            Ok(Ended::Failed(why)) => ("seen", why),
            Ok(Ended::Passed) => ("SURVIVED", String::new()),
            Err(error) => ("NOT MADE", error),
        };
        println!("{seen:8}  {}: {} {}: {why}", mutant.name, mutant.test.binary, mutant.test.name);
        if seen != "seen" {
            survivors.push(mutant.name.as_str());
        }
    }
    match survivors.as_slice() {
        [] => Ok(()),
        survivors => Err(format!("no test saw: {}", survivors.join("; "))),
    }
}

/// A paragraph for each: the name, `file: ...`, lines with `-` and with `+`, `test: BINARY NAME`, or `vm: BINARY NAME`.
fn parse(text: &str) -> Result<Vec<Mutant>, String> {
    let paragraphs = text.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty());
    let mutants = paragraphs.filter(|paragraph| !paragraph.starts_with("//"));
    mutants.map(|paragraph| parse_one(paragraph).ok_or_else(|| format!("no mutant: {paragraph}"))).collect()
}

fn parse_one(paragraph: &str) -> Option<Mutant> {
    let starting = |prefix: &str| -> Vec<&str> {
        paragraph.lines().skip(1).filter_map(|line| line.strip_prefix(prefix)).collect()
    };
    let (here, in_vm) = (starting("test: "), starting("vm: "));
    let (binary, name) = here.first().or(in_vm.first())?.split_once(' ')?;
    let from = starting("-").join("\n");
    (!from.is_empty()).then_some(())?;
    Some(Mutant {
        name: paragraph.lines().next()?.to_owned(),
        file: (*starting("file: ").first()?).to_owned(),
        from,
        to: starting("+").join("\n"),
        test: Test { binary: binary.to_owned(), name: name.to_owned(), in_vm: here.is_empty() },
    })
}

/// The tree again, with a target folder of its own: what is built of mutants must not be mistaken for the project's.
struct Copy {
    tree: PathBuf,
    target: PathBuf,
}

impl Copy {
    fn make() -> Result<Copy, String> {
        let base = shell::target()?.join("mutants");
        let copy = Copy { tree: base.join("tree"), target: base.join("target") };
        if copy.tree.exists() {
            fs::remove_dir_all(&copy.tree)
                .map_err(|error| format!("cannot empty {:?}: {error}", copy.tree))?;
        }
        let files = shell::output(shell::command("git").arg("ls-files"))?;
        for file in files.lines() {
            let (from, to) = (shell::root().join(file), copy.tree.join(file));
            let copied = fs::create_dir_all(to.parent().unwrap_or(&to)).and_then(|()| fs::copy(&from, &to));
            copied.map_err(|error| format!("cannot copy {file}: {error}"))?;
        }
        Ok(copy)
    }

    fn cargo(&self, arguments: &[&str]) -> std::process::Command {
        let mut cargo = shell::cargo();
        cargo.current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.target).args(arguments);
        cargo
    }

    fn build(&self) -> Outcome {
        let mut cargo = self.cargo(&[
            "build",
            "--quiet",
            "--bins",
            "--package",
            "backend-linux",
            "--package",
            "garden-server",
        ]);
        shell::run(&mut cargo)
    }

    fn run(&self, test: &Test) -> Result<Ended, String> {
        let (binary, name) = (test.binary.as_str(), test.name.as_str());
        let place: &[&str] = match binary {
            "backend-linux" => &["--package", "backend-linux", "--lib"],
            binary => &["--package", "tests", "--test", binary],
        };
        let mut command = match test.in_vm {
            // The copy's own command, which builds the copy.
            true => self.cargo(&["xtask", "vm", "--test", binary, "--exact", name]),
            false => {
                let mut built = self.cargo(&["test", "--quiet", "--no-run"]);
                shell::run(built.args(place))?;
                let mut cargo = self.cargo(&["test"]);
                cargo.args(place).args(["--", "--exact", name]);
                cargo
            }
        };
        let output = command.stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("cannot start cargo: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        // A machine that failed to start, and a mutant that cannot be built, are no test that fails.
        if said.contains("test result: ok. 1 passed") {
            return Ok(Ended::Passed);
        }
        if said.contains("test result: FAILED. 0 passed; 1 failed") {
            return Ok(Ended::Failed(complaint(&said)));
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(format!("no test {name} ran in {binary}: {}", errors.lines().last().unwrap_or_default()))
    }

    fn run_changed(&self, mutant: &Mutant) -> Result<Ended, String> {
        let file = self.tree.join(&mutant.file);
        let whole = fs::read_to_string(&file).map_err(|error| format!("cannot read {file:?}: {error}"))?;
        if whole.matches(&mutant.from).count() != 1 {
            return Err(format!("not once in {}: {}", mutant.file, mutant.from));
        }
        let write =
            |text: &str| fs::write(&file, text).map_err(|error| format!("cannot write {file:?}: {error}"));
        write(&whole.replacen(&mutant.from, &mutant.to, 1))?;
        let ended = self.build().and_then(|()| self.run(&mutant.test));
        write(&whole)?;
        ended
    }
}

/// What a test that failed says first, so that people see whether that is what the mutant does.
fn complaint(said: &str) -> String {
    let after = said.split_once("panicked at ").map_or("", |(_, after)| after);
    let lines = after.lines().skip(1).map(str::trim);
    let own: Vec<&str> =
        lines.take_while(|line| !line.starts_with("stack backtrace") && !line.starts_with("note:")).collect();
    own.join(" ").chars().take(COMPLAINT_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paragraph_is_a_mutant_and_a_comment_is_none() {
        let text = "// what this is\n\nno filter\nfile: a/b.rs\n-    x?;\n-    y?;\n+    z;\ntest: kernel a_test\n\n";
        let mutants = parse(text).unwrap();
        let [Mutant { name, file, from, to, test }] = &mutants[..] else { panic!("{}", mutants.len()) };
        assert_eq!((name.as_str(), file.as_str()), ("no filter", "a/b.rs"));
        assert_eq!((from.as_str(), to.as_str()), ("    x?;\n    y?;", "    z;"));
        let expected = Test { binary: "kernel".to_owned(), name: "a_test".to_owned(), in_vm: false };
        assert_eq!(*test, expected);
        let in_vm = parse(&text.replace("test: ", "vm: ")).unwrap();
        assert_eq!(in_vm[0].test, Test { in_vm: true, ..expected });
        assert!(parse("nothing\nfile: a\n").is_err());
    }

    #[test]
    fn every_mutant_of_the_list_can_be_made() {
        let list = fs::read_to_string(shell::root().join("tests/mutants.txt")).unwrap();
        for mutant in parse(&list).unwrap() {
            let file = fs::read_to_string(shell::root().join(&mutant.file)).unwrap();
            assert_eq!(file.matches(&mutant.from).count(), 1, "{}: {}", mutant.name, mutant.file);
        }
    }
}
