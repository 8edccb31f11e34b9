//! The picture of the host: taken before, compared after. What differs was left behind.

use std::path::PathBuf;

use crate::{
    Outcome,
    build::{self, Profile},
    shell::{self, TempDir},
};

/// The host as it was.
pub struct Picture {
    program: PathBuf,
    directory: TempDir,
}

impl Picture {
    /// Takes it.
    pub fn save(profile: Profile) -> Result<Self, String> {
        let picture =
            Picture { program: build::binary(profile, "host-picture")?, directory: TempDir::new("picture")? };
        picture.run("save")?;
        Ok(picture)
    }

    /// Fails where the host is not as it was, and prints the difference.
    pub fn compare(&self) -> Outcome {
        self.run("compare")
    }

    fn run(&self, what: &str) -> Outcome {
        shell::run(shell::command(&self.program).arg(what).arg(self.directory.path("before")))
    }
}
