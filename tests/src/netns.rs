//! Network namespaces that stand for hosts, each with a thread that lives in it. A thread that was moved is never used
//! for anything else.

use std::{
    fs::File,
    io::{self, Read},
    net::{SocketAddr, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, unshare};

use crate::patience::patience;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace with nothing in it but a loopback, which is up.
pub struct Namespace {
    jobs: mpsc::Sender<Job>,
    descriptor: OwnedFd,
}

impl Namespace {
    /// Makes one. Needs root.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Namespace {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (made, descriptor) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            let descriptor = File::open("/proc/thread-self/ns/net").expect("the namespace");
            made.send(OwnedFd::from(descriptor)).expect("who asked for it");
            for job in inbox {
                job();
            }
        });
        let namespace = Namespace { jobs, descriptor: descriptor.recv().expect("a network namespace") };
        namespace.command(&["ip", "link", "set", "lo", "up"]);
        namespace
    }

    /// Runs `work` on the namespace's thread.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = move || done.send(catch_unwind(AssertUnwindSafe(work))).expect("who asked for it");
        self.jobs.send(Box::new(job)).expect("the namespace's thread");
        result.recv().expect("the namespace's thread").unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Runs a program that must succeed, and returns what it prints.
    pub fn command(&self, words: &[&str]) -> String {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let output = self.run(move || Command::new(&words[0]).args(&words[1..]).output().expect("a program"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// What other programs know it by.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.descriptor.as_raw_fd())
    }

    /// What starts another program in the namespace.
    pub fn wrapper(&self) -> [String; 3] {
        ["nsenter".to_owned(), format!("--net={}", self.path()), "--".to_owned()]
    }

    /// Connects, and reads to the end.
    pub fn ask(&self, address: impl Into<SocketAddr>) -> io::Result<String> {
        let (address, limit): (_, Duration) = (address.into(), patience(5));
        self.run(move || {
            let mut connection = TcpStream::connect_timeout(&address, limit)?;
            connection.set_read_timeout(Some(limit))?;
            let mut answer = String::new();
            connection.read_to_string(&mut answer)?;
            Ok(answer)
        })
    }
}
