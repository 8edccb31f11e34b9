//! The late-drain path over and over: processes that write much in small pieces and end at once, and whose output is
//! opened after their end only.

use std::{
    collections::VecDeque,
    io::{self, Read},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::raw::Process;

/// Writes of each process.
const WRITES: usize = 4000;
/// Bytes of each write.
const WRITE_BYTES: usize = 100;
/// One in so many is opened later than at once.
const LATER_ONE_IN: usize = 16;
const WORKERS: usize = 4;

/// Has `runs` processes run in a container, and holds every byte that they wrote against what they should have. Some
/// outputs are opened up to `latest` after the exit. Answers with how many bytes there were.
pub fn soak(socket: &Path, handle: &str, runs: usize, latest: Duration) -> io::Result<u64> {
    let text = (100_000..).flat_map(|number: u32| format!("{number}\n").into_bytes());
    let text: Vec<u8> = text.take(WRITES * WRITE_BYTES).collect();
    let script = format!("seq 100000 999999 | head -c {} >/soak", text.len());
    check(Process::run(socket, handle, &["sh", "-c", &script])?.exit_status()?)?;

    let next = AtomicUsize::new(0);
    let work = || -> io::Result<u64> {
        let (size, count) = (format!("bs={WRITE_BYTES}"), format!("count={WRITES}"));
        let command = ["dd", "if=/soak", &size, &count, "status=none"];
        let mut later: VecDeque<(Instant, Process)> = VecDeque::new();
        let mut bytes = 0;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= runs {
                break;
            }
            let mut process = Process::run(socket, handle, &command)?;
            check(process.exit_status()?)?;
            if number.is_multiple_of(LATER_ONE_IN) {
                // In turn, from nearly at once to the latest.
                let part = (number / LATER_ONE_IN % 8 + 1) as u32;
                later.push_back((Instant::now() + latest / 8 * part, process));
            } else {
                bytes += compare(&process, socket, &text)?;
            }
            while later.front().is_some_and(|(due, _)| *due <= Instant::now())
                && let Some((_, process)) = later.pop_front()
            {
                bytes += compare(&process, socket, &text)?;
            }
        }
        for (due, process) in later {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            bytes += compare(&process, socket, &text)?;
        }
        Ok(bytes)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        let results = workers.into_iter().map(|worker| worker.join().expect("a worker"));
        results.collect::<io::Result<Vec<u64>>>().map(|bytes| bytes.iter().sum())
    })
}

fn check(status: i64) -> io::Result<()> {
    if status == 0 { Ok(()) } else { Err(io::Error::other(format!("a process ended with {status}"))) }
}

fn compare(process: &Process, socket: &Path, expected: &[u8]) -> io::Result<u64> {
    let mut bytes = Vec::with_capacity(expected.len());
    process.output(socket, "stdout")?.read_to_end(&mut bytes)?;
    if bytes != expected {
        let why = format!("{} bytes arrived of {}, or other ones", bytes.len(), expected.len());
        return Err(io::Error::other(why));
    }
    Ok(bytes.len() as u64)
}
