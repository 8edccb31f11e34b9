//! Containers on Linux.
//!
//! Data flows one way: the seam ([`LinuxBackend`]) finds the container; `container` orders the steps of its life and
//! passes values between the siblings `rootfs`, `network`, `ids`, `cgroup` and `process`, which never call each other;
//! `process` talks to the container's supervisor, `garden-init`, which alone enters namespaces.

mod apparmor;
mod backend;
mod background;
mod capabilities;
mod cgroup;
mod check;
mod config;
mod container;
mod defence;
mod dns;
mod end;
mod entitlement;
mod files;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod ids;
mod lru;
mod name;
mod network;
mod process;
#[doc(hidden)]
pub mod rootfs;
#[doc(hidden)]
pub mod seccomp;
mod slots;
mod spec;
#[doc(hidden)]
pub mod supervisor;
#[doc(hidden)]
pub mod sys;
mod telemetry;

pub use backend::LinuxBackend;
pub use cgroup::{DeviceRule, DeviceRuleError, IoLimits, LimitPolicy};
pub use check::{Error, check, cleanup};
pub use config::{CniConfig, Config, FirewallKind, Hardening, NetworkConfig, TcpSettings};
pub use defence::{Defence, Defences};
pub use dns::{DnsConfig, HostEntry, HostEntryError};
pub use ids::{HostIds, IdConfig};
