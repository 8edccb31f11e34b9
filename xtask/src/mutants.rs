//! `cargo xtask mutants`: does each defence and each limit have a test that sees it go? Every mutation of
//! `tests/mutants.txt` is made in a copy of the tree, one after another, and the test that it names has to fail.

use std::{fs, path::PathBuf, process::Stdio};

use crate::{Outcome, shell};

/// One change of the source that must not go unnoticed.
struct Mutant {
    name: String,
    file: String,
    from: String,
    to: String,
    /// A test binary, and a test of it.
    test: (String, String),
}

/// Makes those whose name contains `wanted`.
pub fn mutants(wanted: Option<&str>) -> Outcome {
    if !shell::is_root() {
        return Err("the tests make containers: sudo cargo xtask mutants".to_owned());
    }
    let list = fs::read_to_string(shell::root().join("tests/mutants.txt"));
    let mut mutants = parse(&list.map_err(|error| format!("cannot read tests/mutants.txt: {error}"))?)?;
    mutants.retain(|mutant| wanted.is_none_or(|wanted| mutant.name.contains(wanted)));
    let copy = Copy::make()?;
    copy.build()?;
    for mutant in &mutants {
        if !copy.passes(&mutant.test)? {
            return Err(format!("{} fails as it is, and so proves nothing", mutant.test.1));
        }
    }
    let mut survivors = Vec::new();
    for mutant in &mutants {
        let seen = copy.sees(mutant)?;
        println!(
            "{}  {}: {} {}",
            if seen { "seen    " } else { "SURVIVED" },
            mutant.name,
            mutant.test.0,
            mutant.test.1
        );
        if !seen {
            survivors.push(mutant.name.as_str());
        }
    }
    match survivors.as_slice() {
        [] => Ok(()),
        survivors => Err(format!("no test saw: {}", survivors.join("; "))),
    }
}

/// A paragraph for each: the name, `file: ...`, lines with `-` and with `+`, `test: BINARY NAME`.
fn parse(text: &str) -> Result<Vec<Mutant>, String> {
    let paragraphs = text.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty());
    let mutants = paragraphs.filter(|paragraph| !paragraph.starts_with("//"));
    mutants.map(|paragraph| parse_one(paragraph).ok_or_else(|| format!("no mutant: {paragraph}"))).collect()
}

fn parse_one(paragraph: &str) -> Option<Mutant> {
    let starting = |prefix: &str| -> Vec<&str> {
        paragraph.lines().skip(1).filter_map(|line| line.strip_prefix(prefix)).collect()
    };
    let (binary, test) = starting("test: ").first()?.split_once(' ')?;
    let from = starting("-").join("\n");
    (!from.is_empty()).then_some(())?;
    Some(Mutant {
        name: paragraph.lines().next()?.to_owned(),
        file: (*starting("file: ").first()?).to_owned(),
        from,
        to: starting("+").join("\n"),
        test: (binary.to_owned(), test.to_owned()),
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

    fn passes(&self, (binary, test): &(String, String)) -> Result<bool, String> {
        let place: &[&str] = match binary.as_str() {
            "backend-linux" => &["--package", "backend-linux", "--lib"],
            binary => &["--package", "tests", "--test", binary],
        };
        let mut built = self.cargo(&["test", "--quiet", "--no-run"]);
        shell::run(built.args(place))?;
        let mut cargo = self.cargo(&["test", "--quiet"]);
        let output = cargo.args(place).args(["--", "--exact", test]).stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("cannot start cargo: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !said.contains("running 1 test") {
            return Err(format!("there is no test {test} in {binary}"));
        }
        Ok(output.status.success())
    }

    fn sees(&self, mutant: &Mutant) -> Result<bool, String> {
        let file = self.tree.join(&mutant.file);
        let whole = fs::read_to_string(&file).map_err(|error| format!("cannot read {file:?}: {error}"))?;
        if whole.matches(&mutant.from).count() != 1 {
            return Err(format!("{}: not once in {}: {}", mutant.name, mutant.file, mutant.from));
        }
        let write =
            |text: &str| fs::write(&file, text).map_err(|error| format!("cannot write {file:?}: {error}"));
        write(&whole.replacen(&mutant.from, &mutant.to, 1))?;
        let passed = self.build().and_then(|()| self.passes(&mutant.test));
        write(&whole)?;
        Ok(!passed.map_err(|error| format!("{}: {error}", mutant.name))?)
    }
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
        assert_eq!(*test, ("kernel".to_owned(), "a_test".to_owned()));
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
