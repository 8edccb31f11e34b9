//! What the documents say of the tests, held against the tests.

#![allow(clippy::expect_used)]

use std::{collections::BTreeSet, fs, path::Path};

use tests::behaviours;

const CONFORMANCE: &str = include_str!("../../docs/CONFORMANCE.md");
const BEHAVIOUR: &str = include_str!("../../docs/BEHAVIOUR.md");
const BEHAVIOUR_TESTS: &str = include_str!("../../docs/BEHAVIOUR-TESTS.md");
const DEFENCES: &str = include_str!("../../docs/DEFENCES.md");
const MUTANTS: &str = include_str!("../mutants.txt");

#[test]
fn the_conformance_table_has_a_row_for_each_behaviour() {
    let mut theme = "";
    let mut rows = BTreeSet::new();
    for line in CONFORMANCE.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            theme = heading;
        }
        let name = line.strip_prefix("| ").and_then(|row| row.split(" |").next());
        if let Some(name) = name.filter(|name| *name != "behaviour") {
            rows.insert(format!("{theme}::{}", name.replace(' ', "_")));
        }
    }
    let behaviours: BTreeSet<String> = behaviours::ALL.iter().map(|name| (*name).to_owned()).collect();
    let different: Vec<_> = rows.symmetric_difference(&behaviours).collect();
    assert!(different.is_empty(), "run cargo xtask conformance, and commit what it writes: {different:?}");
}

/// The sentences of a text, each with the heading that it is under. A sentence ends with a list item, a paragraph, or a
/// full stop before a space that is not that of "e.g.". What comes before the first heading is about the document.
fn sentences(text: &str) -> Vec<(String, String)> {
    let mut heading = String::new();
    let mut sentences = Vec::new();
    let mut sentence = String::new();
    for line in text.lines() {
        let item = line.strip_prefix("- ");
        if (item.is_some() || line.is_empty() || line.starts_with('#')) && !sentence.is_empty() {
            sentences.push((heading.clone(), std::mem::take(&mut sentence)));
        }
        if let Some(title) = line.strip_prefix("## ") {
            title.clone_into(&mut heading);
        } else if !heading.is_empty() {
            for word in item.unwrap_or(line).split_whitespace() {
                if !sentence.is_empty() {
                    sentence.push(' ');
                }
                sentence.push_str(word);
                if (word.ends_with('.') || word.ends_with(".)")) && word != "e.g." {
                    sentences.push((heading.clone(), std::mem::take(&mut sentence)));
                }
            }
        }
    }
    if !sentence.is_empty() {
        sentences.push((heading, sentence));
    }
    sentences
}

/// A sentence, and what is listed under it.
struct Entry {
    heading: String,
    sentence: String,
    holds: Vec<String>,
}

/// The entries of docs/BEHAVIOUR-TESTS.md: quoted sentences with lists.
fn entries(text: &str) -> Vec<Entry> {
    let mut heading = "";
    let mut entries: Vec<Entry> = Vec::new();
    let mut in_quote = false;
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            heading = title;
        } else if let (Some(quoted), Some(entry), true) =
            (line.strip_prefix("> "), entries.last_mut(), in_quote)
        {
            entry.sentence = format!("{} {quoted}", entry.sentence);
        } else if let Some(quoted) = line.strip_prefix("> ") {
            entries.push(Entry { heading: heading.into(), sentence: quoted.into(), holds: Vec::new() });
        } else if let (Some(item), Some(entry)) = (line.strip_prefix("- "), entries.last_mut()) {
            entry.holds.push(item.into());
        }
        in_quote = line.starts_with("> ");
    }
    entries
}

/// Whether a source has a test of that name.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let begins = |line: &str| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("fn ")
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with('('))
    };
    let attributes = |at: usize| {
        lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"))
    };
    lines.iter().enumerate().any(|(at, line)| {
        begins(line)
            && attributes(at).any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}

fn file_has_test(file: &str, name: &str) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let source = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    has_test(&source, name)
}

