//! What an image, or what runs from it, may try while and after a container is made: on the Linux backend, in process.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs;

use futures_util::StreamExt;
use protocol::{ContainerSpec, Limits, MemoryLimits, ProcessSpec};
use tests::{
    columns::{Behaviour, check},
    linux::linux,
    world::World,
};

fn on_linux(behaviour: Behaviour) {
    check(linux(), behaviour);
}

/// Runs a script to its end: its output, and its status.
async fn run(world: &World, handle: &str, script: &str) -> (String, i32) {
    let args = vec!["-c".to_owned(), script.to_owned()];
    let spec = ProcessSpec { path: "/bin/sh".to_owned(), args, ..ProcessSpec::default() };
    let process = world.backend().run(handle, spec).await.expect("run");
    let mut stream = process.stdout.open();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.expect("output"));
    }
    (String::from_utf8_lossy(&bytes).into_owned(), process.exit.await.expect("exit status"))
}

#[test]
fn a_container_cannot_take_every_terminal_of_the_host() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.backend().create(ContainerSpec::default()).await.expect("create");
            let script = "for i in $(seq 1050); do sleep 1000 3<>/dev/ptmx & done 2> /dev/null
                count() { ls /dev/pts | grep -c '[0-9]'; }
                n=0
                while [ $(count) -lt 1024 ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
                sleep 0.5
                count
                (exec 3<>/dev/ptmx) 2> /dev/null && echo one more
                exit 0";
            assert_eq!(run(world, &handle, script).await, ("1024\n".to_owned(), 0));
            fs::OpenOptions::new().read(true).write(true).open("/dev/ptmx").expect("a terminal of the host");
            world.backend().destroy(&handle).await.expect("destroy");
        })
    });
}

#[test]
fn a_memory_limit_that_not_even_init_fits_in_is_named() {
    on_linux(|world| {
        Box::pin(async move {
            // Where init dies depends on how far it gets.
            for pages in [1, 2, 3, 5, 7, 9, 11, 13] {
                for privileged in [false, true] {
                    let memory = MemoryLimits { limit_in_bytes: pages * 4096 };
                    let limits = Limits { memory, ..Limits::default() };
                    let spec = ContainerSpec { limits, privileged, ..ContainerSpec::default() };
                    let error =
                        world.backend().create(spec).await.expect_err("too little memory").to_string();
                    assert!(error.contains("is its memory limit too small?"), "{pages} pages: {error}");
                }
            }
        })
    });
}
