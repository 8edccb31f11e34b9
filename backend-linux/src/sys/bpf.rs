//! bpf(2), for the programs that decide about devices.

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use nix::libc;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Beside those of others: all of them must allow.
const BPF_F_ALLOW_MULTI: u32 = 2;

/// One instruction of the kernel's virtual machine, as the kernel has it in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// What to do.
    pub code: u8,
    /// To which register, in the lower half, and from which.
    pub registers: u8,
    /// How many instructions to jump, or where in memory.
    pub offset: i16,
    /// A constant.
    pub constant: i32,
}

/// The first members of bpf_attr for BPF_PROG_LOAD.
#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The first members of bpf_attr for BPF_PROG_ATTACH.
#[repr(C)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// `attr` must be what `command` reads, and its pointers valid for what the command says.
unsafe fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: the attribute is valid for the size given and outlives the call; what it points to is the caller's
    // promise.
    match unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// A program in the kernel that decides about devices. It is gone with this and the last group that it is attached to.
pub struct DeviceProgram(OwnedFd);

impl fmt::Debug for DeviceProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DeviceProgram").field(&self.0.as_raw_fd()).finish()
    }
}

impl DeviceProgram {
    /// Has the kernel check and keep a program.
    pub fn load(instructions: &[Instruction]) -> io::Result<DeviceProgram> {
        let attr = LoadAttr {
            prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
            insn_cnt: u32::try_from(instructions.len()).map_err(io::Error::other)?,
            insns: instructions.as_ptr() as u64,
            // It calls none of the functions for which the licence matters.
            license: c"Apache-2.0".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buf: 0,
            kern_version: 0,
            prog_flags: 0,
        };
        // SAFETY: the pointers are those of a slice of the length given, whose elements have the kernel's layout, and of
        // a C string; both outlive the call, which only reads them.
        let fd = unsafe { bpf(BPF_PROG_LOAD, &attr)? };
        // SAFETY: the call succeeded, so that `fd` is a new descriptor (closed on exec) that nobody else owns.
        Ok(DeviceProgram(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) }))
    }

    /// Has the kernel ask it about what the processes of a v2 group, and of those below, do with devices.
    pub fn attach(&self, group: impl AsFd) -> io::Result<()> {
        let attr = AttachAttr {
            target_fd: group.as_fd().as_raw_fd() as u32,
            attach_bpf_fd: self.0.as_raw_fd() as u32,
            attach_type: BPF_CGROUP_DEVICE,
            attach_flags: BPF_F_ALLOW_MULTI,
        };
        // SAFETY: there are no pointers in it, and both descriptors are open for the time of the call.
        unsafe { bpf(BPF_PROG_ATTACH, &attr) }.map(drop)
    }
}
