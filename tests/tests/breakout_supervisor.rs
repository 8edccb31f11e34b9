//! A supervisor that has gone over to the other side: what it tells the server is an error, and does no more.
//!
//! It is what stands next to the containers: nothing inside reaches the server but through it. docs/DEFENCES.md says
//! what keeps containers from it. The server is a process of its own, since it is what would be killed or filled up.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{fs, os::unix::fs::PermissionsExt, process::Command, sync::LazyLock, time::Duration};

use garden_client::Client;
use protocol::{Backend, ContainerSpec, Properties};
use tempfile::TempDir;
use tests::{
    killable::{Killable, binary, can_make_containers},
    patience::patience,
    world::{command_spec, end},
};

/// No request takes longer, whatever the supervisor says.
static PATIENCE: LazyLock<Duration> = LazyLock::new(|| patience(30));
/// The most memory that the server may take for it: a tenth of the longest message that is sent here.
const MAX_MEMORY_KIB: u64 = 200 * 1024;

/// A server beside which the program of the attacks stands as a supervisor, which finds in its own file what it is to
/// do. The server's own program is a copy, for as long as the directory lives.
fn hostile(word: &str) -> (TempDir, Killable) {
    let directory = tempfile::tempdir().unwrap();
    let mut program = fs::read(binary("attack")).unwrap();
    program.extend(format!(" {word}").bytes());
    let supervisor = directory.path().join("garden-init");
    fs::write(&supervisor, program).unwrap();
    fs::set_permissions(&supervisor, fs::Permissions::from_mode(0o755)).unwrap();
    let server = directory.path().join("garden-server");
    // By another process: a child that another thread forks meanwhile would have the copy open for writing, and no such
    // file can be executed.
    assert!(Command::new("cp").arg(binary("garden-server")).arg(&server).status().expect("cp").success());
    let instead = format!("shift; exec '{}' \"$@\"", server.display());
    let wrapper = ["sh", "-c", &instead, "sh"];
    // None that was prepared: the errors are those of the requests.
    (directory, Killable::new().started_by(&wrapper).with_options(&["--prepared-containers", "0"]))
}

/// What a request comes to, in time.
async fn in_time<T>(request: impl Future<Output = T>) -> T {
    tokio::time::timeout(*PATIENCE, request).await.expect("an answer in time")
}

/// Has each of these supervisors attack a server, which must do no less afterwards and have nothing left of it.
async fn each(words: &[&str], attack: impl AsyncFn(&Client)) {
    if !can_make_containers() {
        return;
    }
    for word in words {
        println!("{word}");
        let (_directory, mut server) = hostile(word);
        let client = server.start(None).await;
        for _ in 0..2 {
            attack(&client).await;
            let listed = in_time(client.list(&Properties::new())).await.expect("list");
            assert_eq!(listed.to_vec(), Vec::<String>::new());
            in_time(client.capacity()).await.expect("capacity");
        }
        let peak = server.peak_memory_kib();
        assert!(peak < MAX_MEMORY_KIB, "the server took {peak} KiB");
        assert_eq!(server.clean_up().await, Vec::<String>::new());
    }
}

async fn create(client: &Client) -> String {
    in_time(client.create(ContainerSpec::default())).await.expect("create")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_is_hostile_from_the_start_is_an_error_of_the_create() {
    let words =
        ["no-namespaces", "not-namespaces", "out-of-turn", "too-long", "counter", "no-message", "version"];
    each(&words, async |client| {
        let created = in_time(client.create(ContainerSpec::default())).await;
        println!("    {}", created.expect_err("a hostile supervisor"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_whose_rings_are_none_is_an_error_of_the_run() {
    each(&["ring-can-shrink", "ring-is-pipe", "ring-is-file", "ring-is-short"], async |client| {
        let handle = create(client).await;
        match in_time(client.run(&handle, command_spec(&["true"]))).await {
            Err(error) => println!("    {error}"),
            Ok(process) => {
                let exit = in_time(process.exit).await;
                let destroyed = in_time(client.destroy(&handle)).await;
                panic!("a hostile supervisor: {exit:?}, {destroyed:?}, {:?}", in_time(client.ping()).await)
            }
        }
        in_time(client.destroy(&handle)).await.expect("destroy");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_which_the_supervisor_tells_nothing_ends() {
    each(&["no-descriptors", "few-descriptors"], async |client| {
        let handle = create(client).await;
        // It lets go of the connection that would bring the exit status.
        let process = in_time(client.run(&handle, command_spec(&["true"]))).await.expect("run");
        let ended = in_time(end(process)).await;
        assert_eq!((ended.stdout, ended.stderr), (Vec::new(), Vec::new()));
        assert_ne!(ended.status, 0);
        in_time(client.destroy(&handle)).await.expect("destroy");
    })
    .await;
}
