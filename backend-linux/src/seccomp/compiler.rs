//! From answers to a program for the kernel's filter machine (classic BPF, linux/filter.h).
//!
//! The program is one decision tree: by architecture, then by halving the ranges of numbers, so that a call takes
//! about ten steps however long the list is.

/// What becomes of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is made.
    Allowed,
    /// It fails with that errno.
    Fails(u16),
    /// It fails with that errno if its first argument is like that, and is made else.
    Unless(Arguments, u16),
    /// It is made if its first argument is like that, and fails with that errno else.
    OnlyIf(Arguments, u16),
}

/// Some values of the lower half of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arguments {
    /// Those with any of these bits.
    AnyOf(u32),
    /// These.
    In(&'static [u32]),
}

/// One instruction; the kernel's `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    pub jump_if_true: u8,
    pub jump_if_false: u8,
    pub value: u32,
}

/// Loads a word of what the kernel tells of the call (`struct seccomp_data`).
pub const LOAD: u16 = 0x20;
pub const JUMP: u16 = 0x05;
pub const JUMP_IF_EQUAL: u16 = 0x15;
pub const JUMP_IF_AT_LEAST: u16 = 0x35;
pub const JUMP_IF_ANY_OF: u16 = 0x45;
pub const RETURN: u16 = 0x06;

/// Where the words are, in bytes. Of the first argument, the half that comes first on a little-endian machine.
pub const NUMBER: u32 = 0;
pub const ARCH: u32 = 4;
pub const ARGUMENT: u32 = 16;

/// What the program answers.
pub const ALLOW: u32 = 0x7fff_0000;
pub const ERRNO: u32 = 0x0005_0000;
pub const KILL_PROCESS: u32 = 0x8000_0000;

/// Instructions that all end in an answer.
type Block = Vec<Instruction>;

fn plain(code: u16, value: u32) -> Instruction {
    Instruction { code, jump_if_true: 0, jump_if_false: 0, value }
}

/// Goes to `then` if what was loaded compares so with `value`, else to `otherwise`.
fn branch(comparison: u16, value: u32, then: Block, otherwise: Block) -> Block {
    let mut block = match u8::try_from(otherwise.len()) {
        Ok(over) => {
            vec![Instruction { code: comparison, jump_if_true: over, jump_if_false: 0, value }]
        }
        // Too far for a comparison's own jump.
        Err(_) => vec![
            Instruction { code: comparison, jump_if_true: 0, jump_if_false: 1, value },
            plain(JUMP, otherwise.len() as u32),
        ],
    };
    block.extend(otherwise);
    block.extend(then);
    block
}

fn compare(arguments: Arguments, then: u32, otherwise: u32) -> Block {
    let (then, otherwise) = (vec![plain(RETURN, then)], vec![plain(RETURN, otherwise)]);
    let mut block = vec![plain(LOAD, ARGUMENT)];
    block.extend(match arguments {
        Arguments::AnyOf(bits) => branch(JUMP_IF_ANY_OF, bits, then, otherwise),
        Arguments::In(values) => values
            .iter()
            .fold(otherwise, |otherwise, value| branch(JUMP_IF_EQUAL, *value, then.clone(), otherwise)),
    });
    block
}

fn leaf(answer: Answer) -> Block {
    let error = |errno: u16| ERRNO | u32::from(errno);
    match answer {
        Answer::Allowed => vec![plain(RETURN, ALLOW)],
        Answer::Fails(errno) => vec![plain(RETURN, error(errno))],
        Answer::Unless(arguments, errno) => compare(arguments, error(errno), ALLOW),
        Answer::OnlyIf(arguments, errno) => compare(arguments, ALLOW, error(errno)),
    }
}

/// The tree for what was loaded, a number not below the first range's.
fn tree(ranges: &[(u32, Answer)]) -> Block {
    match ranges {
        [] => vec![plain(RETURN, KILL_PROCESS)],
        [(_, answer)] => leaf(*answer),
        _ => {
            let (lower, upper) = ranges.split_at(ranges.len() / 2);
            branch(JUMP_IF_AT_LEAST, upper[0].0, tree(upper), tree(lower))
        }
    }
}

/// The program for these architectures, each with its ranges of numbers, the first from 0, each up to the next. What
/// comes from another architecture is killed.
pub fn compile(profile: &[(u32, Vec<(u32, Answer)>)]) -> Vec<Instruction> {
    let stranger = vec![plain(RETURN, KILL_PROCESS)];
    let by_architecture = profile.iter().rev().fold(stranger, |others, (arch, ranges)| {
        let mut own = vec![plain(LOAD, NUMBER)];
        own.extend(tree(ranges));
        branch(JUMP_IF_EQUAL, *arch, own, others)
    });
    let mut program = vec![plain(LOAD, ARCH)];
    program.extend(by_architecture);
    program
}
