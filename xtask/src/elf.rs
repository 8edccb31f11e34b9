//! Is a program linked statically?

use std::{fs, io, path::Path};

/// Whether the program asks for no loader (no program header of type PT_INTERP): it runs where no library is.
pub fn is_static(file: &Path) -> io::Result<bool> {
    Ok(!asks_for_loader(&fs::read(file)?))
}

/// Reads the program headers of a little-endian ELF file of 64 bits, as on all platforms we know.
fn asks_for_loader(elf: &[u8]) -> bool {
    const PT_INTERP: usize = 3;
    let number = |at: usize, length: usize| {
        let bytes = elf.get(at..at + length).unwrap_or_default();
        bytes.iter().rev().fold(0usize, |sum, &byte| (sum << 8) | usize::from(byte))
    };
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).any(|n| number(table + n * size, 4) == PT_INTERP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_dynamic() {
        assert!(!is_static(&std::env::current_exe().unwrap()).unwrap());
    }

    #[test]
    fn a_file_without_headers_asks_for_nothing() {
        assert!(!asks_for_loader(b"#!/bin/sh\n"));
    }
}
