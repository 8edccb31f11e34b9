//! A program that makes system calls by their numbers, whichever they are: assembled here, since no library makes calls
//! that do not exist, or those of another architecture, and since containers have no libraries.

/// How the kernel is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abi {
    /// By `syscall`, with x86_64's numbers, or x32's.
    X86_64,
    /// By `int 0x80`, with those of 32-bit programs.
    I386,
}

/// A call, with the first arguments that it has; the others are 0.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// How.
    pub abi: Abi,
    /// Which.
    pub number: u32,
    /// With what. Only the lower half counts in a 32-bit call.
    pub arguments: [u64; 3],
}

/// Where the program is loaded.
const ADDRESS: u64 = 0x40_0000;
/// Of an ELF header and one program header.
const HEADER_BYTES: u64 = 64 + 56;
const WRITE: u32 = 1;
const EXIT: u32 = 60;

/// The program, as an executable file. It makes the calls in turn and writes what each answers, eight bytes, to its
/// standard output.
pub fn program(calls: &[Call]) -> Vec<u8> {
    let mut code = Vec::new();
    for call in calls {
        code.extend(make(call));
        // push rax; mov rsi, rsp; mov edi, 1; mov edx, 8; mov eax, WRITE; syscall; pop rax
        code.extend([0x50, 0x48, 0x89, 0xe6, 0xbf, 1, 0, 0, 0, 0xba, 8, 0, 0, 0, 0xb8]);
        code.extend(WRITE.to_le_bytes());
        code.extend([0x0f, 0x05, 0x58]);
    }
    code.extend(make(&Call { abi: Abi::X86_64, number: EXIT, arguments: [0; 3] }));

    let length = HEADER_BYTES + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // An executable for x86_64, version 1; its entry; headers of the program behind this one, none of sections.
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [ADDRESS + HEADER_BYTES, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    // To be loaded, readable and executable, from the file's beginning.
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, ADDRESS, ADDRESS, length, length, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}

fn make(call: &Call) -> Vec<u8> {
    let mut code = Vec::new();
    match call.abi {
        Abi::X86_64 => {
            // mov rdi, rsi and rdx; xor r10, r8 and r9
            for (register, argument) in [0xbf, 0xbe, 0xba].into_iter().zip(call.arguments) {
                code.extend([0x48, register]);
                code.extend(argument.to_le_bytes());
            }
            code.extend([0x4d, 0x31, 0xd2, 0x4d, 0x31, 0xc0, 0x4d, 0x31, 0xc9, 0xb8]);
            code.extend(call.number.to_le_bytes());
            code.extend([0x0f, 0x05]);
        }
        Abi::I386 => {
            // mov ebx, ecx and edx; xor esi, edi and ebp
            for (register, argument) in [0xbb, 0xb9, 0xba].into_iter().zip(call.arguments) {
                code.push(register);
                code.extend((argument as u32).to_le_bytes());
            }
            code.extend([0x31, 0xf6, 0x31, 0xff, 0x31, 0xed, 0xb8]);
            code.extend(call.number.to_le_bytes());
            // int 0x80; movsxd rax, eax
            code.extend([0xcd, 0x80, 0x48, 0x63, 0xc0]);
        }
    }
    code
}

/// What the calls answered: the program's output.
pub fn answers(output: &[u8]) -> Vec<i64> {
    output.chunks_exact(8).map(|word| i64::from_le_bytes(word.try_into().expect("eight bytes"))).collect()
}
