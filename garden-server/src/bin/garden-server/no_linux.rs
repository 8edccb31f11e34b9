//! In place of the Linux backend, where the server is built without it.

use crate::{backends::Chosen, options::Options};

const NO_LINUX: &str = "this server was built without the Linux backend";

pub(crate) async fn start(_: &Options, _: String) -> Result<Chosen, String> {
    Err(NO_LINUX.to_owned())
}

pub(crate) fn check(_: &Options) -> Result<(), String> {
    Err(NO_LINUX.to_owned())
}

pub(crate) async fn cleanup(_: &Options) -> Result<(), String> {
    Err(NO_LINUX.to_owned())
}
