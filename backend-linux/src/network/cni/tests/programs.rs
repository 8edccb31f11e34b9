//! Programs that do not do as plug-ins should.

use std::{
    io::Write,
    os::fd::AsFd,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::super::{exec::Runner, *};

/// Within which whatever hangs is killed, here.
const LIMIT: Duration = Duration::from_millis(300);

/// A directory with a program of that text.
pub fn programs(programs: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in programs {
        // Written by another process: a child of another test's, born meanwhile, would have it open for a moment, and a
        // file that is written to cannot be executed.
        let write = "cat > \"$0\" && chmod 755 \"$0\"";
        let mut shell = Command::new("sh")
            .args(["-c", write, directory.path().join(name).to_str().unwrap()])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        shell.stdin.take().unwrap().write_all(format!("#!/bin/sh\n{text}\n").as_bytes()).unwrap();
        assert!(shell.wait().unwrap().success());
    }
    directory
}

fn plugins(directory: &Path, limit: Duration) -> Plugins {
    let runner = Runner::with_limit(vec!["/nowhere".into(), directory.to_owned()], limit);
    Plugins { runner, ..Plugins::new(Vec::new()) }
}

pub fn list(plugins: Value) -> NetworkList {
    let document = json!({"cniVersion": "1.0.0", "name": "net", "plugins": plugins});
    NetworkList::parse(Path::new("test.conflist"), &document.to_string()).unwrap()
}

async fn add(program: &str, limit: Duration) -> Result<AddResult, PluginError> {
    let directory = programs(&[("plugin", program)]);
    let list = list(json!([{"type": "plugin"}]));
    let (netns, wishes) = (std::fs::File::open("/proc/self/ns/net").unwrap(), Wishes::default());
    let subject = Subject { list: &list, id: "id", netns: Some(netns.as_fd()), wishes: &wishes };
    plugins(directory.path(), limit).add(subject, &list.plugins[0], None).await
}

#[tokio::test]
async fn a_plugin_that_is_nowhere_is_named_with_where_it_was_looked_for() {
    let plugins = Plugins::new(vec!["/nowhere".into(), "/etc".into()]);
    let error = plugins.find_all(&list(json!([{"type": "passwd"}]))).unwrap_err().to_string();
    assert_eq!(error, r#"CNI plug-in "passwd" is in none of ["/nowhere", "/etc"] (--cni-plugin-dir)"#);
}

#[tokio::test]
async fn a_plugin_that_fails_is_told_in_its_own_words() {
    let said = |program: &'static str| async move {
        add(program, Duration::from_secs(60)).await.unwrap_err().to_string()
    };
    let object =
        r#"echo >&2 trouble; echo '{"code": 11, "msg": "no address", "details": "all taken"}'; exit 1"#;
    let expected = r#"CNI plug-in "plugin", ADD: no address: all taken (code 11); it said "trouble""#;
    assert_eq!(said(object).await, expected);
    assert_eq!(said("exit 3").await, r#"CNI plug-in "plugin", ADD: exit status: 3"#);
    let panicked = said("echo panic; exit 2").await;
    assert_eq!(panicked, r#"CNI plug-in "plugin", ADD: exit status: 2, with "panic\n""#);
    assert!(said("kill -9 $$").await.contains("signal: 9"));
}

#[tokio::test]
async fn a_plugin_that_prints_garbage_or_nothing_has_failed() {
    for program in ["echo hello", "true", r#"echo '{"ips": [{"address": "here"}]}'"#] {
        let error = add(program, Duration::from_secs(60)).await.unwrap_err();
        assert!(matches!(error, PluginError::Nonsense { .. }), "{program}: {error}");
    }
    let endless = add("cat /dev/zero", Duration::from_secs(60)).await.unwrap_err();
    assert!(std::error::Error::source(&endless).unwrap().to_string().contains("more than"), "{endless}");
}

#[tokio::test]
async fn a_plugin_that_hangs_is_killed_with_all_that_it_has_started() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    // Both the plug-in and its child have the fifo open for as long as they live.
    let program = format!("exec 3<>{fifo:?}; echo >&2 waiting; sleep 1000 & sleep 1000");
    let begun = Instant::now();
    let error = add(&program, LIMIT).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(60), "killed, not waited for");
    let text = error.to_string();
    assert!(matches!(error, PluginError::Hung { .. }) && text.contains("waiting"), "{text}");
    // Nobody has it open any more: there is nobody to write to.
    let deadline = Instant::now() + Duration::from_secs(10);
    let alone = || {
        let open = std::os::unix::fs::OpenOptionsExt::custom_flags(
            std::fs::OpenOptions::new().write(true),
            nix::libc::O_NONBLOCK,
        )
        .open(&fifo);
        open.is_err_and(|error| error.raw_os_error() == Some(nix::libc::ENXIO))
    };
    while !alone() {
        assert!(Instant::now() < deadline, "what the plug-in has started still runs");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_plugin_has_the_specifications_environment_and_no_other() {
    let program = r#"cat > /dev/null; env >&2; exit 1"#;
    let error = add(program, Duration::from_secs(60)).await.unwrap_err().to_string();
    for variable in ["CNI_COMMAND=ADD", "CNI_CONTAINERID=id", "CNI_IFNAME=eth0", "CNI_PATH=/nowhere:"] {
        assert!(error.contains(variable), "{variable}: {error}");
    }
    assert!(error.contains(&format!("CNI_NETNS=/proc/{}/fd/", std::process::id())), "{error}");
    assert!(!error.contains("CARGO"), "{error}");
}

#[tokio::test]
async fn a_del_goes_from_the_last_plugin_to_the_first_and_on_after_an_error() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let program =
        |name: &str, end: &str| format!("echo {name} $CNI_COMMAND $CNI_NETNS >> {:?}; {end}", log.path());
    let (one, two, three) = (program("one", "true"), program("two", "exit 1"), program("three", "true"));
    let directory = programs(&[("one", &one), ("two", &two), ("three", &three)]);
    let list = list(json!([{"type": "one"}, {"type": "two"}, {"type": "three"}]));
    let wishes = Wishes::default();
    let subject = Subject { list: &list, id: "id", netns: None, wishes: &wishes };
    let errors = plugins(directory.path(), Duration::from_secs(60)).del(subject, None).await.unwrap_err();
    assert!(errors.len() == 1 && errors[0].to_string().contains("\"two\""), "{errors:?}");
    assert_eq!(std::fs::read_to_string(log.path()).unwrap(), "three DEL\ntwo DEL\none DEL\n");
}

#[tokio::test]
async fn a_check_that_the_file_switches_off_is_not_made() {
    let directory = programs(&[("plugin", "exit 1")]);
    let plugins = plugins(directory.path(), Duration::from_secs(60));
    let mut list = list(json!([{"type": "plugin"}]));
    let result = AddResult::parse(b"{}").unwrap();
    for disabled in [true, false] {
        list.disable_check = disabled;
        let wishes = Wishes::default();
        let subject = Subject { list: &list, id: "id", netns: None, wishes: &wishes };
        assert_eq!(plugins.check(subject, &result).await.is_ok(), disabled);
    }
}

#[tokio::test]
async fn a_plugin_that_fails_because_another_was_faster_is_run_once_more_after_a_del() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let path = log.path();
    let program = format!(
        "echo $CNI_COMMAND >> {path:?}; [ $CNI_COMMAND = DEL ] || [ $(wc -l < {path:?}) = 3 ] || exit 1; echo '{{}}'"
    );
    add(&program, Duration::from_secs(60)).await.unwrap();
    assert_eq!(std::fs::read_to_string(path).unwrap(), "ADD\nDEL\nADD\n");
}
