//! mount_setattr(2).

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::libc;

/// Arguments of mount_setattr(2).
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_NOSUID: u64 = 0x2;
const MOUNT_ATTR_NODEV: u64 = 0x4;
const MOUNT_ATTR_NOEXEC: u64 = 0x8;
const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;
const AT_RECURSIVE: libc::c_uint = 0x8000;

fn mount_setattr(mount: BorrowedFd<'_>, flags: libc::c_uint, attr: &MountAttr) -> io::Result<()> {
    // SAFETY: the path is an empty C string, `attr` is a valid mount_attr of the size given, and both outlive the
    // call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH as libc::c_uint | flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Shows the files of a detached mount with the ids that `userns` maps theirs to.
pub fn idmap_mount(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> io::Result<()> {
    let userns_fd = userns.as_raw_fd() as u64;
    mount_setattr(mount, 0, &MountAttr { attr_set: MOUNT_ATTR_IDMAP, userns_fd, ..MountAttr::default() })
}

/// The same, and those of all that is mounted below it: all or none.
pub fn idmap_mount_tree(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> io::Result<()> {
    let userns_fd = userns.as_raw_fd() as u64;
    let attr = MountAttr { attr_set: MOUNT_ATTR_IDMAP, userns_fd, ..MountAttr::default() };
    mount_setattr(mount, AT_RECURSIVE, &attr)
}

/// Makes a detached mount, and all that is mounted below it, read-only.
pub fn set_mount_read_only(mount: BorrowedFd<'_>) -> io::Result<()> {
    mount_setattr(mount, AT_RECURSIVE, &MountAttr { attr_set: MOUNT_ATTR_RDONLY, ..MountAttr::default() })
}

/// The same, and nothing there is a device or a program.
pub fn set_mount_read_only_and_quiet(mount: BorrowedFd<'_>) -> io::Result<()> {
    let attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    mount_setattr(mount, AT_RECURSIVE, &MountAttr { attr_set, ..MountAttr::default() })
}
