//! Networks that plug-ins make, by the specification of the Container Network Interface, versions 0.4.0 and 1.0.0.
//!
//! A [`NetworkList`] says which plug-ins, in which order. Each one is a program of the operator's that is run for each
//! container, with the result of the one before it. [`Plugins`] runs them; it keeps nothing: what a DEL needs is in the
//! container's record, so that no cache of this server's can be left.

mod conflist;
mod exec;
mod request;
mod result;
#[cfg(test)]
mod tests;

use std::{
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;

pub use conflist::{Capability, ConfigError, NetworkList, PluginConfig};
pub use exec::{PluginError, check_directories};
pub use request::{Wishes, address};
pub use result::{AddResult, Dns};

use exec::{Runner, nonsense, path_of};
use request::Command;

/// One container, as its plug-ins know it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub list: &'a NetworkList,
    /// No other container ever had it.
    pub id: &'a str,
    /// Its network namespace; none: it is gone.
    pub netns: Option<BorrowedFd<'a>>,
    pub wishes: &'a Wishes,
}

/// The operator's plug-ins.
#[derive(Debug, Clone)]
pub struct Plugins {
    runner: Runner,
    second_try: Arc<tokio::sync::Mutex<()>>,
}

impl Plugins {
    /// Those in `directories`, of which the earlier ones come first.
    pub fn new(directories: Vec<PathBuf>) -> Plugins {
        Plugins { runner: Runner::new(directories), second_try: Arc::default() }
    }

    /// Sees that there is a program for each plug-in of a list.
    pub fn find_all(&self, list: &NetworkList) -> Result<(), PluginError> {
        list.plugins.iter().try_for_each(|plugin| self.runner.find(plugin.kind()).map(drop))
    }

    /// Does one plug-in's part of putting a container on the network. Each plug-in of the list is told the `previous`
    /// one's result; note each, so that whatever has been made can be unmade. After an error, [`del`](Plugins::del).
    pub async fn add(
        &self,
        subject: Subject<'_>,
        plugin: &PluginConfig,
        previous: Option<&AddResult>,
    ) -> Result<AddResult, PluginError> {
        let said = match self.call(subject, plugin, Command::Add, previous).await {
            // Two of them may have begun to make what all containers share, as a chain of rules, at the same moment:
            // one then fails where the other was faster. Who tries again does so alone, after a DEL, as is specified.
            Err(PluginError::Failed { .. }) => {
                let _alone = self.second_try.lock().await;
                let _ = self.call(subject, plugin, Command::Del, previous).await;
                self.call(subject, plugin, Command::Add, previous).await?
            }
            said => said?,
        };
        AddResult::parse(&said).map_err(|reason| nonsense(plugin.kind(), Command::Add, &said, reason))
    }

    /// Maps all of the ports of the wishes, to a container that is on the network, by the plug-ins for it alone. Those
    /// that were mapped before go on meanwhile. Ports are closed by [`unmap_ports`](Plugins::unmap_ports).
    pub async fn map_ports(&self, subject: Subject<'_>, result: &AddResult) -> Result<(), PluginError> {
        for plugin in mappers(subject.list) {
            self.call(subject, plugin, Command::Add, Some(result)).await?;
        }
        Ok(())
    }

    /// Closes all ports, those of the wishes and others.
    pub async fn unmap_ports(&self, subject: Subject<'_>, result: &AddResult) -> Result<(), PluginError> {
        for plugin in mappers(subject.list) {
            self.call(subject, plugin, Command::Del, Some(result)).await?;
        }
        Ok(())
    }

    /// Takes a container off the network, by all plug-ins from the last one to the first, also after one has failed.
    /// `result` is the last that is known. Once more does no harm.
    pub async fn del(
        &self,
        subject: Subject<'_>,
        result: Option<&AddResult>,
    ) -> Result<(), Vec<PluginError>> {
        let mut errors = Vec::new();
        for plugin in subject.list.plugins.iter().rev() {
            errors.extend(self.call(subject, plugin, Command::Del, result).await.err());
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Asks each plug-in whether what it has made is still there.
    pub async fn check(&self, subject: Subject<'_>, result: &AddResult) -> Result<(), PluginError> {
        if subject.list.disable_check {
            return Ok(());
        }
        for plugin in &subject.list.plugins {
            self.call(subject, plugin, Command::Check, Some(result)).await?;
        }
        Ok(())
    }

    async fn call(
        &self,
        subject: Subject<'_>,
        plugin: &PluginConfig,
        command: Command,
        previous: Option<&AddResult>,
    ) -> Result<Vec<u8>, PluginError> {
        let netns = subject.netns.map(path_of);
        let path = netns.as_deref().and_then(Path::to_str);
        let previous: Option<Value> = previous.map(|result| result.for_namespace(path));
        let input = request::input(subject.list, plugin, subject.wishes, previous.as_ref());
        let variables = request::environment(command, subject.id, netns, self.runner.plugin_path());
        self.runner.run(plugin.kind(), command, variables, input.to_string().into_bytes()).await
    }
}

/// The plug-ins that map ports.
fn mappers(list: &NetworkList) -> impl Iterator<Item = &PluginConfig> {
    list.plugins.iter().filter(|plugin| plugin.has(Capability::PortMappings))
}
