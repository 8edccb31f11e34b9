//! A container's life on a real kernel.

#![allow(clippy::unwrap_used)]

use backend_linux::{Config, LinuxBackend, NetworkConfig};
use futures_util::StreamExt;
use protocol::{Backend, ContainerSpec, ProcessSpec};

async fn text(output: &protocol::Output) -> String {
    let mut stream = output.open();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

fn sh(script: &str) -> ProcessSpec {
    ProcessSpec { path: "/bin/sh".into(), args: vec!["-c".into(), script.into()], ..ProcessSpec::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_runs_in_a_container_and_nothing_is_left_of_it() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        eprintln!("skipped: needs root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        tag: "zz".into(),
        depot: folder.path().join("depot"),
        store: folder.path().join("store"),
        network: NetworkConfig { pool: "10.253.255.0/26".parse().unwrap(), ..NetworkConfig::default() },
        ..Config::default()
    };
    let backend = LinuxBackend::start(config.clone()).await.unwrap();
    for _ in 0..20 {
        let begin = std::time::Instant::now();
        backend.create(ContainerSpec { handle: "c".into(), ..ContainerSpec::default() }).await.unwrap();
        let created = begin.elapsed();
        let process = backend
            .run("c", sh("id; cat /proc/self/status | grep Cap; ls /; mount; ip addr; cat; exit 7"))
            .await
            .unwrap();
        process.control.write_stdin("hello\n".into()).await.unwrap();
        process.control.close_stdin().await.unwrap();
        let (out, err) = (text(&process.stdout).await, text(&process.stderr).await);
        println!("{out}\n{err}");
        assert_eq!(process.exit.await.unwrap(), 7);
        let begin = std::time::Instant::now();
        let process =
            backend.run("c", ProcessSpec { path: "true".into(), ..ProcessSpec::default() }).await.unwrap();
        assert_eq!(process.exit.await.unwrap(), 0);
        let ran = begin.elapsed();
        let begin = std::time::Instant::now();
        backend.destroy("c").await.unwrap();
        println!("create {created:?} run {ran:?} destroy {:?}", begin.elapsed());
    }
    drop(backend);
    backend_linux::cleanup(&config).await.unwrap();
}
