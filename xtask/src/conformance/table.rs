//! The conformance table, as Markdown.

use std::fmt::Write;

use super::column::{End, Ends};

/// A column's name, what it is, and its results.
pub struct Column {
    pub name: &'static str,
    pub what: &'static str,
    pub ends: Ends,
}

/// The page: what the columns are, a table for each theme, and why something was left out.
pub fn page(columns: &[Column]) -> String {
    let mut reasons: Vec<&str> = Vec::new();
    let mut page = "# Conformance\n\nWhat every Garden backend does, and who does it: the behaviours of \
        `tests/src/behaviours`, each written once.\nThis page is written by `cargo xtask conformance`.\n\n"
        .to_owned();
    for column in columns {
        push(&mut page, format_args!("- **{}**: {}\n", column.name, column.what));
    }
    let mut theme_before = "";
    for behaviour in behaviours(columns) {
        let (theme, name) = behaviour.split_once("::").unwrap_or(("", behaviour));
        if theme != theme_before {
            theme_before = theme;
            push(&mut page, format_args!("\n## {theme}\n\n| behaviour |"));
            columns.iter().for_each(|column| push(&mut page, format_args!(" {} |", column.name)));
            push(&mut page, format_args!("\n|---|{}\n", "---|".repeat(columns.len())));
        }
        push(&mut page, format_args!("| {} |", name.replace('_', " ")));
        for column in columns {
            match column.ends.get(behaviour) {
                Some(End::Passed) => page.push_str(" pass |"),
                Some(End::Failed) => page.push_str(" **fail** |"),
                Some(End::Skipped(reason)) => {
                    let number = reasons.iter().position(|known| known == reason).unwrap_or(reasons.len());
                    if number == reasons.len() {
                        reasons.push(reason);
                    }
                    push(&mut page, format_args!(" ({}) |", number + 1));
                }
                None => page.push_str(" |"),
            }
        }
        page.push('\n');
    }
    if !reasons.is_empty() {
        page.push_str("\n## Not run, and why\n\n");
        for (number, reason) in reasons.iter().enumerate() {
            push(&mut page, format_args!("{}. {reason}\n", number + 1));
        }
    }
    page
}

/// How many passed, failed and were left out.
pub fn count(ends: &Ends) -> (usize, usize, usize) {
    let number = |wanted: fn(&End) -> bool| ends.values().filter(|end| wanted(end)).count();
    let skipped = number(|end| matches!(end, End::Skipped(_)));
    (number(|end| *end == End::Passed), number(|end| *end == End::Failed), skipped)
}

/// Every column has the same ones; sorted by name, so that a new one changes one line.
fn behaviours(columns: &[Column]) -> impl Iterator<Item = &str> {
    columns.first().into_iter().flat_map(|column| column.ends.keys().map(String::as_str))
}

fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Cannot fail: the page is a string.
    let _ = page.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_row_for_each_behaviour_and_says_why_one_was_not_run() {
        let column = |name, second: End| Column {
            name,
            what: "something",
            ends: [("a::one_thing".to_owned(), End::Passed), ("a::other_thing".to_owned(), second)].into(),
        };
        let skipped = || End::Skipped("no kernel".to_owned());
        let page = page(&[column("x", skipped()), column("y", End::Failed), column("z", skipped())]);
        assert!(page.contains("## a\n\n| behaviour | x | y | z |\n|---|---|---|---|\n"), "{page}");
        assert!(
            page.contains("\n| one thing | pass | pass | pass |\n| other thing | (1) | **fail** | (1) |\n")
        );
        assert!(page.ends_with("\n1. no kernel\n"), "{page}");
        assert_eq!(count(&column("x", skipped()).ends), (1, 0, 1));
    }
}
