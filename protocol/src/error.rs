//! The one error type of the seam, and its form on the wire.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The result of an operation on containers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on containers failed. Each variant is a cause that a caller may want to tell from the others;
/// [`Error::Failed`] carries the rest, with a text that says what failed, on what, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No container has this handle.
    #[error("unknown handle: {handle}")]
    ContainerNotFound {
        /// The handle asked for.
        handle: String,
    },
    /// The container has no process of this id.
    #[error("unknown process: {process_id}")]
    ProcessNotFound {
        /// The id asked for.
        process_id: String,
    },
    /// The program to run does not exist in the container or cannot be executed.
    #[error("{message}")]
    ExecutableNotFound {
        /// Names the program; contains `executable file not found in $PATH` where PATH was searched.
        message: String,
    },
    /// Cannot be done now; later it may.
    #[error("{message}")]
    ServiceUnavailable {
        /// Why, and what to wait for.
        message: String,
    },
    /// The host is broken beyond what this server can repair.
    #[error("{message}")]
    Unrecoverable {
        /// The symptom.
        message: String,
    },
    /// A container of this handle exists, or is being made.
    #[error("Handle '{handle}' already in use")]
    HandleInUse {
        /// The handle in use.
        handle: String,
    },
    /// Another destroy of the same container is running.
    #[error("container already being destroyed")]
    DestroyInProgress {
        /// The container.
        handle: String,
    },
    /// The container has no such property.
    #[error("property does not exist: {key}")]
    PropertyNotFound {
        /// The key asked for.
        key: String,
    },
    /// The server has as many containers as it may have.
    #[error("max containers reached: {limit}")]
    MaxContainersReached {
        /// How many it may have.
        limit: u64,
    },
    /// A field of the request is wrong.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field, by its name on the wire.
        field: &'static str,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// The request makes no sense as HTTP: answered with 400.
    #[error("{reason}")]
    BadRequest {
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The body is not the JSON that it should be, or, for a client, the answer is none.
    #[error("{reason}")]
    Malformed {
        /// What the decoder found, and where.
        reason: String,
    },
    /// No connection to the server came about, so that nothing was asked of it: only a client says this.
    #[error("{message}")]
    CannotConnect {
        /// Which address, why not, and what to look at.
        message: String,
    },
    /// The connection was lost before the whole answer had come, so that what was asked may have been done: only a
    /// client says this.
    #[error("{message}")]
    Connection {
        /// What was tried, and what went wrong.
        message: String,
    },
    /// The server let a time pass that the client had set: only a client says this.
    #[error("{operation}: nothing from {address} within {after:?}; {}", after_time_out(*.perhaps_done))]
    TimedOut {
        /// The operation's name on the wire, or `connect`.
        operation: &'static str,
        /// The server's address.
        address: String,
        /// How long the client waited.
        after: Duration,
        /// Whether the operation may have been done all the same, in whole or in part, or be done yet.
        perhaps_done: bool,
    },
    /// Anything else that went wrong while doing what was asked.
    #[error("{message}")]
    Failed {
        /// What failed, on what, and the cause.
        message: String,
    },
}

fn after_time_out(perhaps_done: bool) -> &'static str {
    if perhaps_done { "it may have been done all the same: look before trying again" } else { "try again" }
}

impl Error {
    /// An unknown handle.
    pub fn container_not_found(handle: impl Into<String>) -> Self {
        Error::ContainerNotFound { handle: handle.into() }
    }

    /// An unknown process id.
    pub fn process_not_found(process_id: impl Into<String>) -> Self {
        Error::ProcessNotFound { process_id: process_id.into() }
    }

