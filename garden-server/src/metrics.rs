//! What the front end counts, and how it and the backend's samples become Prometheus's text.

use std::{collections::BTreeMap, sync::OnceLock, time::Instant};

use hyper::{Method, StatusCode};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};
use protocol::{
    Sample, SampleKind,
    routes::{ROUTES, Route},
};

use crate::config::Config;

/// From a tenth of a millisecond, what a ping takes, to a minute.
const BUCKETS_SECONDS: &[f64] = &[
    0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// Where a route's successful requests are counted.
struct Success {
    status: StatusCode,
    requests: IntCounter,
    request_seconds: Histogram,
    operations: IntCounter,
    operation_seconds: Histogram,
}

/// The front end's own metrics.
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    in_flight: IntGauge,
    operations: IntCounterVec,
    operation_seconds: HistogramVec,
    /// Of each route, what its successes are counted in: looking it up by its labels would take longer than a ping.
    successes: [OnceLock<Success>; ROUTES.len()],
    open_streams: IntGaugeVec,
    connections: IntGauge,
}

impl Metrics {
    pub(crate) fn new(config: &Config) -> Result<Self, prometheus::Error> {
        let histogram = |name, help| HistogramOpts::new(name, help).buckets(BUCKETS_SECONDS.to_vec());
        let metrics = Metrics {
            registry: Registry::new(),
            requests: IntCounterVec::new(
                Opts::new("garden_http_requests_total", "Requests answered, by route, method and status."),
                &["route", "method", "code"],
            )?,
            request_seconds: HistogramVec::new(
                histogram(
                    "garden_http_request_duration_seconds",
                    "Time from a request's head to its answer's.",
                ),
                &["route", "method", "code"],
            )?,
            in_flight: IntGauge::new("garden_http_requests_in_flight", "Requests being worked on.")?,
            operations: IntCounterVec::new(
                Opts::new("garden_operations_total", "Operations on containers, by name and result."),
                &["operation", "result"],
            )?,
            operation_seconds: HistogramVec::new(
                histogram("garden_operation_duration_seconds", "Time that operations on containers took."),
                &["operation", "result"],
            )?,
            successes: [const { OnceLock::new() }; ROUTES.len()],
            open_streams: IntGaugeVec::new(
                Opts::new("garden_open_streams", "Connections that carry a process's streams, by kind."),
                &["kind"],
            )?,
            connections: IntGauge::new("garden_connections", "Connections to clients.")?,
        };
        let build = IntGaugeVec::new(
            Opts::new("garden_build_info", "Always 1; which version and backend runs."),
            &["version", "backend"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), &config.backend_name]).set(1);
        let registry = &metrics.registry;
        registry.register(Box::new(build))?;
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.request_seconds.clone()))?;
        registry.register(Box::new(metrics.in_flight.clone()))?;
        registry.register(Box::new(metrics.operations.clone()))?;
        registry.register(Box::new(metrics.operation_seconds.clone()))?;
        registry.register(Box::new(metrics.open_streams.clone()))?;
        registry.register(Box::new(metrics.connections.clone()))?;
        Ok(metrics)
    }

    /// A request has come.
    pub(crate) fn request(&self) -> ObservedRequest<'_> {
        ObservedRequest {
            metrics: self,
            begin: Instant::now(),
            _in_flight: Counted::new(self.in_flight.clone()),
        }
    }

    /// An operation that no request asked for begins.
    pub(crate) fn operation(&self, name: &'static str) -> ObservedOperation<'_> {
        ObservedOperation { metrics: self, name, begin: Instant::now() }
    }

    fn success(&self, route: Route, status: StatusCode) -> Option<&Success> {
        let success = self.successes.get(route as usize)?.get_or_init(|| {
            let def = route.def();
            let request = [def.name, def.method, status.as_str()];
            let operation = [def.name, result_label(true)];
            Success {
                status,
                requests: self.requests.with_label_values(&request),
                request_seconds: self.request_seconds.with_label_values(&request),
                operations: self.operations.with_label_values(&operation),
                operation_seconds: self.operation_seconds.with_label_values(&operation),
            }
        });
        (success.status == status).then_some(success)
    }

    fn count_request(&self, labels: [&str; 3], took_seconds: f64) {
        self.requests.with_label_values(&labels).inc();
        self.request_seconds.with_label_values(&labels).observe(took_seconds);
    }

    fn count_operation(&self, name: &str, ok: bool, took_seconds: f64) {
        let labels = [name, result_label(ok)];
        self.operations.with_label_values(&labels).inc();
        self.operation_seconds.with_label_values(&labels).observe(took_seconds);
    }

    /// A stream opens; it is counted as long as the value lives.
    pub(crate) fn open_stream(&self, kind: &str) -> Counted {
        Counted::new(self.open_streams.with_label_values(&[kind]))
    }

    /// A connection opens; it is counted as long as the value lives.
    pub(crate) fn connection(&self) -> Counted {
        Counted::new(self.connections.clone())
    }

    /// Everything, with the backend's samples, as Prometheus reads it.
    pub(crate) fn render(&self, samples: Vec<Sample>) -> Result<String, prometheus::Error> {
        let mut families = self.registry.gather();
        families.extend(to_families(samples));
        TextEncoder::new().encode_to_string(&families)
    }
}

