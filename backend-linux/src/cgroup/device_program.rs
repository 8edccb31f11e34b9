//! The list of devices as a program of the kernel's virtual machine, for cgroup v2: pure.
//!
//! The kernel runs it for each access, with the access and its kind in one word, the device's major number in the next
//! and its minor number in the third. 1 allows, 0 refuses.

use super::devices::{Access, DeviceRule, Kind};
use crate::sys::Instruction;

/// `bpf_cgroup_dev_ctx`: where its three words are.
const CTX_ACCESS_AND_KIND: i16 = 0;
const CTX_MAJOR: i16 = 4;
const CTX_MINOR: i16 = 8;

/// The kernel's numbers for kinds of devices, in the lower half of the first word.
const KIND_BLOCK: i32 = 1;
const KIND_CHAR: i32 = 2;
/// And for what is done with them, in its upper half.
const ACCESS_MKNOD: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;
const ACCESS_ALL: i32 = ACCESS_MKNOD | ACCESS_READ | ACCESS_WRITE;

/// Operations on 32 bits: those on 64 would extend the sign of their constants.
const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const SET: u8 = 0xb4;
const COPY: u8 = 0xbc;
const JUMP_UNLESS_EQUAL: u8 = 0x56;
const EXIT: u8 = 0x95;

/// What is in which register: the answer and scratch, the context, and its parts.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

fn operation(code: u8, register: u8, constant: i32) -> Instruction {
    Instruction { code, registers: register, offset: 0, constant }
}

fn copy(to: u8, from: u8) -> Instruction {
    Instruction { code: COPY, registers: from << 4 | to, offset: 0, constant: 0 }
}

fn load(to: u8, offset: i16) -> Instruction {
    Instruction { code: LOAD_WORD, registers: CONTEXT << 4 | to, offset, constant: 0 }
}

/// Allows what one of the rules allows, as a whole: what two rules allow together, neither does.
pub(super) fn assemble(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut program = vec![
        load(KIND, CTX_ACCESS_AND_KIND),
        copy(ACCESS, KIND),
        operation(AND, KIND, 0xffff),
        operation(SHIFT_RIGHT, ACCESS, 16),
        load(MAJOR, CTX_MAJOR),
        load(MINOR, CTX_MINOR),
    ];
    for rule in rules {
        program.extend(assemble_rule(rule));
    }
    program.extend([operation(SET, ANSWER, 0), operation(EXIT, 0, 0)]);
    program
}

fn assemble_rule(rule: &DeviceRule) -> Vec<Instruction> {
    let mut code = Vec::new();
    if let Some(kind) = rule.kind {
        let number = match kind {
            Kind::Block => KIND_BLOCK,
            Kind::Char => KIND_CHAR,
        };
        code.push(operation(JUMP_UNLESS_EQUAL, KIND, number));
    }
    let refused = ACCESS_ALL & !access_bits(rule.access);
    if refused != 0 {
        code.push(copy(ANSWER, ACCESS));
        code.push(operation(AND, ANSWER, refused));
        code.push(operation(JUMP_UNLESS_EQUAL, ANSWER, 0));
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number {
            // Numbers of devices have 20 bits at most.
            code.push(operation(JUMP_UNLESS_EQUAL, register, number as i32));
        }
    }
    code.extend([operation(SET, ANSWER, 1), operation(EXIT, 0, 0)]);
    let length = code.len();
    for (at, instruction) in code.iter_mut().enumerate() {
        if instruction.code == JUMP_UNLESS_EQUAL {
            // To the next rule. A rule has less than ten instructions.
            instruction.offset = (length - at - 1) as i16;
        }
    }
    code
}

fn access_bits(access: Access) -> i32 {
    let bits = [(access.read, ACCESS_READ), (access.write, ACCESS_WRITE), (access.mknod, ACCESS_MKNOD)];
    bits.into_iter().filter(|(allowed, _)| *allowed).fold(0, |all, (_, bit)| all | bit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::devices::tests::any_rule;
    use proptest::prelude::*;

    /// Runs a program as the kernel would; none: it does not end, or leaves its bounds.
    fn run(program: &[Instruction], context: [u32; 3]) -> Option<u32> {
        let mut registers = [0_u32; 11];
        let mut at = 0_usize;
        for _ in 0..=program.len() {
            let Instruction { code, registers: pair, offset, constant } = *program.get(at)?;
            let (to, from) = (usize::from(pair & 0xf), usize::from(pair >> 4));
            at += 1;
            match code {
                LOAD_WORD => {
                    assert_eq!(from, usize::from(CONTEXT));
                    registers[to] = context[usize::try_from(offset).ok()? / 4];
                }
                AND => registers[to] &= constant as u32,
                SHIFT_RIGHT => registers[to] >>= constant,
                SET => registers[to] = constant as u32,
                COPY => registers[to] = registers[from],
                JUMP_UNLESS_EQUAL => {
                    if registers[to] != constant as u32 {
                        at += usize::try_from(offset).ok()?;
                    }
                }
                EXIT => return Some(registers[0]),
                _ => return None,
            }
        }
        None
    }

    fn allows(rule: &DeviceRule, kind: i32, access: i32, major: u32, minor: u32) -> bool {
        let of_kind = match rule.kind {
            None => true,
            Some(Kind::Block) => kind == KIND_BLOCK,
            Some(Kind::Char) => kind == KIND_CHAR,
        };
        of_kind
            && rule.major.is_none_or(|number| number == major)
            && rule.minor.is_none_or(|number| number == minor)
            && access & !access_bits(rule.access) == 0
    }

    proptest! {
        #[test]
        fn a_program_allows_what_one_of_its_rules_allows(
            rules in proptest::collection::vec(any_rule(), 0..8),
            kind in KIND_BLOCK..=KIND_CHAR, access in 1..=ACCESS_ALL, major in 0..3000_u32, minor: u32,
            like in any::<prop::sample::Index>(),
        ) {
            // Numbers that are in a rule, as nothing else would ever be met.
            let model = (!rules.is_empty()).then(|| *like.get(&rules));
            let major = model.and_then(|rule| rule.major).unwrap_or(major);
            let minor = model.and_then(|rule| rule.minor).unwrap_or(minor);
            let program = assemble(&rules);
            let wanted = rules.iter().any(|rule| allows(rule, kind, access, major, minor));
            let context = [(access << 16 | kind) as u32, major, minor];
            prop_assert_eq!(run(&program, context), Some(u32::from(wanted)));
        }
    }

    #[test]
    fn the_kernel_takes_the_program() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "loading a program needs root");
            eprintln!("skipped: loading a program needs root");
            return;
        }
        let rules: Vec<DeviceRule> =
            ["c *:* m", "b 7:* rw", "a 1:3 rwm"].iter().map(|rule| rule.parse().unwrap()).collect();
        crate::sys::DeviceProgram::load(&assemble(&rules)).unwrap();
        crate::sys::DeviceProgram::load(&assemble(&[])).unwrap();
        // What leaves its bounds is none.
        let jump = operation(JUMP_UNLESS_EQUAL, CONTEXT, 0);
        crate::sys::DeviceProgram::load(&[Instruction { offset: 7, ..jump }]).unwrap_err();
    }
}
