//! Who takes part: the server, the floor, and foreign runtimes.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use garden_client::{Backend, Client, ContainerSpec, ProcessSpec};
use protocol::{Limits, MemoryLimits};
use tokio::runtime::Runtime;

use crate::{
    Outcome,
    oci::{Oci, Shape},
};

/// How long one life took; a runtime that does it in one command knows only the whole.
#[derive(Clone, Copy)]
pub struct Life {
    pub create: Option<Duration>,
    pub run: Option<Duration>,
    pub destroy: Option<Duration>,
    pub whole: Duration,
}

/// One of those that are compared.
pub trait Contestant {
    fn name(&self) -> &'static str;
    /// Has `clients` live `lives` lives each, side by side.
    fn lives(&mut self, clients: usize, lives: usize) -> Outcome<Vec<Life>>;
}

/// Everyone who is there.
pub fn all(address: &str, scratch: &Path, memory: &Path) -> Outcome<Vec<Box<dyn Contestant>>> {
    let mut all: Vec<Box<dyn Contestant>> = vec![
        Box::new(Garden::new(address)?),
        Box::new(Floor { scratch: scratch.join("floor"), running: Vec::new() }),
    ];
    for (program, shape) in [("crun", Shape::Run), ("crun", Shape::Garden), ("runc", Shape::Run)] {
        let name = format!("{program}-{}", shape as u8);
        match Oci::new(program, shape, &scratch.join(&name), &memory.join(&name)) {
            Ok(oci) => all.push(Box::new(oci)),
            Err(why) => println!("without {program}: {why}"),
        }
    }
    Ok(all)
}

struct Garden {
    runtime: Runtime,
    address: String,
    client: Client,
}

impl Garden {
    fn new(address: &str) -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(Garden { runtime, address: address.to_owned(), client: Client::new(address)? })
    }
}

impl Contestant for Garden {
    fn name(&self) -> &'static str {
        "garden-server"
    }

    fn lives(&mut self, clients: usize, lives: usize) -> Outcome<Vec<Life>> {
        if clients == 1 {
            return self.runtime.block_on(garden_lives(self.client.clone(), lives));
        }
        self.runtime.block_on(async {
            let tasks = (0..clients)
                .map(|_| Ok(tokio::spawn(garden_lives(Client::new(&self.address)?, lives))))
                .collect::<Outcome<Vec<_>>>()?;
            let mut all = Vec::new();
            for task in tasks {
                all.extend(task.await??);
            }
            Ok(all)
        })
    }
}

async fn garden_lives(client: Client, lives: usize) -> Outcome<Vec<Life>> {
    let mut all = Vec::with_capacity(lives);
    for _ in 0..lives {
        let limits = Limits { memory: MemoryLimits { limit_in_bytes: 64 << 20 }, ..Limits::default() };
        let begun = Instant::now();
        let handle = client.create(ContainerSpec { limits, ..ContainerSpec::default() }).await?;
        let created = Instant::now();
        let spec = ProcessSpec { path: "/bin/true".into(), ..ProcessSpec::default() };
        let status = client.run(&handle, spec).await?.exit.await?;
        let ran = Instant::now();
        client.destroy(&handle).await?;
        let ended = Instant::now();
        if status != 0 {
            return Err(format!("true ended with {status}").into());
        }
        all.push(Life {
            create: Some(created - begun),
            run: Some(ran - created),
            destroy: Some(ended - ran),
            whole: ended - begun,
        });
    }
    Ok(all)
}

struct Floor {
    scratch: PathBuf,
    running: Vec<FloorProcess>,
}

struct FloorProcess {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Contestant for Floor {
    fn name(&self) -> &'static str {
        "bare system calls"
    }

    fn lives(&mut self, clients: usize, lives: usize) -> Outcome<Vec<Life>> {
        while self.running.len() < clients {
            let next = FloorProcess::start(&self.scratch.join(self.running.len().to_string()))?;
            self.running.push(next);
        }
        side_by_side(self.running[..clients].iter_mut().map(|floor| move || floor.lives(lives)))
    }
}

impl FloorProcess {
    fn start(directory: &Path) -> Outcome<Self> {
        std::fs::create_dir_all(directory)?;
        let program = std::env::current_exe()?.with_file_name("bench-floor");
        let mut child =
            Command::new(program).arg(directory).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let to = child.stdin.take();
        let from = BufReader::new(child.stdout.take().ok_or("bench-floor without output")?);
        Ok(FloorProcess { child, to, from })
    }

    fn lives(&mut self, lives: usize) -> Outcome<Vec<Life>> {
        (0..lives).map(|_| self.life()).collect()
    }

    fn life(&mut self) -> Outcome<Life> {
        let to = self.to.as_mut().ok_or("bench-floor is at its end")?;
        writeln!(to)?;
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        let micros: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [create, run, destroy] = micros[..] else {
            return Err(format!("bench-floor said {line:?}").into());
        };
        let [create, run, destroy] = [create, run, destroy].map(Duration::from_micros);
        Ok(Life {
            create: Some(create),
            run: Some(run),
            destroy: Some(destroy),
            whole: create + run + destroy,
        })
    }
}

impl Drop for FloorProcess {
    /// The end of its input lets it clean up.
    fn drop(&mut self) {
        self.to = None;
        if let Err(error) = self.child.wait() {
            eprintln!("bench-floor: {error}");
        }
    }
}

/// Runs each piece of work on a thread of its own and gathers what they answer.
pub fn side_by_side<W: FnOnce() -> Outcome<Vec<Life>> + Send>(
    work: impl Iterator<Item = W>,
) -> Outcome<Vec<Life>> {
    thread::scope(|scope| {
        let threads: Vec<_> = work.map(|work| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| "a thread of the benchmark panicked")??);
        }
        Ok(all)
    })
}
