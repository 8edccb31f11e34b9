//! The server's side of a container's supervisor: requests to it, and the processes it keeps.

mod budget;
mod entry;
mod output;
mod stdin;
mod supervisor;
mod table;
mod template;

pub use budget::OutputBudget;
pub use entry::Entry;
pub use supervisor::{Connection, Error, Supervisor, nonsense};
pub use table::{Processes, Retention};
pub use template::Template;
