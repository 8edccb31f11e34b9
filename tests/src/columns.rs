//! The backends that the behaviours are run on.

use std::{
    env,
    future::Future,
    panic::resume_unwind,
    sync::{Arc, LazyLock},
    time::Duration,
};

use backend_fake::{FakeBackend, FakeOptions};
use futures_util::future::BoxFuture;
use garden_client::Client;
use garden_server::{Listener, UnixSocketOptions};
use protocol::Backend;
use tokio::{runtime::Builder, sync::oneshot};

use crate::{
    patience::patience,
    world::{Closing, Traits, User, World},
};

/// Behaviours may need this many containers; more would make `no_more_containers_than_allowed` slow.
pub const MAX_CONTAINERS: u64 = 8;

/// No behaviour takes longer, on any column.
static LIMIT: LazyLock<Duration> = LazyLock::new(|| patience(120));

/// One behaviour.
pub type Behaviour = for<'a> fn(&'a World) -> BoxFuture<'a, ()>;

/// Why a column cannot be run here.
pub type Skip = String;

/// Runs one behaviour in a world of its own, in real time.
pub fn check<B>(open: impl Future<Output = Result<World, Skip>>, behaviour: B)
where
    B: for<'a> FnOnce(&'a World) -> BoxFuture<'a, ()> + Send + 'static,
{
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(check_now(open, behaviour));
}

/// Runs one behaviour in a world of its own, in virtual time: waiting takes none. Only for backends in memory.
pub fn check_paused(open: impl Future<Output = Result<World, Skip>>, behaviour: Behaviour) {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(check_now(open, behaviour));
}

async fn check_now<B>(open: impl Future<Output = Result<World, Skip>>, behaviour: B)
where
    B: for<'a> FnOnce(&'a World) -> BoxFuture<'a, ()> + Send + 'static,
{
    let world = match open.await {
        Ok(world) => Arc::new(world),
        Err(reason) => {
            assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "CI=true allows no skip: {reason}");
            println!("skipped: {reason}");
            return;
        }
    };
    // A task of its own, so that the world is closed whatever became of the behaviour.
    let task = tokio::spawn({
        let world = world.clone();
        async move { tokio::time::timeout(*LIMIT, behaviour(&world)).await }
    });
    let result = task.await;
    let world = Arc::into_inner(world).expect("the behaviour has ended");
    let closed = tokio::time::timeout(*LIMIT, world.close()).await;
    match result {
        Err(panic) => {
            if let Ok(Err(complaints)) = closed {
                println!("besides, in closing the world: {complaints}");
            }
            resume_unwind(panic.into_panic());
        }
        Ok(in_time) => in_time.unwrap_or_else(|_| panic!("not done after {LIMIT:?}")),
    }
    closed.unwrap_or_else(|_| panic!("the world is not closed after {LIMIT:?}")).expect("close the world");
}

fn fake_backend() -> Arc<dyn Backend> {
    Arc::new(FakeBackend::with_options(FakeOptions { max_containers: MAX_CONTAINERS, ..Default::default() }))
}

fn fake_traits() -> Traits {
    Traits {
        real: false,
        over_http: false,
        classic_streams: false,
        exclusive: true,
        rootfs: String::new(),
        user: User { name: "vcap".into(), id: 1000 },
    }
}

/// The Linux backend with its default root filesystem, packed from the host's busybox.
pub(crate) fn linux_traits() -> Traits {
    Traits { real: true, ..fake_traits() }
}

/// The fake, in memory.
pub async fn fake() -> Result<World, Skip> {
    Ok(World::new(fake_backend(), fake_traits(), Box::pin(async { Ok(()) })))
}

/// The fake behind this project's server, through its client.
pub async fn fake_over_http() -> Result<World, Skip> {
    Ok(over_http(fake_backend(), fake_traits(), Box::pin(async { Ok(()) })).await)
}

/// Puts this project's server and client before a backend.
pub async fn over_http(backend: Arc<dyn Backend>, traits: Traits, closing: Closing) -> World {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("garden.sock");
    let listener = Listener::unix(&socket, UnixSocketOptions::default()).await.expect("listen");
    let (stop, stopped) = oneshot::channel::<()>();
    let config = garden_server::Config::default();
    let server = tokio::spawn(garden_server::serve(vec![listener], backend, config, async {
        // An error is a world that was dropped instead of closed: stop as well.
        let _ = stopped.await;
    }));
    let client = Client::new(&format!("unix:{}", socket.display())).expect("a client");
    let closing = async move {
        let _ = stop.send(());
        let served = server.await.map_err(|error| error.to_string())?;
        drop(directory);
        let closed = closing.await;
        served.map_err(|error| error.to_string()).and(closed)
    };
    World::new(Arc::new(client), Traits { over_http: true, ..traits }, Box::pin(closing))
}

/// Makes a `#[test]` of each behaviour, in a module for each theme, that calls `run` of the file it is used in with the
/// theme's name and the behaviour.
#[macro_export]
macro_rules! tests_of {
    ($($theme:ident { $($name:ident,)* })*) => {
        $(mod $theme {
            $(#[test]
            fn $name() {
                super::run(stringify!($theme), |world| {
                    Box::pin(tests::behaviours::$theme::$name(world))
                });
            })*
        })*
    };
}
