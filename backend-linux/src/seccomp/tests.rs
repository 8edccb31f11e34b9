//! The compiled program, held against the list call by call.

use std::{collections::HashMap, sync::LazyLock};

use proptest::prelude::*;

use super::{
    FILTER,
    compiler::{
        ALLOW, ARCH, ARGUMENT, Answer, Arguments, ERRNO, Instruction, JUMP, JUMP_IF_ANY_OF, JUMP_IF_AT_LEAST,
        JUMP_IF_EQUAL, KILL_PROCESS, LOAD, NUMBER, RETURN, compile,
    },
    profile::{ABIS, answer, own_profile, profile},
};

const EPERM: u32 = ERRNO | 1;
const ENOSYS: u32 = ERRNO | 38;

/// A system call, as a filter sees it.
#[derive(Debug, Clone, Copy)]
struct Call {
    arch: u32,
    number: u32,
    argument: u64,
}

/// The kernel's machine, as far as the program uses it. It panics where the kernel would refuse the program.
fn interpret(program: &[Instruction], call: Call) -> u32 {
    let (mut at, mut loaded) = (0, 0);
    loop {
        let instruction = program[at];
        let compared = match instruction.code {
            LOAD => {
                loaded = match instruction.value {
                    NUMBER => call.number,
                    ARCH => call.arch,
                    ARGUMENT => call.argument as u32,
                    other => panic!("a load from {other}"),
                };
                at += 1;
                continue;
            }
            RETURN => return instruction.value,
            JUMP => {
                at += 1 + instruction.value as usize;
                continue;
            }
            JUMP_IF_EQUAL => loaded == instruction.value,
            JUMP_IF_AT_LEAST => loaded >= instruction.value,
            JUMP_IF_ANY_OF => loaded & instruction.value != 0,
            other => panic!("instruction {other:#x}"),
        };
        at += 1 + usize::from(if compared { instruction.jump_if_true } else { instruction.jump_if_false });
    }
}

/// What the list says, looked up name by name.
struct List {
    answers: HashMap<(u32, u32), Answer>,
    /// Of x86_64, x32 and i386.
    last: [u32; 3],
}

static LIST: LazyLock<List> = LazyLock::new(|| {
    let all =
        ABIS.iter().flat_map(|abi| abi.calls().map(|(number, name)| ((abi.arch, number), answer(name))));
    let last = ABIS.map(|abi| abi.calls().map(|(number, _)| number).max().unwrap_or_default());
    List { answers: all.collect(), last }
});

static PROGRAM: LazyLock<Vec<Instruction>> = LazyLock::new(|| compile(&profile()));

impl List {
    fn of(&self, arch: u32, number: u32) -> Option<Answer> {
        self.answers.get(&(arch, number)).copied()
    }

    fn says(&self, call: Call) -> u32 {
        let holds = |arguments| match arguments {
            Arguments::AnyOf(bits) => call.argument as u32 & bits != 0,
            Arguments::In(values) => values.contains(&(call.argument as u32)),
        };
        let error = |errno: u16| ERRNO | u32::from(errno);
        match self.of(call.arch, call.number) {
            Some(Answer::Allowed) => ALLOW,
            Some(Answer::Fails(errno)) => error(errno),
            Some(Answer::Unless(arguments, errno)) if holds(arguments) => error(errno),
            Some(Answer::Unless(..)) => ALLOW,
            Some(Answer::OnlyIf(arguments, _)) if holds(arguments) => ALLOW,
            Some(Answer::OnlyIf(_, errno)) => error(errno),
            None => self.without_a_name(call),
        }
    }

    fn without_a_name(&self, Call { arch, number, .. }: Call) -> u32 {
        let [x86_64, x32, i386] = ABIS;
        let [last_of_x86_64, last_of_x32, last_of_i386] = self.last;
        let last = match arch {
            arch if arch == i386.arch => last_of_i386,
            arch if arch != x86_64.arch => return KILL_PROCESS,
            _ if number >= x32.offset => last_of_x32,
            _ => last_of_x86_64,
        };
        if number > last { ENOSYS } else { EPERM }
    }
}

/// Arguments that a rule may take for another one, and any.
fn arguments() -> Vec<u64> {
    let rules =
        [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff, 1, 17, 37, 38, 39, 40, 41, 0x4008, 0x7e02_0000, 0x81_0011];
    let bits = (0..64).map(|bit| 1 << bit);
    rules.into_iter().chain(bits).flat_map(|value| [value, value | 0xabcd << 32]).collect()
}