/// A request that is being worked on.
pub(crate) struct ObservedRequest<'a> {
    metrics: &'a Metrics,
    begin: Instant,
    _in_flight: Counted,
}

impl ObservedRequest<'_> {
    /// It led to a route of the protocol's table, whose operation succeeded or failed.
    pub(crate) fn performed(self, route: Route, ok: bool, status: StatusCode) {
        let took_seconds = self.begin.elapsed().as_secs_f64();
        if ok && let Some(success) = self.metrics.success(route, status) {
            success.requests.inc();
            success.request_seconds.observe(took_seconds);
            success.operations.inc();
            success.operation_seconds.observe(took_seconds);
            return;
        }
        let def = route.def();
        self.metrics.count_request([def.name, def.method, status.as_str()], took_seconds);
        self.metrics.count_operation(def.name, ok, took_seconds);
    }

    /// It led to what is not in the table; `route` is the label of that, none if it led nowhere.
    pub(crate) fn answered(self, route: Option<&'static str>, method: &Method, status: StatusCode) {
        let labels = [route.unwrap_or("none"), method_label(method), status.as_str()];
        self.metrics.count_request(labels, self.begin.elapsed().as_secs_f64());
    }
}

/// An operation that runs without a request.
pub(crate) struct ObservedOperation<'a> {
    metrics: &'a Metrics,
    name: &'static str,
    begin: Instant,
}

impl ObservedOperation<'_> {
    pub(crate) fn finished(self, ok: bool) {
        self.metrics.count_operation(self.name, ok, self.begin.elapsed().as_secs_f64());
    }
}

/// One thing that a gauge counts while it lives.
pub(crate) struct Counted(IntGauge);

impl Counted {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Counted(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn result_label(ok: bool) -> &'static str {
    if ok { "ok" } else { "error" }
}

/// A label per method of the protocol: a client must not make labels up.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        _ => "other",
    }
}

fn to_families(samples: Vec<Sample>) -> Vec<MetricFamily> {
    let mut families: BTreeMap<&'static str, MetricFamily> = BTreeMap::new();
    for sample in samples {
        let family = families.entry(sample.name).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(sample.name.to_owned());
            family.set_help(sample.help.to_owned());
            family.set_field_type(match sample.kind {
                SampleKind::Counter => MetricType::COUNTER,
                SampleKind::Gauge => MetricType::GAUGE,
            });
            family
        });
        let mut metrics = family.take_metric();
        metrics.push(to_metric(sample));
        family.set_metric(metrics);
    }
    families.into_values().collect()
}

fn to_metric(sample: Sample) -> Metric {
    let labels = sample.labels.into_iter().map(|(name, value)| {
        let mut label = LabelPair::default();
        label.set_name(name.to_owned());
        label.set_value(value);
        label
    });
    let mut metric = Metric::from_label(labels.collect());
    match sample.kind {
        SampleKind::Counter => {
            let mut counter = Counter::default();
            counter.set_value(sample.value);
            metric.set_counter(counter);
        }
        SampleKind::Gauge => {
            let mut gauge = Gauge::default();
            gauge.set_value(sample.value);
            metric.set_gauge(gauge);
        }
    }
    metric
}
