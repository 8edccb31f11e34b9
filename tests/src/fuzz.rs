//! A fuzz target that needs a whole server: any bytes on a connection.

use std::{
    cell::OnceCell,
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    mem::ManuallyDrop,
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::Arc,
    time::Duration,
};

use backend_fake::FakeBackend;
use garden_server::{Config, Listener, UnixSocketOptions, serve};
use protocol::{Backend, ContainerSpec};
use tokio::runtime::{Builder, Runtime};

/// A target's name, its function, and where it has seeds besides its own: see `tests/fuzz/seeds.rs`.
pub type Target = (&'static str, fn(&[u8]), &'static [&'static str]);

/// The targets.
pub const TARGETS: &[Target] = &[("http", connection, &["wire/captures/"])];

/// How long a silent connection may stand for a process that has not ended; then the container is destroyed.
const SILENCE: Duration = Duration::from_millis(20);
/// How long anything else may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The container that the recorded requests are about.
const HANDLE: &str = "c1";

/// A server before a fake, with a container.
struct Harness {
    /// Not dropped: where this is dropped, at a thread's end, a runtime cannot be any more.
    runtime: ManuallyDrop<Runtime>,
    fake: Arc<FakeBackend>,
    folder: tempfile::TempDir,
}

impl Harness {
    fn new() -> Harness {
        // The name tells a panic in one of the server's tasks from others.
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("fuzzed").enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let fake = Arc::new(runtime.block_on(async { FakeBackend::new() }));
        let listener =
            runtime.block_on(Listener::unix(&folder.path().join("socket"), UnixSocketOptions::default()));
        runtime.spawn(serve(
            vec![listener.unwrap()],
            fake.clone(),
            Config::default(),
            std::future::pending(),
        ));
        Harness { runtime: ManuallyDrop::new(runtime), fake, folder }
    }

    fn connect(&self) -> UnixStream {
        let connection = UnixStream::connect(self.folder.path().join("socket")).unwrap();
        connection.set_write_timeout(Some(PATIENCE)).unwrap();
        connection
    }

    /// Ends every process and forgets what requests have made.
    fn begin_anew(&self) {
        self.runtime.block_on(async {
            for handle in self.fake.list(&BTreeMap::new()).await.unwrap().iter() {
                // Another one may be destroying it.
                let _ = self.fake.destroy(handle).await;
            }
            let spec = ContainerSpec { handle: HANDLE.to_owned(), ..ContainerSpec::default() };
            let _ = self.fake.create(spec).await;
        });
    }

    /// Sends the bytes and then nothing more; everything that is answered.
    fn exchange(&self, bytes: &[u8]) -> Vec<u8> {
        let mut connection = self.connect();
        // A server that has closed already takes no more.
        let _ = connection.write_all(bytes);
        let _ = connection.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        connection.set_read_timeout(Some(SILENCE)).unwrap();
        if let Err(error) = connection.read_to_end(&mut answer)
            && error.kind() == ErrorKind::WouldBlock
        {
            self.begin_anew();
            connection.set_read_timeout(Some(PATIENCE)).unwrap();
            let ended = connection.read_to_end(&mut answer);
            assert!(
                !ended.is_err_and(|error| error.kind() == ErrorKind::WouldBlock),
                "the connection stands, though there is nothing to wait for"
            );
        }
        answer
    }
}

/// Whatever comes, the server answers or closes, and serves the next one.
fn connection(bytes: &[u8]) {
    thread_local! {
        static HARNESS: OnceCell<Harness> = const { OnceCell::new() };
    }
    HARNESS.with(|harness| {
        let harness = harness.get_or_init(Harness::new);
        harness.begin_anew();
        let answer = harness.exchange(bytes);
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1."),
            "{:?}",
            answer.escape_ascii().to_string()
        );
        let next = harness.exchange(b"GET /ping HTTP/1.1\r\nHost: api\r\n\r\n");
        assert!(next.starts_with(b"HTTP/1.1 200 OK\r\n"), "{:?}", next.escape_ascii().to_string());
    });
}

#[cfg(test)]
#[path = "../fuzz/brief.rs"]
mod brief;

#[test]
fn no_seed_and_no_mutation_breaks_a_promise() {
    brief::run(TARGETS, 500);
}
