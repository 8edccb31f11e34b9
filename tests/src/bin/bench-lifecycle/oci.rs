//! crun and runc on a bundle of busybox: `RUNTIME run ID`; and in Garden's shape, a container that waits, a process in
//! it, and its removal, which are three commands.

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

/// What a life consists of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One command, whose process is the container's only one.
    Run,
    /// `run --detach`, `exec`, `delete`.
    Garden,
}

/// A runtime and its bundle.
pub struct Oci {
    program: &'static str,
    shape: Shape,
    bundle: PathBuf,
    /// Where it notes what it runs: in memory, as `/run` is, and as the server's depot is here.
    state: PathBuf,
    next: AtomicU64,
}

impl Oci {
    /// Makes the bundle and tries it.
    pub fn new(program: &'static str, shape: Shape, bundle: &Path, state: &Path) -> Outcome<Self> {
        for directory in ["bin", "proc", "sys", "dev"] {
            fs::create_dir_all(bundle.join("rootfs").join(directory))?;
        }
        let busybox = bundle.join("rootfs/bin/busybox");
        fs::copy("/bin/busybox", &busybox).or_else(|_| fs::copy("/usr/bin/busybox", &busybox))?;
        fs::set_permissions(&busybox, fs::Permissions::from_mode(0o755))?;
        for applet in ["true", "sleep"] {
            symlink("busybox", bundle.join("rootfs/bin").join(applet))?;
        }
        let config = match shape {
            Shape::Run => CONFIG.to_owned(),
            Shape::Garden => CONFIG.replace(r#"["/bin/true"]"#, r#"["/bin/sleep", "1000"]"#),
        };
        fs::write(bundle.join("config.json"), config)?;
        let mut oci = Oci {
            program,
            shape,
            bundle: bundle.to_owned(),
            state: state.to_owned(),
            next: AtomicU64::new(0),
        };
        oci.lives(1, 1)?;
        Ok(oci)
    }

    fn command(&self, arguments: &[&str]) -> Outcome {
        // No pipe: what is detached would hold it open.
        let status = Command::new(self.program)
            .arg("--root")
            .arg(&self.state)
            .args(arguments)
            .current_dir(&self.bundle)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .map_err(|error| format!("cannot start {}: {error}", self.program))?;
        match status.success() {
            true => Ok(()),
            false => Err(format!("{} {}: {status}", self.program, arguments[0]).into()),
        }
    }

    fn live(&self) -> Outcome<Life> {
        let id = format!("garden-bench-{}-{}", std::process::id(), self.next.fetch_add(1, Ordering::Relaxed));
        let begun = Instant::now();
        if self.shape == Shape::Run {
            self.command(&["run", &id])?;
            return Ok(Life { create: None, run: None, destroy: None, whole: begun.elapsed() });
        }
        self.command(&["run", "--detach", &id])?;
        let created = Instant::now();
        let ran = self.command(&["exec", &id, "/bin/true"]).map(|()| Instant::now());
        self.command(&["delete", "--force", &id])?;
        let (ran, ended) = (ran?, Instant::now());
        Ok(Life {
            create: Some(created - begun),
            run: Some(ran - created),
            destroy: Some(ended - ran),
            whole: ended - begun,
        })
    }
}

impl Contestant for Oci {
    fn name(&self) -> &'static str {
        match (self.program, self.shape) {
            ("crun", Shape::Run) => "crun run",
            ("crun", Shape::Garden) => "crun, three steps",
            (_, Shape::Run) => "runc run",
            (_, Shape::Garden) => "runc, three steps",
        }
    }

    fn lives(&mut self, clients: usize, lives: usize) -> Outcome<Vec<Life>> {
        let this = &*self;
        let work = move || {
            hide_hybrid_cgroups()?;
            (0..lives).map(|_| this.live()).collect()
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
