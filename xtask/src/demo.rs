//! `cargo xtask demo`: the main job, on a real kernel.

use std::time::Instant;

use crate::{
    Outcome,
    build::{self, Profile},
    picture::Picture,
    server::Server,
    setup, shell,
};

/// Builds, starts a server of its own, runs `garden-client/examples/demo.rs` against it, and looks whether anything is
/// left.
pub fn demo(real: bool) -> Outcome {
    setup::setup(&setup::DEMO)?;
    let built = Instant::now();
    build::release(&["host-picture"])?;
    println!("built in {:.1} s", built.elapsed().as_secs_f64());

    let begun = Instant::now();
    if real {
        let before = Picture::save(Profile::Release)?;
        let shown = show("linux");
        let left = before.compare();
        // What went wrong first comes first.
        shown?;
        left?;
        println!("\nThe host is as it was: mounts, links, routes, rules, cgroups, processes, namespaces.");
    } else {
        if !shell::is_root() {
            println!("Not root. Namespaces, mounts, cgroups, links and firewall rules need it.");
        }
        println!("What follows is the same on the fake backend: nothing of it touches the host.\n");
        show("fake")?;
    }
    println!("The demo took {:.1} s.", begun.elapsed().as_secs_f64());
    Ok(())
}

fn show(backend: &str) -> Outcome {
    let begun = Instant::now();
    let server = Server::start(&build::binary(Profile::Release, "garden-server")?, backend, "dm")?;
    println!("{:8.1} ms  server started, backend {backend}", begun.elapsed().as_secs_f64() * 1e3);
    let address = format!("unix:{}", server.socket().display());
    let demo = build::binary(Profile::Release, "examples/demo")?;
    if let Err(why) = shell::run(shell::command(demo).args([address.as_str(), backend])) {
        return Err(format!("{why}; the server's last words:\n{}", server.log()));
    }
    let begun = Instant::now();
    server.stop()?;
    println!("{:8.1} ms  server stopped", begun.elapsed().as_secs_f64() * 1e3);
    Ok(())
}
