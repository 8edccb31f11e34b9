//! The main job, step by step, through the client library: `cargo xtask demo` starts a server and runs this.
//!
//! By hand: `cargo run --example demo -- unix:/run/garden/garden.sock linux`. The second argument is the server's
//! backend; the fake one has no network, so there is no page to fetch from it.

use std::{
    error::Error,
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use garden_client::{
    Address, Backend, ByteStream, Client, ContainerSpec, FilesQuery, ProcessSpec, Properties, tarball,
};
use protocol::{Limits, MemoryLimits, NetIn, PidLimits};

type Failure = Box<dyn Error + Send + Sync>;
type Outcome<T = ()> = Result<T, Failure>;

const HANDLE: &str = "demo";
const USER: &str = "vcap";
/// What the container runs: small enough for the fake's shell too.
const SCRIPT: &str = "\
echo \"at work: $USER, in $HOME\"
cat app/greeting.txt
sleep 0.3
echo 'half-way'
sleep 0.3
cat app/greeting.txt > app/result.txt
echo 'copied inside' >> app/result.txt
echo 'a word on stderr' >&2
exit 7
";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match demo().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn demo() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, backend] = arguments.as_slice() else {
        return Err("usage: demo ADDRESS linux|fake".into());
    };
    let client = Client::new(address)?;
    let files = scratch()?;
    let shown = show(&client, &files, backend == "linux").await;
    fs::remove_dir_all(&files)?;
    if shown.is_err() {
        // Whatever went wrong is the news; that nothing is left is only good manners here.
        let _ = client.destroy(HANDLE).await;
    }
    shown
}

async fn show(client: &Client, files: &Path, real: bool) -> Outcome {
    let capacity = timed("ping and capacity", async {
        client.ping().await?;
        client.capacity().await
    })
    .await?;
    note(&format!(
        "{} MiB of memory, {} containers at most",
        capacity.memory_in_bytes >> 20,
        capacity.max_containers
    ));

    let limits = Limits {
        memory: MemoryLimits { limit_in_bytes: 64 << 20 },
        pid: PidLimits { max: 64 },
        ..Limits::default()
    };
    let spec = ContainerSpec { handle: HANDLE.into(), limits, ..ContainerSpec::default() };
    timed("create: default root filesystem, 64 MiB, 64 processes", client.create(spec)).await?;
    let info = client.info(HANDLE).await?;
    note(&format!("{} at {}, host side {}", info.state, info.container_ip, info.host_ip));

    let into = FilesQuery { user: USER.into(), path: "app".into() };
    let app = tarball::pack(files.join("app"));
    timed("stream a directory in, as vcap", client.stream_in(HANDLE, into, app)).await?;

    run(client).await?;
    map_port(client, real).await?;

    let out = FilesQuery { user: USER.into(), path: "app/result.txt".into() };
    timed("stream the result out", async {
        tarball::unpack(client.stream_out(HANDLE, out).await?, files.join("out")).await?;
        Outcome::Ok(())
    })
    .await?;
    fs::read_to_string(files.join("out/result.txt"))?.lines().for_each(note);

    numbers(client).await?;

    timed("destroy", client.destroy(HANDLE)).await?;
    let left = client.list(&Properties::from([("garden.state".into(), "all".into())])).await?;
    if !left.is_empty() {
        return Err(format!("still there: {}", left.join(" ")).into());
    }
    note("the server knows of no container");
    Ok(())
}

/// Runs a program and shows its output as it comes.
async fn run(client: &Client) -> Outcome {
    let begun = Instant::now();
    let spec = ProcessSpec { user: USER.into(), ..ProcessSpec::new("sh", ["app/work.sh"]) };
    let process = client.run(HANDLE, spec).await?;
    let (out, err) = tokio::join!(
        follow(process.stdout.open(), "stdout", begun),
        follow(process.stderr.open(), "stderr", begun)
    );
    out?;
    err?;
    let status = process.exit.await?;
    step("run a program in it, as vcap", begun);
    note(&format!("exit status {status}"));
    if status == 7 { Ok(()) } else { Err("the program should have ended with 7".into()) }
}

async fn follow(mut stream: ByteStream, name: &str, begun: Instant) -> Outcome {
    while let Some(bytes) = stream.next().await {
        let bytes = bytes?;
        for line in String::from_utf8_lossy(&bytes).lines() {
            note(&format!("{:4} ms {name}: {line}", begun.elapsed().as_millis()));
        }
    }
    Ok(())
}

