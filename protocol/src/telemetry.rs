//! What a backend counts about itself.

/// One value for Prometheus.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Metric name, by Prometheus's conventions: `garden_…`, base units, `_total` for counters.
    pub name: &'static str,
    /// One sentence for people. The same for each sample of a name.
    pub help: &'static str,
    /// Counter or gauge. The same for each sample of a name.
    pub kind: SampleKind,
    /// Label names and values. The same names for each sample of a name.
    pub labels: Vec<(&'static str, String)>,
    /// The value now.
    pub value: f64,
}

/// What kind of metric a [`Sample`] belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleKind {
    /// Only ever grows while the server runs.
    Counter,
    /// Goes up and down.
    Gauge,
}
