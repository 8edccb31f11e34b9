//! Compiles the filter of system calls.

#[path = "src/seccomp/compiler.rs"]
mod compiler;
#[path = "src/seccomp/profile.rs"]
mod profile;

use std::{env, fmt::Write, fs, io, path::Path};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=src/seccomp");
    let mut program = String::from("[\n");
    for instruction in compiler::compile(&profile::profile()) {
        let compiler::Instruction { code, jump_if_true: jt, jump_if_false: jf, value: k } = instruction;
        writeln!(program, "sock_filter {{ code: {code}, jt: {jt}, jf: {jf}, k: {k} }},")
            .map_err(io::Error::other)?;
    }
    program.push(']');
    let directory =
        env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set: run by cargo"))?;
    fs::write(Path::new(&directory).join("seccomp.rs"), program)
}
