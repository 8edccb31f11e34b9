//! `cargo xtask bench`: how fast, beside what.

use crate::{
    Outcome,
    build::{self, Profile},
    setup, shell,
};

/// Builds with optimisation and runs `bench-lifecycle`, which starts the server itself. Arguments go to it.
pub fn bench(arguments: &[String]) -> Outcome {
    if !shell::is_root() {
        return Err("only root can make containers: sudo cargo xtask bench".to_owned());
    }
    setup::setup(&setup::BENCH)?;
    build::workspace(Profile::Release)?;
    shell::run(shell::command(build::binary(Profile::Release, "bench-lifecycle")?).args(arguments))
}
