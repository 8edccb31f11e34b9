//! A page of counters that two processes share.

use std::{
    io,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{SealFlags, fcntl_get_seals, fstat},
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

const BYTES: usize = 4096;

/// How many words there are.
pub const SHARED_WORDS: usize = BYTES / size_of::<u64>();

/// The first page of a memfd as words that this process and another read and write.
pub struct SharedWords {
    page: NonNull<[AtomicU64; SHARED_WORDS]>,
}

impl SharedWords {
    /// Maps the first page of `memfd`. Refused unless the file is sealed against shrinking: reading a page that the
    /// other side took away would kill this process.
    pub fn map(memfd: impl AsFd) -> io::Result<SharedWords> {
        if !fcntl_get_seals(&memfd)?.contains(SealFlags::SHRINK) || fstat(&memfd)?.st_size < BYTES as i64 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not a sealed memfd of at least one page",
            ));
        }
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing in this process.
        let page = unsafe {
            mmap(std::ptr::null_mut(), BYTES, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, memfd, 0)?
        };
        let page = NonNull::new(page.cast()).ok_or_else(|| io::Error::other("mmap gave a null page"))?;
        Ok(SharedWords { page })
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: the mapping is a page long, page-aligned, stays until drop, and its file cannot shrink; any bit
        // pattern is a valid AtomicU64, and all access from either process is atomic.
        unsafe { &self.page.as_ref()[index] }
    }

    /// Reads a word.
    pub fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::SeqCst)
    }

    /// Writes a word.
    pub fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::SeqCst);
    }

    /// Writes a word unless it is larger.
    pub fn raise(&self, index: usize, value: u64) {
        self.word(index).fetch_max(value, Ordering::SeqCst);
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: the page was mapped by `map` with this length, and no reference to it outlives `self`.
        let _ = unsafe { munmap(self.page.as_ptr().cast(), BYTES) };
    }
}

// SAFETY: the mapping belongs to the process, not to a thread, and every access is atomic.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}
