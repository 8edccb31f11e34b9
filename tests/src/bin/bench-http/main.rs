//! What the front end costs: the CPU time that an ordinary keep-alive request takes in `garden-server`, beside a bare
//! hyper server that returns the same bytes and does nothing else.
//!
//! `bench-http SOCKET PID [ROUNDS]`, of a running server without containers; `cargo xtask bench http` starts one. The two
//! take turns in one sitting. What is counted is the time of the server's process, user and kernel, as the kernel
//! accounts it: the client's own is left out.

#![forbid(unsafe_code)]

mod bare;
mod load;
mod server;

use std::{error::Error, path::Path, time::Duration};

use garden_client::{Backend, Client, ContainerSpec};
use server::Server;

type Failure = Box<dyn Error + Send + Sync>;
type Outcome<T = ()> = Result<T, Failure>;

/// Containers that `list` tells.
const CONTAINERS: usize = 200;
const ROUNDS: usize = 40;
/// Requests of one turn, over all connections.
const REQUESTS: usize = 4000;
/// Turns that are not counted.
const WARM_UP: usize = 3;
/// The share over the bare server's time that is allowed.
const GOAL: f64 = 1.10;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [bare::MODE, socket, answers] => bare::serve(socket, Path::new(answers), false),
        [bare::MODE_WITH_LIMIT, socket, answers] => bare::serve(socket, Path::new(answers), true),
        [socket, pid] => bench(Server::running(socket, pid)?, ROUNDS),
        [socket, pid, rounds] => bench(Server::running(socket, pid)?, rounds.parse()?),
        _ => Err("usage: bench-http SOCKET PID [ROUNDS]".into()),
    }
}

fn bench(garden: Server, rounds: usize) -> Outcome {
    let scratch = tempfile::tempdir()?;
    let handle = fill(garden.socket())?;
    let paths = ["/ping".to_owned(), format!("/containers/{handle}/info"), "/containers".to_owned()];

    let mut answers = Vec::new();
    for path in &paths {
        answers.push((path.clone(), load::answer(garden.socket(), path)?));
    }
    let bare = [
        Server::bare(bare::MODE, &answers, scratch.path())?,
        Server::bare(bare::MODE_WITH_LIMIT, &answers, scratch.path())?,
    ];
    for (server, (path, expected)) in bare.iter().flat_map(|server| answers.iter().map(move |a| (server, a)))
    {
        let given = load::answer(server.socket(), path)?;
        if load::undated(&given) != load::undated(expected) {
            return Err(format!("{path}: the bare server answers otherwise").into());
        }
    }

    println!(
        "CPU time of the server for each request, µs, p50 / p95 of {rounds} turns of {REQUESTS} requests"
    );
    println!("{:22} {:>16} {:>16} {:>16}", "", "garden-server", "bare hyper", "with time limit");
    for (path, answer) in &answers {
        let mut times: [Vec<f64>; 3] = Default::default();
        for round in 0..WARM_UP + rounds {
            for (server, times) in [&garden, &bare[0], &bare[1]].into_iter().zip(&mut times) {
                let time = one_turn(server, path, answer.len())?;
                if round >= WARM_UP {
                    times.push(time);
                }
            }
        }
        print!("{:22}", path.replace(&handle, ":handle"));
        for times in &times {
            print!(" {:>7.2} /{:>7.2}", percentile(times, 50), percentile(times, 95));
        }
        println!("   ratios {:.3} {:.3}", ratio(&times[0], &times[1]), ratio(&times[0], &times[2]));
    }
    println!("goal: at most {GOAL} of bare hyper");
    Ok(())
}

/// The p50 of the ratios of turns that followed one another: the machine's speed drifts.
fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    percentile(&ratios, 50)
}

/// Makes the containers and answers with the handle of one.
fn fill(socket: &Path) -> Outcome<String> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let client = Client::new(&format!("unix:{}", socket.display()))?;
        let mut handle = String::new();
        for n in 0..CONTAINERS {
            let spec = ContainerSpec {
                // As Diego's are.
                handle: format!("{n:08x}-5c1d-4c9b-7a3e-{n:012x}"),
                properties: [("garden.network:app".to_owned(), "web".to_owned())].into(),
                ..ContainerSpec::default()
            };
            handle = client.create(spec).await?;
        }
        Ok(handle)
    })
}

/// Microseconds of the server's CPU time for each request.
fn one_turn(server: &Server, path: &str, answer_bytes: usize) -> Outcome<f64> {
    let before = server.cpu_time()?;
    load::requests(server.socket(), path, answer_bytes, REQUESTS)?;
    let spent: Duration = server.cpu_time()? - before;
    Ok(spent.as_secs_f64() * 1e6 / REQUESTS as f64)
}

fn percentile(times: &[f64], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}
