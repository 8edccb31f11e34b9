//! What went wrong, and what to do next.

use std::io::{self, Write};

use garden_client::Error;

/// Garden's own failures, as docker has them.
pub const FAILED: u8 = 125;
/// 128 + SIGINT.
pub const INTERRUPTED: u8 = 130;
/// 128 + SIGPIPE, as for a program that the signal ends.
pub const READER_LEFT: u8 = 141;

/// Why the command cannot go on.
#[derive(Debug)]
pub enum Failure {
    /// To be told.
    Told {
        /// What was being done, to what.
        doing: String,
        why: String,
        next: Option<String>,
    },
    /// Several, each told already.
    AlreadyTold,
    /// The user does not want to wait any longer.
    Interrupted,
    /// Nobody reads standard output any more: nothing to tell.
    ReaderLeft,
}

impl Failure {
    pub fn new(doing: impl Into<String>, error: &Error) -> Self {
        let (why, next) = split_advice(error);
        Failure::Told { doing: doing.into(), why, next }
    }

    pub fn with_next(doing: impl Into<String>, error: &Error, next: String) -> Self {
        Failure::Told { doing: doing.into(), why: error.to_string(), next: Some(next) }
    }

    /// A failed write to standard output.
    pub fn output(doing: &str, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure::ReaderLeft;
        }
        let why = format!("cannot write to standard output: {error}");
        Failure::Told { doing: doing.to_owned(), why, next: None }
    }

    /// Tells it on standard error, and gives the exit status.
    pub fn tell(&self) -> u8 {
        match self {
            Failure::Told { doing, why, next } => {
                complain(&format!("garden: {doing}: {why}"));
                if let Some(next) = next {
                    complain(&format!("  {next}"));
                }
                FAILED
            }
            Failure::AlreadyTold => FAILED,
            Failure::Interrupted => INTERRUPTED,
            Failure::ReaderLeft => READER_LEFT,
        }
    }
}

/// One line on standard error; not `eprintln`, which panics where nobody reads that.
pub fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{}", printable(line));
}

/// The cause, and what to do about it.
fn split_advice(error: &Error) -> (String, Option<String>) {
    let text = error.to_string();
    let next = match error {
        Error::ContainerNotFound { .. } => "`garden list` prints the handles that exist",
        Error::ProcessNotFound { .. } => "`garden info HANDLE` prints the processes that are running",
        Error::ExecutableNotFound { .. } => "give a program that the container's image has, or its full path",
        Error::HandleInUse { .. } => "choose another handle, or destroy that container first",
        Error::DestroyInProgress { .. } => "it is on its way: `garden list` tells when it is gone",
        Error::PropertyNotFound { .. } => "`garden properties get HANDLE` prints those that are set",
        Error::MaxContainersReached { .. } => "destroy a container, or raise the server's --max-containers",
        Error::Invalid { field: "target", .. } => "give the server's address with --target or GARDEN_TARGET",
        // The library ends these in what to do.
        Error::CannotConnect { .. } | Error::Connection { .. } | Error::TimedOut { .. } => {
            let Some((why, next)) = text.rsplit_once("; ") else { return (text, None) };
            let another = match error {
                Error::CannotConnect { .. } => " --target or GARDEN_TARGET gives another one",
                _ => "",
            };
            return (why.to_owned(), Some(format!("{next}{another}")));
        }
        Error::ServiceUnavailable { .. } => "try again later",
        Error::Unrecoverable { .. } => "the server's log says more; its host needs repair",
        Error::Invalid { .. } | Error::BadRequest { .. } | Error::Malformed { .. } | Error::Failed { .. } => {
            return (text, None);
        }
    };
    (text, Some(next.to_owned()))
}

/// Text from a server without what could steer the terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
