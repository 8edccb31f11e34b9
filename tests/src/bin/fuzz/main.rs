//! The fuzz targets of all crates under libFuzzer, led by coverage. `cargo xtask fuzz` builds this with the coverage
//! pass and `--cfg fuzzing`, without which the targets are part of their crates' tests only, and runs it.
//!
//! `FUZZ_TARGET` names the target; `list`: prints all names. `FUZZ_CORPUS` is a directory that gets the seeds.

#![cfg_attr(fuzzing, no_main)]

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("built without what fuzzing needs: cargo xtask fuzz");
    std::process::exit(2);
}

#[cfg(fuzzing)]
#[path = "../../../fuzz/seeds.rs"]
mod seeds;

// The only one that is in a program, which cannot be linked to.
#[cfg(fuzzing)]
#[path = "../../../../backend-linux/src/init/users.rs"]
mod users;

#[cfg(fuzzing)]
mod engine {
    use std::{env, fs, path::Path, sync::LazyLock};

    use super::{seeds, users};

    /// The target that was asked for.
    static TARGET: LazyLock<seeds::Target> = LazyLock::new(|| {
        let wanted = env::var("FUZZ_TARGET").unwrap_or_default();
        let all = [
            protocol::fuzz::TARGETS,
            garden_server::fuzz::TARGETS,
            garden_client::fuzz::TARGETS,
            backend_linux::fuzz::TARGETS,
            tests::fuzz::TARGETS,
            users::FUZZ_TARGETS,
        ];
        if wanted == "list" {
            all.concat().iter().for_each(|(name, _, _)| println!("{name}"));
            std::process::exit(0);
        }
        all.concat().into_iter().find(|(name, _, _)| *name == wanted).unwrap_or_else(|| {
            eprintln!("no target {wanted:?}; FUZZ_TARGET=list names all");
            std::process::exit(2);
        })
    });

    fn copy_seeds() {
        let Some(corpus) = env::var_os("FUZZ_CORPUS") else { return };
        for (path, bytes) in seeds::read(&TARGET) {
            let Some(name) = path.file_name() else { continue };
            fs::write(Path::new(&corpus).join(name), bytes).expect("a directory for the corpus");
        }
    }

    libfuzzer_sys::fuzz_target!(init: { LazyLock::force(&TARGET); copy_seeds() }, |bytes: &[u8]| {
        (TARGET.1)(bytes);
    });
}
