//! The fuzz targets' brief run: part of the unit tests of each crate that has targets, which include this file. Every
//! seed, and thousands of mutations of them, always the same ones. `cargo xtask fuzz` runs longer, led by coverage.

use std::{panic, sync::Once};

mod seeds;

pub use seeds::Target;

/// The largest input that mutation makes.
const MAX_BYTES: usize = 4096;

/// Runs each target over its seeds and `mutations` more inputs.
pub fn run(targets: &[Target], mutations: usize) {
    abort_on_panics_of_other_threads();
    for target in targets {
        let (name, run, _) = target;
        let seeds = seeds::read(target);
        assert!(!seeds.is_empty(), "the target {name} has no seeds");
        for (path, bytes) in &seeds {
            let _told = Told { name, bytes, path: &path.display().to_string() };
            run(bytes);
        }
        let mut random = Random(name.bytes().fold(1, |seed, byte| seed.wrapping_mul(31) + u64::from(byte)));
        for _ in 0..mutations {
            let bytes = mutated(&seeds, &mut random);
            let _told = Told { name, bytes: &bytes, path: "a mutation" };
            run(&bytes);
        }
    }
}

/// A panic in a task of some runtime is swallowed there, and would pass unseen.
fn abort_on_panics_of_other_threads() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            before(info);
            if std::thread::current().name().is_some_and(|name| name.starts_with("fuzzed")) {
                std::process::abort();
            }
        }));
    });
}

/// Says which input failed.
struct Told<'a> {
    name: &'a str,
    bytes: &'a [u8],
    path: &'a str,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the target {} failed on {}: b\"{}\"", self.name, self.path, self.bytes.escape_ascii());
        }
    }
}

/// Marsaglia's xorshift: good enough, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound.max(1)
    }
}

fn mutated(seeds: &[(std::path::PathBuf, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].1.clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + 1 + random.below(16)).min(bytes.len());
        match random.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => {
                bytes[at] = [0, 0xff, b'"', b'\\', b'9', b'/', b'%', b'\n'][random.below(8)]
            }
            2 => bytes.insert(at, random.below(256) as u8),
            3 => drop(bytes.drain(at..end)),
            4 => bytes.truncate(at),
            5 => {
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
            6 => {
                let other = &seeds[random.below(seeds.len())].1;
                let from = random.below(other.len() + 1);
                let piece = &other[from..(from + 1 + random.below(64)).min(other.len()).max(from)];
                bytes.splice(at..at, piece.iter().copied());
            }
            _ if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(1),
            _ => {}
        }
    }
    bytes.truncate(MAX_BYTES);
    bytes
}
