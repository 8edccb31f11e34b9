//! What the documents say of the tests, held against the tests.

#![allow(clippy::expect_used)]

use std::collections::BTreeSet;

use tests::behaviours;

const CONFORMANCE: &str = include_str!("../../docs/CONFORMANCE.md");

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
    assert_eq!(rows, behaviours, "run cargo xtask conformance, and commit what it writes");
}
