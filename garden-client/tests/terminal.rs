//! `garden run -it` on a terminal.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Command, Stdio},
};

use garden_client::{Backend, ContainerSpec};
use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use support::RealServer;

fn pty() -> (OwnedFd, OwnedFd) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let theirs = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    (ours, theirs)
}

fn resize(terminal: &OwnedFd, columns: u16, rows: u16) {
    let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).unwrap();
}

fn read_until(terminal: &mut File, end: &str) {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(end) {
        let mut byte = [0];
        terminal.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_is_raw_resized_and_restored() {
    let server = RealServer::start().await;
    server.client().create(ContainerSpec { handle: "c1".into(), ..ContainerSpec::default() }).await.unwrap();
    let (ours, theirs) = pty();
    resize(&ours, 100, 30);
    let address = server.address();
    let watched = theirs.try_clone().unwrap();
    // Not one of the runtime's threads: it waits for those at its end.
    let (finished, session) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut child = Command::new(env!("CARGO_BIN_EXE_garden"))
            .args(["--target", &address, "run", "-it", "c1", "hold"])
            .stdin(Stdio::from(theirs.try_clone().unwrap()))
            .stdout(Stdio::from(theirs.try_clone().unwrap()))
            .stderr(Stdio::from(theirs))
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
        let mut terminal = File::from(ours.try_clone().unwrap());
        read_until(&mut terminal, "tty 100x30");
        let modes = tcgetattr(&watched).unwrap().local_modes;
        assert!(!modes.intersects(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG));
        resize(&ours, 77, 22);
        kill_process(pid, Signal::WINCH).unwrap();
        read_until(&mut terminal, "tty 77x22");
        terminal.write_all(b"\x03 is only a key").unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(143));
        let modes = tcgetattr(&watched).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG));
        finished.send(()).unwrap();
    });
    tokio::time::timeout(support::LIMIT, session).await.unwrap().unwrap();
}