    /// A wrong field.
    pub fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Error::Invalid { field, reason: reason.into() }
    }

    /// A failure, from the whole chain of causes of `error`.
    pub fn failed(error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            // Some errors say their cause themselves.
            let text = error.to_string();
            if !message.ends_with(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = error.source();
        }
        Error::Failed { message }
    }

    /// The HTTP status of the answer that carries this error.
    pub fn status(&self) -> u16 {
        match self {
            Error::ContainerNotFound { .. } | Error::ProcessNotFound { .. } => 404,
            Error::BadRequest { .. } => 400,
            Error::ExecutableNotFound { .. }
            | Error::ServiceUnavailable { .. }
            | Error::Unrecoverable { .. }
            | Error::HandleInUse { .. }
            | Error::DestroyInProgress { .. }
            | Error::PropertyNotFound { .. }
            | Error::MaxContainersReached { .. }
            | Error::Invalid { .. }
            | Error::Malformed { .. }
            | Error::CannotConnect { .. }
            | Error::Connection { .. }
            | Error::TimedOut { .. }
            | Error::Failed { .. } => 500,
        }
    }

    /// The JSON form of this error.
    pub fn to_body(&self) -> ErrorBody {
        let mut body = ErrorBody { message: self.to_string(), ..ErrorBody::default() };
        body.kind = match self {
            Error::ContainerNotFound { handle } => {
                body.handle.clone_from(handle);
                ErrorType::ContainerNotFound
            }
            Error::ProcessNotFound { process_id } => {
                body.process_id.clone_from(process_id);
                ErrorType::ProcessNotFound
            }
            Error::ExecutableNotFound { .. } => ErrorType::ExecutableNotFound,
            Error::ServiceUnavailable { .. } => ErrorType::ServiceUnavailable,
            Error::Unrecoverable { .. } => ErrorType::Unrecoverable,
            Error::HandleInUse { .. }
            | Error::DestroyInProgress { .. }
            | Error::PropertyNotFound { .. }
            | Error::MaxContainersReached { .. }
            | Error::Invalid { .. }
            | Error::BadRequest { .. }
            | Error::Malformed { .. }
            | Error::CannotConnect { .. }
            | Error::Connection { .. }
            | Error::TimedOut { .. }
            | Error::Failed { .. } => ErrorType::Untyped,
        };
        body
    }
}

/// An error on the wire: all five fields, always.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorBody {
    /// Which kind of error.
    #[serde(rename = "Type")]
    pub kind: ErrorType,
    /// The text for people.
    #[serde(rename = "Message")]
    pub message: String,
    /// The container, for [`ErrorType::ContainerNotFound`].
    #[serde(rename = "Handle")]
    pub handle: String,
    /// The process, for [`ErrorType::ProcessNotFound`].
    #[serde(rename = "ProcessID")]
    pub process_id: String,
    /// Reserved by the protocol; always empty in answers of the reference.
    #[serde(rename = "Binary")]
    pub binary: String,
}

impl ErrorBody {
    /// The error that the body stands for.
    pub fn into_error(self) -> Error {
        let ErrorBody { kind, message, handle, process_id, .. } = self;
        match kind {
            ErrorType::ContainerNotFound => Error::ContainerNotFound { handle },
            ErrorType::ProcessNotFound => Error::ProcessNotFound { process_id },
            ErrorType::ExecutableNotFound => Error::ExecutableNotFound { message },
            ErrorType::ServiceUnavailable => Error::ServiceUnavailable { message },
            ErrorType::Unrecoverable => Error::Unrecoverable { message },
            ErrorType::Untyped => Error::Failed { message },
        }
    }
}

/// The error types that the protocol names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ErrorType {
    #[serde(rename = "ContainerNotFoundError")]
    ContainerNotFound,
    #[serde(rename = "ProcessNotFoundError")]
    ProcessNotFound,
    #[serde(rename = "ExecutableNotFoundError")]
    ExecutableNotFound,
    #[serde(rename = "ServiceUnavailableError")]
    ServiceUnavailable,
    #[serde(rename = "UnrecoverableError")]
    Unrecoverable,
    /// Every other error, also those of types that this version does not know.
    #[default]
    #[serde(rename = "", other)]
    Untyped,
}