#[test]
fn each_sentence_of_the_contract_is_listed_once_in_its_order() {
    let listed: Vec<_> =
        entries(BEHAVIOUR_TESTS).into_iter().map(|entry| (entry.heading, entry.sentence)).collect();
    let wanted = sentences(BEHAVIOUR);
    assert!(wanted.len() > 100, "the sentences were found");
    for (listed, wanted) in listed.iter().zip(&wanted) {
        assert_eq!(listed, wanted, "docs/BEHAVIOUR-TESTS.md does not follow docs/BEHAVIOUR.md");
    }
    assert_eq!(listed.len(), wanted.len(), "docs/BEHAVIOUR-TESTS.md ends too early or too late");
}

#[test]
fn what_is_said_to_hold_a_sentence_is_there() {
    for Entry { sentence, holds, .. } in entries(BEHAVIOUR_TESTS) {
        assert!(!holds.is_empty(), "nothing is listed under: {sentence}");
        for item in holds {
            if item.starts_with("not yet: ") {
                continue;
            }
            let name = item.strip_prefix('`').and_then(|item| item.strip_suffix('`'));
            let name = name.unwrap_or_else(|| panic!("neither `a test` nor \"not yet: what\": {item}"));
            let there = match name.split_once(": ") {
                Some((file, test)) => file_has_test(file, test),
                None => behaviours::ALL.contains(&name),
            };
            assert!(there, "there is no test {name}, which is said to hold: {sentence}");
        }
    }
}

/// The cells of the table of attacks, without its heading.
fn attacks() -> Vec<Vec<&'static str>> {
    let rows = DEFENCES.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

#[test]
fn each_attack_has_tests_and_each_attempt_to_break_out_is_listed() {
    let mut listed = BTreeSet::new();
    for row in attacks() {
        let [attack, _, tests, _] = row.as_slice() else { panic!("not four columns: {row:?}") };
        for test in tests.split(", ") {
            let name = test.strip_prefix('`').and_then(|test| test.strip_suffix('`'));
            let (file, name) = name.and_then(|name| name.split_once(": ")).expect("`file: test`");
            assert!(
                file_has_test(file, name),
                "there is no test {name} in {file}, which is said to make: {attack}"
            );
            listed.insert(name);
        }
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for entry in fs::read_dir(directory).expect("the tests").flatten() {
        if entry.file_name().to_string_lossy().starts_with("breakout") {
            let source = fs::read_to_string(entry.path()).expect("a test");
            let functions = source.lines().map(|line| line.trim_start_matches("async "));
            for name in functions.filter_map(|line| line.strip_prefix("fn ")?.split_once('(')) {
                let (name, _) = name;
                assert!(listed.contains(name) || !has_test(&source, name), "docs/DEFENCES.md lacks {name}");
            }
        }
    }
}

/// The names of the defences that a debug build can leave out.
fn defences() -> Vec<&'static str> {
    let source = include_str!("../../backend-linux/src/defence.rs");
    let (_, variants) = source.split_once("pub enum Defence {").expect("the defences");
    let (variants, _) = variants.split_once('}').expect("their end");
    variants.lines().filter_map(|line| line.trim().strip_suffix(',')).collect()
}

#[test]
fn each_defence_that_can_be_left_out_is_left_out_for_an_attack() {
    for name in defences() {
        let named = format!("`{name}`");
        assert!(
            attacks().iter().any(|row| row[3].contains(&named)),
            "no attack is seen to succeed without {name}"
        );
    }
}

#[test]
fn what_an_attack_is_seen_to_succeed_without_is_a_defence_or_a_mutant() {
    let mutants: Vec<&str> =
        MUTANTS.split("\n\n").filter_map(|paragraph| paragraph.trim().lines().next()).collect();
    for row in attacks() {
        for name in row[3].split('`').skip(1).step_by(2) {
            assert!(defences().contains(&name) || mutants.contains(&name), "neither of them: {name}");
        }
    }
}

#[test]
fn sentences_end_where_a_reader_would_end_them() {
    let text = "# Title\nAbout.\n\n## One\n- First `a.b` of it, e.g. this;\n  still. (Second.) Third\n- Fourth.\n\n## Two\nFifth,\nsixth.";
    let found: Vec<String> =
        sentences(text).into_iter().map(|(heading, sentence)| format!("{heading}: {sentence}")).collect();
    let wanted = [
        "One: First `a.b` of it, e.g. this; still.",
        "One: (Second.)",
        "One: Third",
        "One: Fourth.",
        "Two: Fifth, sixth.",
    ];
    assert_eq!(found, wanted);
}
