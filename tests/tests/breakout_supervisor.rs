//! A supervisor that has gone over to the other side: what it tells the server is an error, and does no more.
//!
//! It is what stands next to the containers: nothing inside reaches the server but through it. docs/DEFENCES.md says
//! what keeps containers from it.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use backend_linux::Config;
use tempfile::TempDir;
use tests::{
    columns::{Behaviour, check},
    killable::binary,
    linux::linux_with,
    world::{World, command_spec, end},
};

/// The program of the attacks as a supervisor, which finds in its own file what it is to do.
fn hostile(word: &str) -> (TempDir, impl FnOnce(&mut Config)) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("garden-init");
    write(&path, word);
    let change = move |config: &mut Config| {
        config.init_binary = Some(path);
        // None that was prepared: the errors are those of the requests.
        config.prepared_containers = 0;
    };
    (directory, change)
}

fn write(path: &Path, word: &str) {
    let mut program = fs::read(binary("attack")).unwrap();
    program.extend(format!(" {word}").bytes());
    fs::write(path, program).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn each(words: &[&str], behaviour: Behaviour) {
    for word in words {
        println!("{word}");
        let (_directory, change) = hostile(word);
        check(linux_with(change), behaviour);
    }
}

/// The server still does what needs no supervisor, and has nothing left of what failed.
async fn assert_alive(world: &World) {
    assert_eq!(world.all_handles().await, Vec::<String>::new());
    world.backend().capacity().await.expect("capacity");
}

#[test]
fn a_supervisor_that_is_hostile_from_the_start_is_an_error_of_the_create() {
    let words =
        ["no-namespaces", "not-namespaces", "out-of-turn", "too-long", "pipe", "no-message", "version"];
    each(&words, |world| {
        Box::pin(async move {
            for _ in 0..2 {
                let error = world.backend().create(world.spec()).await.expect_err("a hostile supervisor");
                println!("    {error}");
                assert_alive(world).await;
            }
        })
    });
}

#[test]
fn a_supervisor_whose_rings_are_none_is_an_error_of_the_run() {
    each(&["ring-can-shrink", "ring-is-pipe", "ring-is-file"], |world| {
        Box::pin(async move {
            let handle = world.create().await;
            for _ in 0..2 {
                let run = world.backend().run(&handle, command_spec(&["true"])).await;
                let Err(error) = run else { panic!("a hostile supervisor") };
                println!("    {error}");
            }
            world.backend().destroy(&handle).await.expect("destroy");
            assert_alive(world).await;
        })
    });
}

#[test]
fn a_process_of_which_the_supervisor_tells_nothing_ends() {
    each(&["no-descriptors", "few-descriptors"], |world| {
        Box::pin(async move {
            let handle = world.create().await;
            for _ in 0..2 {
                // It lets go of the connection that would bring the exit status.
                let process = world.run(&handle, &["true"]).await;
                let ended = end(process).await;
                assert_eq!((ended.stdout, ended.stderr), (Vec::new(), Vec::new()));
                assert_ne!(ended.status, 0);
            }
            world.backend().destroy(&handle).await.expect("destroy");
            assert_alive(world).await;
        })
    });
}
