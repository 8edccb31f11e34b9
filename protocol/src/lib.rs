//! What both ends of the Garden protocol agree on: the wire types, the error type, the table of routes, and the
//! seam [`Backend`] behind which a platform makes the containers.
//!
//! The crate does no I/O and needs no async runtime. Its JSON is that of the reference implementation, byte for
//! byte: see [`json`] for the rules, and `tests/wire/golden` for the samples that hold it to them.

#![forbid(unsafe_code)]

mod backend;
mod container;
mod document;
mod error;
pub mod extension;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod info;
pub mod json;
mod limits;
mod metrics;
mod net_out_check;
mod network;
mod process;
pub mod routes;
mod telemetry;

pub use backend::{Backend, ByteStream, Exit, Output, OutputReader, Process, ProcessControl};
pub use container::{
    BindMount, BindMountMode, BindMountOrigin, ContainerSpec, CreateResponse, HANDLE_MAX_BYTES, ImageRef,
    ListResponse, Properties, PropertyValue, StopRequest, check_handle,
};
pub use document::Document;
pub use error::{Error, ErrorBody, ErrorType, Result};
pub use info::{BulkInfo, Capacity, ContainerInfo, InfoEntry, PortMapping};
pub use limits::{BandwidthLimits, CpuLimits, DiskLimitScope, DiskLimits, Limits, MemoryLimits, PidLimits};
pub use metrics::{BulkMetrics, CpuStat, DiskStat, MemoryStat, Metrics, MetricsEntry, NetworkStat, PidStat};
pub use network::{
    IcmpControl, IpRange, NetIn, NetInRequest, NetInResponse, NetOutProtocol, NetOutRule, PortRange,
};
pub use process::{
    FilesQuery, ProcessLimits, ProcessPayload, ProcessSpec, ResourceLimits, Signal, TtySpec, WindowSize,
};
pub use telemetry::{Sample, SampleKind};
