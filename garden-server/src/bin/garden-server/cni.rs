//! Options about networks that CNI plug-ins make.

use std::path::PathBuf;

use clap::Args;

/// Plug-ins instead of the server's own network.
#[derive(Debug, Args)]
pub(crate) struct Cni {
    /// A CNI network configuration list (.conflist, 0.4.0 or 1.0.0): its plug-ins make the containers' networks, and
    /// say what containers may reach [default: none, the server makes them].
    #[arg(long, value_name = "FILE", env = "GARDEN_CNI_CONFIG", global = true, help_heading = "Network")]
    pub(crate) cni_config: Option<PathBuf>,
    /// Where the programs of CNI plug-ins are, the first place first (repeatable).
    #[arg(
        long,
        value_name = "DIR",
        value_delimiter = ',',
        default_values = ["/opt/cni/bin", "/usr/lib/cni"],
        env = "GARDEN_CNI_PLUGIN_DIR",
        global = true,
        help_heading = "Network"
    )]
    pub(crate) cni_plugin_dir: Vec<PathBuf>,
}
