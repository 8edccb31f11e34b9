//! What the system must have, and getting it.

use crate::{Outcome, elf, shell};

/// One program that is not ours.
pub struct Tool {
    program: &'static str,
    /// Debian's package; empty: there is none that will do.
    package: &'static str,
    why: &'static str,
}

const BUSYBOX: Tool = Tool {
    program: "busybox",
    package: "busybox-static",
    why: "the default root filesystem is packed from it",
};
const IP: Tool =
    Tool { program: "ip", package: "iproute2", why: "the picture of the host: links, addresses, routes" };
const NFT: Tool =
    Tool { program: "nft", package: "nftables", why: "the picture of the host: firewall rules" };
const CNI: Tool = Tool {
    program: "/usr/lib/cni/bridge",
    package: "containernetworking-plugins",
    why: "the tests of networks by CNI plug-ins",
};
const IPTABLES: Tool = Tool {
    program: "iptables",
    package: "iptables",
    why: "the other firewall that containers can have, and the picture of the host",
};
const GO: Tool =
    Tool { program: "go", package: "", why: "the test client in Go; 1.24 or later, from go.dev" };
const PYTHON: Tool = Tool {
    program: "python3",
    package: "python3-venv",
    why: "schemathesis, which drives the server by its OpenAPI document; 3.10 or later, with venv",
};

/// For `cargo xtask demo`.
pub const DEMO: [Tool; 3] = [BUSYBOX, IP, NFT];
/// For everything.
pub const ALL: [Tool; 7] = [BUSYBOX, IP, NFT, IPTABLES, CNI, GO, PYTHON];
/// For comparing with others.
pub const BENCH: [Tool; 3] = [
    BUSYBOX,
    Tool { program: "crun", package: "crun", why: "to compare with" },
    Tool { program: "runc", package: "runc", why: "to compare with" },
];

/// Installs what is missing where that is possible (Debian's apt, as root), else says what to install.
pub fn setup(tools: &[Tool]) -> Outcome {
    let missing: Vec<&Tool> = tools.iter().filter(|tool| !present(tool)).collect();
    let packages: Vec<&str> =
        missing.iter().map(|tool| tool.package).filter(|name| !name.is_empty()).collect();
    if !packages.is_empty() && shell::is_root() && shell::find("apt-get").is_some() {
        println!("setup: installing {}", packages.join(" "));
        let mut update = shell::command("apt-get");
        shell::run(update.args(["update", "-qq"]))?;
        let mut install = shell::command("apt-get");
        install.env("DEBIAN_FRONTEND", "noninteractive");
        shell::run(install.args(["install", "-qq", "-y", "--no-install-recommends"]).args(&packages))?;
    }
    let still: Vec<&Tool> = missing.into_iter().filter(|tool| !present(tool)).collect();
    for tool in &still {
        let package = match tool.package {
            "" => String::new(),
            name => format!(" (Debian: {name})"),
        };
        println!("setup: missing: {}{package}: {}", tool.program, tool.why);
    }
    if still.is_empty() {
        println!("setup: all there: {}", tools.iter().map(|tool| tool.program).collect::<Vec<_>>().join(" "));
        return Ok(());
    }
    if shell::is_ci() {
        return Err("a needed tool is missing".to_owned());
    }
    println!("setup: what needs one of these will be skipped, or will say so");
    Ok(())
}

/// Whether a tool is there and will do.
fn present(tool: &Tool) -> bool {
    match shell::find(tool.program) {
        // The root filesystem holds nothing else, so a busybox that asks for a loader could not run in it.
        Some(file) if tool.program == "busybox" => elf::is_static(&file).unwrap_or(false),
        // Debian splits off what an environment of its own is made with.
        Some(file) if tool.program == "python3" => {
            let output = shell::command(file).args(["-c", "import ensurepip, venv"]).output();
            output.is_ok_and(|output| output.status.success())
        }
        Some(_) => true,
        None => false,
    }
}
