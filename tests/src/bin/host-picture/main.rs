//! `host-picture save FILE` takes a picture of the whole host; `host-picture compare FILE` takes another one, prints
//! what differs, and fails if something does.

use std::{env, fs, process::ExitCode};

use tests::host::Picture;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["save", file] => save(file),
        ["compare", file] => compare(file),
        _ => Err("usage: host-picture save FILE | compare FILE".to_owned()),
    };
    match result {
        Ok(differences) if differences.is_empty() => ExitCode::SUCCESS,
        Ok(differences) => {
            println!("the host is not as it was:\n{}", differences.join("\n"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("host-picture: {error}");
            ExitCode::from(2)
        }
    }
}

fn save(file: &str) -> Result<Vec<String>, String> {
    fs::write(file, Picture::take().to_string()).map_err(|error| format!("{file}: {error}"))?;
    Ok(Vec::new())
}

fn compare(file: &str) -> Result<Vec<String>, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let before: Picture = text.parse().map_err(|error| format!("{file}: {error}"))?;
    Ok(before.differences(&Picture::take()))
}
