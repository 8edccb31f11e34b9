//! `cargo xtask fuzz`: the fuzz targets under libFuzzer, led by coverage, on the stable toolchain.

use std::fs;

use crate::{Outcome, shell};

/// How long each target runs unless told otherwise.
const SECONDS: u32 = 60;
/// An input on which a target takes longer than this is a failure: parsers take linear time.
const INPUT_SECONDS: u32 = 10;
/// Inputs grow towards this for as long as longer ones reach more: in hours, not minutes.
const INPUT_MAX_BYTES: u32 = 256 * 1024;
/// What a target may hold, with libFuzzer's own corpus.
const MEMORY_MAX_MB: u32 = 1024;

/// What makes rustc count which code an input reaches, and tell the engine what it compares; `fuzzing` lets the
/// crates' targets in.
const FLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// `[TARGET] [--seconds N]`: builds, and runs one target or all, one after the other. What was found is kept in
/// the target folder, and next time begun with.
pub fn fuzz(arguments: &[String]) -> Outcome {
    let (wanted, seconds) = match arguments {
        [] => (None, SECONDS),
        [target] => (Some(target.clone()), SECONDS),
        [flag, seconds] if flag == "--seconds" => (None, number(seconds)?),
        [target, flag, seconds] if flag == "--seconds" => (Some(target.clone()), number(seconds)?),
        _ => return Err("cargo xtask fuzz [TARGET] [--seconds N]".to_owned()),
    };
    let folder = shell::target()?.join("fuzz");
    let host = host_triple()?;
    let mut build = shell::cargo();
    // A folder and a `--target` of its own: what was built without the flags stays, and build scripts do without them.
    build
        .args(["build", "--package", "tests", "--bin", "fuzz", "--profile", "fuzz", "--target", &host])
        .env("CARGO_TARGET_DIR", &folder)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
    shell::run(&mut build)?;
    let program = folder.join(host).join("fuzz/fuzz");

    let names = shell::output(shell::command(&program).env("FUZZ_TARGET", "list"))?;
    let targets: Vec<&str> =
        names.lines().filter(|name| wanted.as_deref().is_none_or(|wanted| *name == wanted)).collect();
    if targets.is_empty() {
        return Err(format!(
            "there is no such target; there are: {}",
            names.lines().collect::<Vec<_>>().join(" ")
        ));
    }
    let mut failed = Vec::new();
    for target in targets {
        println!("\n== fuzzing {target}");
        let (corpus, artifacts) = (folder.join("corpus").join(target), folder.join("failures").join(target));
        for directory in [&corpus, &artifacts] {
            fs::create_dir_all(directory)
                .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
        }
        let mut run = shell::command(&program);
        run.env("FUZZ_TARGET", target)
            .env("FUZZ_CORPUS", &corpus)
            .arg(&corpus)
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={INPUT_SECONDS}"))
            .arg(format!("-max_len={INPUT_MAX_BYTES}"))
            .arg(format!("-rss_limit_mb={MEMORY_MAX_MB}"))
            .args(["-print_final_stats=1", "-use_value_profile=1", "-verbosity=1"]);
        if let Err(why) = shell::run(&mut run) {
            println!("== {target}: {why}");
            println!("== again: FUZZ_TARGET={target} {} {}/FILE", program.display(), artifacts.display());
            println!(
                "== once mended, the file belongs into tests/fuzz/{target}, under a name that says what it was"
            );
            failed.push(target);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("these targets failed: {}", failed.join(" "))) }
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("--seconds {text}: not a number"))
}

/// What this toolchain builds for unless told otherwise.
fn host_triple() -> Result<String, String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let about = shell::output(shell::command(rustc).arg("-vV"))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "rustc -vV names no host".to_owned())
}