/// Maps a port, serves a page in the container and fetches it through the host's side.
async fn map_port(client: &Client, real: bool) -> Outcome {
    let ports = NetIn { host_port: 0, container_port: 8080 };
    let ports = timed("map a port", client.net_in(HANDLE, ports)).await?;
    note(&format!("host port {} to container port {}", ports.host_port, ports.container_port));
    if !real {
        note("the fake backend has no network: no page to fetch");
        return Ok(());
    }
    let begun = Instant::now();
    let args = ["httpd", "-f", "-p", "8080", "-h", "/home/vcap/app"];
    let spec = ProcessSpec { user: USER.into(), ..ProcessSpec::new("busybox", args) };
    let server = client.run(HANDLE, spec).await?;
    let page = tokio::task::spawn_blocking(move || page(ports.host_port)).await??;
    step("fetch a page from the container through it", begun);
    note(&page);
    server.control.signal(protocol::Signal::Terminate).await?;
    note(&format!("httpd terminated: exit status {}", server.exit.await?));
    Ok(())
}

/// The greeting as httpd serves it. Until httpd listens, the connection is refused or closed.
fn page(port: u16) -> Outcome<String> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let answer = get(TcpStream::connect(("127.0.0.1", port)), "/greeting.txt");
        match answer {
            Ok(answer) if answer.starts_with("HTTP/1.") && answer.contains(" 200 OK") => {
                let (_, body) = answer.split_once("\r\n\r\n").ok_or("an answer without a body")?;
                return Ok(body.trim_end().to_owned());
            }
            Ok(answer) if !answer.is_empty() => return Err(format!("httpd said {answer:?}").into()),
            _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Ok(_) => return Err("httpd closes the connection without an answer".into()),
            Err(error) => return Err(error),
        }
    }
}

fn get<S: Read + Write>(connection: std::io::Result<S>, path: &str) -> Outcome<String> {
    let mut connection = connection?;
    write!(connection, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Limits and metrics, as the API and as Prometheus see them.
async fn numbers(client: &Client) -> Outcome {
    let (memory, metrics) = timed("limits and metrics", async {
        Ok::<_, protocol::Error>((client.memory_limits(HANDLE).await?, client.metrics(HANDLE).await?))
    })
    .await?;
    note(&format!(
        "limit {} MiB, in use {} KiB; cpu {:.1} ms; {} of {} processes; age {:.1} s",
        memory.limit_in_bytes >> 20,
        metrics.memory.total_usage_toward_limit >> 10,
        metrics.cpu.usage_ns as f64 / 1e6,
        metrics.pid.current,
        metrics.pid.max,
        metrics.age.as_secs_f64(),
    ));
    let begun = Instant::now();
    let answer = match client.address() {
        Address::Unix(path) => get(UnixStream::connect(path), "/metrics")?,
        Address::Tcp(address) => get(TcpStream::connect(address), "/metrics")?,
    };
    step("GET /metrics", begun);
    let wanted =
        ["garden_build_info", "garden_containers", "garden_pool_in_use", "garden_oom", "garden_dropped"];
    for line in answer.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name))) {
        note(line);
    }
    Ok(())
}

/// A folder with what is streamed in.
fn scratch() -> Outcome<PathBuf> {
    let folder = std::env::temp_dir().join(format!("garden-demo-files-{}", std::process::id()));
    fs::create_dir_all(folder.join("app"))?;
    fs::write(folder.join("app/greeting.txt"), "Hello from a file that was streamed in.\n")?;
    fs::write(folder.join("app/work.sh"), SCRIPT)?;
    Ok(folder)
}

async fn timed<T, E: Into<Failure>>(what: &str, work: impl Future<Output = Result<T, E>>) -> Outcome<T> {
    let begun = Instant::now();
    let result = work.await.map_err(|error| -> Failure { format!("{what}: {}", error.into()).into() })?;
    step(what, begun);
    Ok(result)
}

fn step(what: &str, begun: Instant) {
    println!("{:8.1} ms  {what}", begun.elapsed().as_secs_f64() * 1e3);
}

fn note(text: &str) {
    println!("{:13}{text}", "");
}
