//! What AppArmor refuses to processes of unprivileged containers, on a kernel that has it: on the Linux backend, in
//! process, with the profile that is shipped.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{fs, process::Command};

use backend_linux::{Config, Defence, Defences, LinuxBackend};
use protocol::ProcessSpec;
use tests::{
    columns::check,
    linux::{linux, linux_with},
    world::World,
};

const SHIPPED: &str = include_str!("../../backend-linux/apparmor/garden-container");
const SHIPPED_NAME: &str = "garden-container";

/// Says so where it has none: most of this file has nothing to test then.
fn kernel_has_apparmor() -> bool {
    let enabled = fs::read("/sys/module/apparmor/parameters/enabled");
    let enabled = enabled.is_ok_and(|said| said.starts_with(b"Y"));
    if !enabled {
        println!("this kernel has no AppArmor");
    }
    enabled
}

/// The shipped profile, loaded under a name of this test's own until it is dropped.
struct Loaded {
    name: String,
    directory: tempfile::TempDir,
}

impl Loaded {
    /// None where the kernel has no AppArmor.
    fn load(test: &str) -> Option<Loaded> {
        if !kernel_has_apparmor() {
            return None;
        }
        let name = format!("garden-test-{test}-{}", std::process::id());
        let directory = tempfile::tempdir().expect("a directory");
        let profile = SHIPPED.replace(&format!("profile {SHIPPED_NAME} "), &format!("profile {name} "));
        assert!(profile.contains(&name));
        fs::write(directory.path().join("profile"), profile).expect("write the profile");
        let loaded = Loaded { name, directory };
        loaded.parse("--replace");
        Some(loaded)
    }

    fn parse(&self, action: &str) {
        let file = self.directory.path().join("profile");
        let mut parser = Command::new("apparmor_parser");
        let status = parser.args(["--skip-cache", action]).arg(file).status().expect("apparmor_parser");
        assert!(status.success(), "apparmor_parser {action}: {status}");
    }

    /// A change of the settings to this profile.
    fn set(&self) -> impl FnOnce(&mut Config) + use<> {
        let name = self.name.clone();
        move |config| config.hardening.apparmor_profile = Some(name)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.parse("--remove");
    }
}

/// What pid 1, a process of root's and one of a user's are under.
async fn profiles(world: &World, privileged: bool) -> Vec<String> {
    let handle = world.create_with(|spec| spec.privileged = privileged).await;
    let mut profiles = Vec::new();
    for (user, process) in [("", "1"), ("", "self"), ("vcap", "self")] {
        let args = vec![format!("/proc/{process}/attr/apparmor/current")];
        let spec = ProcessSpec { path: "cat".into(), args, user: user.into(), ..ProcessSpec::default() };
        profiles.push(world.run_spec_to_end(&handle, spec).await.text().trim().to_owned());
    }
    profiles
}

#[test]
fn every_process_of_an_unprivileged_container_is_under_the_profile() {
    let Some(loaded) = Loaded::load("under") else { return };
    for no_new_privileges in [false, true] {
        let set = loaded.set();
        let open = linux_with(move |config| {
            set(config);
            config.hardening.no_new_privileges = no_new_privileges;
        });
        check(open, |world| {
            Box::pin(async move {
                let profiles_seen = profiles(world, false).await;
                let profile = &profiles_seen[0];
                assert!(profile.starts_with("garden-test-under-"), "{profiles_seen:?}");
                assert!(profile.ends_with(" (enforce)"), "{profiles_seen:?}");
                assert!(profiles_seen.iter().all(|other| other == profile), "{profiles_seen:?}");
                assert_eq!(profiles(world, true).await, ["unconfined"; 3], "privileged ones are left alone");
            })
        });
    }
    check(linux(), |world| {
        Box::pin(async move {
            assert_eq!(profiles(world, false).await, ["unconfined"; 3], "nor is who asks for none");
        })
    });
}

/// The end of a look at the host's firmware, which everybody may have where nothing else is in the way.
async fn look_at_firmware(world: &World) -> (i32, String) {
    let handle = world.create().await;
    let ended = world.run_to_end(&handle, &["cat", "/sys/firmware/acpi/pm_profile"]).await;
    (ended.status, String::from_utf8_lossy(&ended.stderr).into_owned())
}

#[test]
fn the_firmware_is_out_of_reach_by_the_profile_alone() {
    let Some(loaded) = Loaded::load("firmware") else { return };
    let without = || Defences::without(Defence::MaskedPaths);
    let set = loaded.set();
    let open = linux_with(move |config| {
        set(config);
        config.defences = without();
    });
    check(open, |world| {
        Box::pin(async move {
            let (status, said) = look_at_firmware(world).await;
            assert_ne!(status, 0);
            assert!(said.contains("Permission denied"), "{said}");
        })
    });
    check(linux_with(move |config| config.defences = without()), |world| {
        Box::pin(async move {
            assert_eq!(look_at_firmware(world).await, (0, String::new()));
        })
    });
}

#[test]
fn processes_of_a_container_under_the_profile_can_be_stopped_and_signal_each_other() {
    let Some(loaded) = Loaded::load("signals") else { return };
    check(linux_with(loaded.set()), |world| {
        Box::pin(async move {
            let handle = world.create().await;
            let script = "sleep 1000 & kill -TERM $!; wait $!; echo $?";
            assert_eq!(world.run_to_end(&handle, &["sh", "-c", script]).await.text().trim(), "143");
            let spec = ProcessSpec { path: "sleep".into(), args: vec!["1000".into()], ..Default::default() };
            let process = world.backend().run(&handle, spec).await.expect("run");
            process.control.signal(protocol::Signal::Terminate).await.expect("signal");
            assert_eq!(tests::world::end(process).await.status, 143);
        })
    });
}

#[test]
fn a_profile_that_is_not_loaded_is_an_error_that_says_how_to_load_it() {
    if !kernel_has_apparmor() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut config = Config {
        depot: directory.path().join("depot"),
        store: directory.path().join("store"),
        ..Config::default()
    };
    config.hardening.apparmor_profile = Some("garden-test-nowhere".into());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let started = runtime.block_on(LinuxBackend::start(config));
    let error = started.err().expect("an error").to_string();
    assert!(error.contains("garden-test-nowhere") && error.contains("apparmor_parser --replace"), "{error}");
}

#[test]
fn a_kernel_without_apparmor_runs_containers_without_the_profile() {
    if kernel_has_apparmor() {
        println!("this kernel has AppArmor: nothing to test");
        return;
    }
    let set = |config: &mut Config| config.hardening.apparmor_profile = Some("garden-test-nowhere".into());
    check(linux_with(set), |world| {
        Box::pin(async move {
            let handle = world.create().await;
            assert_eq!(world.run_to_end(&handle, &["true"]).await.status, 0);
        })
    });
}
