//! Containers on Linux.
//!
//! Data flows one way: the seam ([`LinuxBackend`]) finds the container; `container` orders the steps of its life and
//! passes values between the siblings `rootfs`, `network`, `cgroup` and `process`, which never call each other;
//! `process` talks to the container's supervisor, `garden-init`, which alone enters namespaces.

mod cgroup;
mod config;
mod network;
mod rootfs;

pub use config::{Config, NetworkConfig};
