//! From answers to a program for the kernel's filter machine (classic BPF, linux/filter.h).
//!
//! The program is one decision tree: by architecture, then by halving the ranges of numbers, so that a call takes
//! about ten steps however long the list is.

use std::collections::BTreeMap;

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

fn plain(code: u16, value: u32) -> Instruction {
    Instruction { code, jump_if_true: 0, jump_if_false: 0, value }
}

/// Where an instruction is: how many there are behind it.
type Place = usize;

/// A program that is written from its end: jumps go forward only, to what is there already. Answers are shared by all
/// who can reach them, as the kernel's work for each process that takes the filter grows with its length.
#[derive(Default)]
struct Program {
    backwards: Vec<Instruction>,
    answers: BTreeMap<u32, Place>,
}

impl Program {
    /// Puts an instruction before all others.
    fn put(&mut self, instruction: Instruction) -> Place {
        self.backwards.push(instruction);
        self.backwards.len() - 1
    }

    /// How many instructions a jump from the next one passes over.
    fn distance(&self, place: Place) -> usize {
        self.backwards.len() - place - 1
    }

    /// The place within reach of a comparison that goes on at `place`, also from the instruction after the next.
    fn within_reach(&mut self, place: Place) -> Place {
        const REACH: usize = u8::MAX as usize - 1;
        match self.distance(place) {
            distance if distance <= REACH => place,
            distance => self.put(plain(JUMP, distance as u32)),
        }
    }

    /// Goes to `then` if what was loaded compares so with `value`, else to `otherwise`.
    fn branch(&mut self, code: u16, value: u32, then: Place, otherwise: Place) -> Place {
        let then = self.within_reach(then);
        let otherwise = self.within_reach(otherwise);
        let (jump_if_true, jump_if_false) = (self.distance(then) as u8, self.distance(otherwise) as u8);
        self.put(Instruction { code, jump_if_true, jump_if_false, value })
    }

    /// Loads a word and goes on at `place`.
    fn load(&mut self, word: u32, place: Place) -> Place {
        if self.distance(place) > 0 {
            let jump = plain(JUMP, self.distance(place) as u32);
            self.put(jump);
        }
        self.put(plain(LOAD, word))
    }

    fn answer(&mut self, value: u32) -> Place {
        const NEAR: usize = 200;
        match self.answers.get(&value) {
            Some(place) if self.distance(*place) <= NEAR => *place,
            _ => {
                let place = self.put(plain(RETURN, value));
                self.answers.insert(value, place);
                place
            }
        }
    }

    fn compare(&mut self, arguments: Arguments, then: u32, otherwise: u32) -> Place {
        let (then, otherwise) = (self.answer(then), self.answer(otherwise));
        let compared = match arguments {
            Arguments::AnyOf(bits) => self.branch(JUMP_IF_ANY_OF, bits, then, otherwise),
            Arguments::In(values) => values
                .iter()
                .fold(otherwise, |otherwise, value| self.branch(JUMP_IF_EQUAL, *value, then, otherwise)),
        };
        self.load(ARGUMENT, compared)
    }

    fn leaf(&mut self, answer: Answer) -> Place {
        let error = |errno: u16| ERRNO | u32::from(errno);
        match answer {
            Answer::Allowed => self.answer(ALLOW),
            Answer::Fails(errno) => self.answer(error(errno)),
            Answer::Unless(arguments, errno) => self.compare(arguments, error(errno), ALLOW),
            Answer::OnlyIf(arguments, errno) => self.compare(arguments, ALLOW, error(errno)),
        }
    }

    /// The tree for what was loaded, a number not below the first range's.
    fn tree(&mut self, ranges: &[(u32, Answer)]) -> Place {
        match ranges {
            [] => self.answer(KILL_PROCESS),
            [(_, answer)] => self.leaf(*answer),
            _ => {
                let (lower, upper) = ranges.split_at(ranges.len() / 2);
                let (then, otherwise) = (self.tree(upper), self.tree(lower));
                self.branch(JUMP_IF_AT_LEAST, upper[0].0, then, otherwise)
            }
        }
    }
}

/// The program for these architectures, each with its ranges of numbers, the first from 0, each up to the next. What
/// comes from another architecture is killed.
pub fn compile(profile: &[(u32, Vec<(u32, Answer)>)]) -> Vec<Instruction> {
    let mut program = Program::default();
    let stranger = program.answer(KILL_PROCESS);
    let by_architecture = profile.iter().rev().fold(stranger, |others, (arch, ranges)| {
        let tree = program.tree(ranges);
        let own = program.load(NUMBER, tree);
        program.branch(JUMP_IF_EQUAL, *arch, own, others)
    });
    program.load(ARCH, by_architecture);
    program.backwards.into_iter().rev().collect()
}
