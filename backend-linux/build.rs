//! Compiles the filter of system calls.

#[path = "src/seccomp/compiler.rs"]
mod compiler;
#[path = "src/seccomp/profile.rs"]
mod profile;

use std::{env, fmt::Write, fs, io, path::Path};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=src/seccomp");
    let directory =
        env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set: run by cargo"))?;
    let programs = [("seccomp.rs", profile::profile()), ("seccomp_own.rs", profile::own_profile())];
    for (name, profile) in programs {
        let mut program = String::from("[\n");
        for instruction in compiler::compile(&profile) {
            let compiler::Instruction { code, jump_if_true: jt, jump_if_false: jf, value: k } = instruction;
            writeln!(program, "sock_filter {{ code: {code}, jt: {jt}, jf: {jf}, k: {k} }},")
                .map_err(io::Error::other)?;
        }
        program.push(']');
        fs::write(Path::new(&directory).join(name), program)?;
    }
    Ok(())
}
