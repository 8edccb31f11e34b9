//! `cargo xtask conformance`: the conformance suite on everything that there is here, as a table.

mod column;
mod table;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    Outcome,
    build::{self, Profile},
    server::Server,
    setup, shell, vm,
};
use column::{Ends, Running};
use table::Column;

/// The table that is committed.
const PAGE: &str = "docs/CONFORMANCE.md";

/// Where the suite's test program finds a server, and how it is to use it.
const ADDRESS: &str = "GARDEN_CONFORMANCE_ADDRESS";
const STREAMS: &str = "GARDEN_CONFORMANCE_STREAMS";

/// A column without a server of its own: name, test program, whether it makes containers, what it is.
const IN_PROCESS: &[(&str, &str, bool, &str)] = &[
    ("fake", "conformance_fake", false, "`backend-fake`, in memory and in virtual time"),
    (
        "fake, HTTP",
        "conformance_fake_http",
        false,
        "the same behind `garden-server`, through `garden-client`",
    ),
    ("linux", "conformance_linux", true, "`backend-linux`, in process, on the kernel"),
    (
        "linux, HTTP",
        "conformance_linux_http",
        true,
        "the same behind `garden-server`, through `garden-client`",
    ),
    (
        "iptables",
        "conformance_linux_iptables",
        true,
        "\"linux\" with the firewall of iptables instead of nftables: the behaviours of the network",
    ),
];

/// A column with a server of its own: name, backend, whether it is reached over TCP and with Garden's classic streams,
/// as schedulers do it, what it is.
const AT_ADDRESS: &[(&str, &str, bool, &str)] = &[
    (
        "fake, unix",
        "fake",
        false,
        "the program `garden-server --backend fake` at a unix socket; processes by websocket",
    ),
    (
        "fake, TCP",
        "fake",
        true,
        "the same at a TCP address; processes by Garden's classic streams, as of schedulers",
    ),
    (
        "linux, unix",
        "linux",
        false,
        "`garden-server --backend linux` at a unix socket; processes by websocket",
    ),
    (
        "linux, TCP",
        "linux",
        true,
        "the same at a TCP address; processes by Garden's classic streams, as of schedulers",
    ),
];

/// The column from a machine of its own: name, what it is.
const STOCK_KERNEL: (&str, &str) = (
    "stock kernel",
    "\"linux, HTTP\" on Debian's own kernel, with cgroups v2 and AppArmor, in an emulated machine",
);

/// Runs every column that can be run here, prints the table, and writes it down where it has all the columns that are
/// ours. With an address, the server there is one column more, which is not written down.
pub fn conformance(address: Option<&str>) -> Outcome {
    setup::setup(&setup::DEMO)?;
    build::workspace(Profile::Debug)?;
    let programs = programs()?;
    let root = shell::is_root();
    let mut columns = Vec::new();
    for &(name, program, privileged, what) in IN_PROCESS {
        if root || !privileged {
            let running = Running::start(name, program_of(&programs, program)?, &[])?;
            columns.push(finish(name, what, running)?);
        }
    }
    columns.extend(at_addresses(&programs)?);
    let machine = vm::prepare();
    match &machine {
        Ok(()) => {
            let printed = vm::conformance()?;
            let (name, what) = STOCK_KERNEL;
            columns.push(finished(name, what, column::read(&printed)?));
        }
        Err(why) => println!("no column for a stock kernel: {why}"),
    }
    if root && machine.is_ok() {
        write(&table::page(&columns))?;
    } else {
        println!("{PAGE} is left as it is, since columns are missing");
    }
    if let Some(address) = address {
        let suite = program_of(&programs, "conformance_address")?;
        let running = Running::start("given", suite, &[(ADDRESS, address)])?;
        columns.push(finish("given", "the server at the address given", running)?);
    }
    println!("\n{}", table::page(&columns));
    all_passed(&columns)
}

/// The columns with a server of their own, in the test command.
pub fn at_address() -> Outcome {
    all_passed(&at_addresses(&programs()?)?)
}

/// All at once: they spend their time waiting.
fn at_addresses(programs: &BTreeMap<String, PathBuf>) -> Result<Vec<Column>, String> {
    let program = build::binary(Profile::Debug, "garden-server")?;
    let fake = Server::start(&program, "fake", "cf")?;
    let linux = if shell::is_root() { Some(Server::start(&program, "linux", "cl")?) } else { None };
    let mut running = Vec::new();
    for &(name, backend, tcp, what) in AT_ADDRESS {
        let server = if backend == "fake" { Some(&fake) } else { linux.as_ref() };
        if let Some(server) = server {
            let unix = format!("unix:{}", server.socket().display());
            let variables: &[(&str, &str)] = match tcp {
                true => &[(ADDRESS, &format!("tcp:{}", server.tcp())), (STREAMS, "classic")],
                false => &[(ADDRESS, &unix)],
            };
            let suite = program_of(programs, "conformance_address")?;
            running.push((name, what, Running::start(name, suite, variables)?));
        }
    }
    let finished = running.into_iter().map(|(name, what, running)| finish(name, what, running));
    let columns: Vec<Column> = finished.collect::<Result<_, _>>()?;
    for server in [Some(fake), linux].into_iter().flatten() {
        server.stop()?;
    }
    Ok(columns)
}

fn finish(name: &'static str, what: &'static str, running: Running) -> Result<Column, String> {
    let (ends, output) = running.finish()?;
    if table::count(&ends).1 > 0 {
        println!("{output}");
    }
    Ok(finished(name, what, ends))
}

fn finished(name: &'static str, what: &'static str, ends: Ends) -> Column {
    let (passed, failed, skipped) = table::count(&ends);
    println!("{name:12} {passed} passed, {failed} failed, {skipped} skipped");
    Column { name, what, ends }
}

fn all_passed(columns: &[Column]) -> Outcome {
    let failed: usize = columns.iter().map(|column| table::count(&column.ends).1).sum();
    if failed == 0 { Ok(()) } else { Err(format!("{failed} behaviours failed")) }
}

fn write(page: &str) -> Outcome {
    let file = shell::root().join(PAGE);
    fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))
        .and_then(|()| fs::write(&file, page))
        .map_err(|error| format!("cannot write {}: {error}", file.display()))
}

fn program_of<'a>(programs: &'a BTreeMap<String, PathBuf>, name: &str) -> Result<&'a PathBuf, String> {
    programs.get(name).ok_or_else(|| format!("the test program {name} was not built"))
}

/// The test programs of the suite, built with the features that all tests are built with.
fn programs() -> Result<BTreeMap<String, PathBuf>, String> {
    // One by one: those that need a server are no part of the whole.
    let named = IN_PROCESS.iter().map(|column| column.1).chain(["conformance_address"]);
    let names = named.flat_map(|name| ["--test", name]).collect::<Vec<_>>();
    Ok(build::test_programs(&names)?.into_iter().collect())
}
