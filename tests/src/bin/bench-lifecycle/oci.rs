//! crun and runc: `RUNTIME run ID` on a bundle of busybox.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use crate::{
    Outcome,
    contestants::{Contestant, Life, side_by_side},
};

/// What the runtimes' own `spec` command writes, less the network namespace and the terminal, plus a memory limit.
const CONFIG: &str = r#"{
  "ociVersion": "1.0.0",
  "process": {
    "user": {"uid": 0, "gid": 0}, "args": ["/bin/true"], "cwd": "/", "noNewPrivileges": true,
    "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    "capabilities": {
      "bounding": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
      "effective": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
      "permitted": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    }
  },
  "root": {"path": "rootfs", "readonly": true},
  "hostname": "bench",
  "mounts": [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
     "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
     "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
     "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
    {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
  ],
  "linux": {
    "resources": {"devices": [{"allow": false, "access": "rwm"}], "memory": {"limit": 67108864}},
    "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
    "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/sys/firmware"],
    "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
  }
}"#;

/// A runtime and its bundle.
pub struct Oci {
    program: &'static str,
    bundle: PathBuf,
    next: AtomicU64,
}

impl Oci {
    /// Makes the bundle and tries it.
    pub fn new(program: &'static str, bundle: &Path) -> Outcome<Self> {
        for directory in ["bin", "proc", "sys", "dev"] {
            fs::create_dir_all(bundle.join("rootfs").join(directory))?;
        }
        let busybox = bundle.join("rootfs/bin/busybox");
        fs::copy("/bin/busybox", &busybox).or_else(|_| fs::copy("/usr/bin/busybox", &busybox))?;
        fs::set_permissions(&busybox, fs::Permissions::from_mode(0o755))?;
        symlink("busybox", bundle.join("rootfs/bin/true"))?;
        fs::write(bundle.join("config.json"), CONFIG)?;
        let mut oci = Oci { program, bundle: bundle.to_owned(), next: AtomicU64::new(0) };
        oci.lives(1, 1)?;
        Ok(oci)
    }

    fn run(&self) -> Outcome<Life> {
        let id = format!("garden-bench-{}-{}", std::process::id(), self.next.fetch_add(1, Ordering::Relaxed));
        let begun = Instant::now();
        let output = Command::new(self.program)
            .args(["run", "--bundle"])
            .arg(&self.bundle)
            .arg(&id)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot start {}: {error}", self.program))?;
        let whole = begun.elapsed();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{} run: {}: {}", self.program, output.status, said.trim()).into());
        }
        Ok(Life { create: None, run: None, destroy: None, whole })
    }
}

impl Contestant for Oci {
    fn name(&self) -> &'static str {
        match self.program {
            "crun" => "crun run",
            _ => "runc run",
        }
    }

    fn lives(&mut self, clients: usize, lives: usize) -> Outcome<Vec<Life>> {
        let this = &*self;
        let work = move || {
            hide_hybrid_cgroups()?;
            (0..lives).map(|_| this.run()).collect()
        };
        side_by_side((0..clients).map(|_| work))
    }
}

/// crun refuses a host that has cgroup v1 and, beside it, a v2 with controllers of its own. For this thread and what
/// it starts, the v2 hierarchy is not there; the host keeps it. The thread ends soon, and its namespace with it.
fn hide_hybrid_cgroups() -> Outcome {
    const UNIFIED: &str = "/sys/fs/cgroup/unified";
    if Path::new(UNIFIED).join("cgroup.controllers").exists() {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        umount2(UNIFIED, MntFlags::MNT_DETACH)?;
    }
    Ok(())
}