#[test]
fn the_program_of_our_own_answers_the_same_and_knows_no_other_abi() {
    let (own, all) = (compile(&own_profile()), arguments());
    assert!(own.len() < PROGRAM.len() * 2 / 3, "{} instructions of {}", own.len(), PROGRAM.len());
    for number in 0..1000 {
        for argument in all.iter().copied() {
            let call = Call { arch: ABIS[0].arch, number, argument };
            assert_eq!(interpret(&own, call), interpret(&PROGRAM, call), "{call:?}");
            let stranger = Call { arch: ABIS[2].arch, ..call };
            assert_eq!(interpret(&own, stranger), KILL_PROCESS, "{stranger:?}");
            let x32 = Call { number: ABIS[1].offset + number, ..call };
            assert_eq!(interpret(&own, x32), ENOSYS, "{x32:?}");
        }
    }
}

#[test]
fn the_program_answers_what_the_list_says_for_every_call() {
    let (list, program, all) = (&*LIST, &*PROGRAM, arguments());
    for arch in [ABIS[0].arch, ABIS[2].arch, 0, 0xc000_00b7, u32::MAX] {
        for number in
            [0, 0x4000_0000, 0x8000_0000, 0xffff_f000].into_iter().flat_map(|base| base..base + 1000)
        {
            let ruled = matches!(list.of(arch, number), Some(Answer::Unless(..) | Answer::OnlyIf(..)));
            for argument in if ruled { &all[..] } else { &all[..2] }.iter().copied() {
                let call = Call { arch, number, argument };
                assert_eq!(interpret(program, call), list.says(call), "{call:?}");
            }
        }
    }
}

proptest! {
    #[test]
    fn the_program_answers_what_the_list_says_for_any_call(
        arch in prop_oneof![Just(ABIS[0].arch), Just(ABIS[2].arch), any::<u32>()],
        number in any::<u32>(),
        argument in any::<u64>(),
    ) {
        let call = Call { arch, number, argument };
        prop_assert_eq!(interpret(&PROGRAM, call), LIST.says(call));
    }

    #[test]
    fn trees_of_any_size_find_the_range_of_a_number(
        starts in prop::collection::btree_set(1u32.., 0..2000),
        number in any::<u32>(),
    ) {
        let errno = |index: usize| (index % 4000) as u16;
        let starts: Vec<u32> = std::iter::once(0).chain(starts).collect();
        let ranges = starts.iter().enumerate().map(|(index, start)| (*start, Answer::Fails(errno(index))));
        let program = compile(&[(1, ranges.collect())]);
        let wanted = starts.partition_point(|start| *start <= number) - 1;
        let call = Call { arch: 1, number, argument: 0 };
        prop_assert_eq!(interpret(&program, call), ERRNO | u32::from(errno(wanted)));
    }
}

#[test]
fn what_is_built_in_is_the_program_and_short_enough() {
    let program = &*PROGRAM;
    let parts = |instruction: &Instruction| {
        (instruction.code, instruction.jump_if_true, instruction.jump_if_false, instruction.value)
    };
    let built: Vec<_> = FILTER.iter().map(|part| (part.code, part.jt, part.jf, part.k)).collect();
    assert_eq!(built, program.iter().map(parts).collect::<Vec<_>>());
    // The kernel takes 4096; how long it takes to take it grows with this.
    assert!(program.len() < 1000, "{} instructions", program.len());
}

#[test]
fn every_name_of_the_list_is_a_system_call() {
    let known: Vec<&str> = ABIS.iter().flat_map(|abi| abi.calls().map(|(_, name)| name)).collect();
    for name in super::profile::ALLOWED.split(' ') {
        assert!(known.contains(&name), "{name}");
    }
}

/// The names themselves, as they are written in the contract: what the list is there to refuse.
#[test]
fn what_reaches_beyond_the_container_is_not_on_the_list() {
    let refused = "mount umount2 umount unshare setns bpf keyctl add_key request_key userfaultfd perf_event_open \
        open_by_handle_at kexec_load kexec_file_load init_module finit_module delete_module reboot swapon swapoff \
        io_uring_setup io_uring_enter io_uring_register settimeofday clock_settime iopl ioperm acct quotactl \
        pivot_root move_mount open_tree fsopen fsmount mount_setattr kcmp pidfd_getfd sethostname syslog vhangup \
        mbind move_pages set_mempolicy nfsservctl lookup_dcookie fanotify_init";
    for name in refused.split_whitespace() {
        assert_eq!(answer(name), Answer::Fails(1), "{name}");
    }
    for name in ["chroot", "ptrace", "process_vm_readv", "mknod", "seccomp", "landlock_create_ruleset"] {
        assert_eq!(answer(name), Answer::Allowed, "{name}");
    }
}
