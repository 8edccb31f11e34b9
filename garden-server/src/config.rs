//! What an embedder can choose about the front end.

use std::time::Duration;

/// Settings of [`serve`](crate::serve).
#[derive(Debug, Clone)]
pub struct Config {
    /// Grace time of containers whose spec names none; zero: they live until they are destroyed.
    pub default_grace_time: Duration,
    /// How long a connection may take to send a request's head. hyper runs this clock on idle connections too, so it
    /// is also how long a client may keep one without using it.
    pub read_header_timeout: Duration,
    /// How long a client may send nothing in the middle of a request's body.
    pub read_body_timeout: Duration,
    /// How long a process's output can be opened after its exit.
    pub output_retention: Duration,
    /// How long `serve` waits at its end for requests that are being answered.
    pub shutdown_timeout: Duration,
    /// The largest JSON body, in bytes.
    pub max_json_body_bytes: usize,
    /// Host names by which clients may call this server over TCP, besides addresses, `localhost` and `api` (what the
    /// Go client says). Every other name is refused, since it may be a web page's own, rebound to our address.
    pub allowed_hosts: Vec<String>,
    /// Told to the world as a label of `garden_build_info`: which backend serves.
    pub backend_name: String,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            default_grace_time: Duration::ZERO,
            read_header_timeout: Duration::from_secs(60),
            read_body_timeout: Duration::from_secs(300),
            output_retention: Duration::from_secs(60),
            shutdown_timeout: Duration::from_secs(10),
            max_json_body_bytes: 16 * 1024 * 1024,
            allowed_hosts: Vec::new(),
            backend_name: "unknown".to_owned(),
        }
    }
}
