//! What fuzz targets begin with: recorded traffic, the goldens, and the files of their own in `tests/fuzz/TARGET`,
//! among them every input that ever made one fail.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A fuzz target: its name, what it does with an input, and where its seeds are besides `tests/fuzz/NAME`: beginnings
/// of file names below `tests`. It panics where a parser breaks one of its promises.
pub type Target = (&'static str, fn(&[u8]), &'static [&'static str]);

/// The seeds of a target, in the order of their names.
pub fn read((name, _, prefixes): &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests");
    let own = format!("fuzz/{name}/");
    let mut seeds = Vec::new();
    for prefix in prefixes.iter().copied().chain([own.as_str()]) {
        let Some((directory, beginning)) = prefix.rsplit_once('/') else { continue };
        let files = fs::read_dir(tests.join(directory)).into_iter().flatten().flatten();
        for file in files.filter(|file| file.file_name().to_string_lossy().starts_with(beginning)) {
            let path = file.path();
            let Ok(bytes) = fs::read(&path) else { continue };
            let is_capture = directory == "wire/captures";
            seeds.push((path, if is_capture { request(&bytes) } else { bytes }));
        }
    }
    seeds.sort();
    seeds
}

/// What the client sent in a recorded conversation.
fn request(capture: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(capture);
    let sent = text.lines().take_while(|line| !line.starts_with("<< "));
    let escaped: String = sent.filter_map(|line| line.strip_prefix("    ")).collect();
    let mut bytes = Vec::new();
    let mut rest = escaped.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next() {
                Some(b'r') => b'\r',
                Some(b'n') => b'\n',
                Some(other) => other,
                None => break,
            },
            byte => byte,
        });
    }
    bytes
}
