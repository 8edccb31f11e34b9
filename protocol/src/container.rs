//! What a client asks for when it creates a container.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_repr::{Deserialize_repr, Serialize_repr};

use crate::{Error, Limits, NetIn, NetOutRule, Result, json};

/// Free-form properties of a container; sorted, as the wire has them.
pub type Properties = BTreeMap<String, String>;

/// The container that `POST /containers` makes. Everything is optional.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// The container's name; empty: the server generates one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub handle: String,
    /// How long the container may live while nobody refers to it; zero: the server's default.
    #[serde(with = "json::duration_ns", skip_serializing_if = "Duration::is_zero")]
    pub grace_time: Duration,
    /// The root filesystem, in the older of two places; an error together with `image.uri`.
    #[serde(rename = "rootfs", skip_serializing_if = "String::is_empty")]
    pub rootfs: String,
    /// The image that the root filesystem comes from.
    pub image: ImageRef,
    /// Directories of the host to show in the container.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bind_mounts: Vec<BindMount>,
    /// A subnet or an address; empty: the next free one of the server's pool.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub network: String,
    /// The container's first properties.
    #[serde(skip_serializing_if = "Properties::is_empty")]
    pub properties: Properties,
    /// `NAME=value` for every process of the container.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Whether root in the container is root on the host.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub privileged: bool,
    /// Resource limits.
    pub limits: Limits,
    /// Ways out to open.
    #[serde(rename = "netout_rules", skip_serializing_if = "Vec::is_empty")]
    pub net_out: Vec<NetOutRule>,
    /// Ports to map.
    #[serde(rename = "netin", skip_serializing_if = "Vec::is_empty")]
    pub net_in: Vec<NetIn>,
}

impl ContainerSpec {
    /// Where the root filesystem comes from: `image.uri` or `rootfs`; empty for the server's default.
    pub fn rootfs_uri(&self) -> Result<&str> {
        match (self.image.uri.as_str(), self.rootfs.as_str()) {
            (uri, "") => Ok(uri),
            ("", rootfs) => Ok(rootfs),
            _ => Err(Error::invalid("image.uri", "cannot be given together with rootfs: use one of them")),
        }
    }
}

/// The longest handle, in bytes.
pub const HANDLE_MAX_BYTES: usize = 255;

/// Refuses a handle that could escape from a path or a firewall rule.
pub fn check_handle(handle: &str) -> Result<()> {
    let reason = if handle.is_empty() {
        "is empty".to_owned()
    } else if handle.len() > HANDLE_MAX_BYTES {
        format!("is {} bytes long: at most {HANDLE_MAX_BYTES} are allowed", handle.len())
    } else if handle == "." || handle == ".." {
        format!("cannot be {handle:?}")
    } else if let Some(c) = handle.chars().find(|c| *c == '/' || c.is_control()) {
        format!("cannot contain {c:?}")
    } else {
        return Ok(());
    };
    Err(Error::Invalid { field: "handle", reason })
}

/// An image and what it takes to get it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageRef {
    /// Where it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uri: String,
    /// User at the registry.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// Password at the registry.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub password: String,
}

impl std::fmt::Debug for ImageRef {
    /// Leaves the password out: specs are logged.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageRef")
            .field("uri", &self.uri)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// A directory or file shown in the container at another place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BindMount {
    /// What to show.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub src_path: String,
    /// Where in the container to show it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub dst_path: String,
    /// Whether it can be written to.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: BindMountMode,
    /// Whose path `src_path` is.
    #[serde(skip_serializing_if = "is_default")]
    pub origin: BindMountOrigin,
}

/// Whether a bind mount can be written to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize_repr, Deserialize_repr)]
#[repr(u8)]
pub enum BindMountMode {
    /// No.
    #[default]
    ReadOnly = 0,
    /// Yes.
    ReadWrite = 1,
}

/// Whose path the source of a bind mount is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize_repr, Deserialize_repr)]
#[repr(u8)]
pub enum BindMountOrigin {
    /// The host's.
    #[default]
    Host = 0,
    /// The container's.
    Container = 1,
}

/// The answer to `POST /containers`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CreateResponse {
    /// The new container's handle.
    #[serde(rename = "Handle")]
    pub handle: String,
}

/// The answer to `GET /containers`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListResponse {
    /// The handles, never null.
    #[serde(rename = "Handles")]
    pub handles: Vec<String>,
}

/// The body of `PUT /containers/:handle/stop`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StopRequest {
    /// SIGKILL at once instead of SIGTERM first.
    pub kill: bool,
}

/// The value of one property, both as request and as answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PropertyValue {
    /// The value.
    pub value: String,
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
