//! Attempts to break out by way of an image, whose links lead what is mounted elsewhere.
//!
//! Each attack is seen to succeed without what stops it, and then refused. docs/DEFENCES.md lists them all.

// Only debug builds can leave a defence out.
#![cfg(debug_assertions)]
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use backend_linux::{Defence, Defences};
use protocol::ContainerSpec;
use tests::{
    attack::{image, script},
    columns::{Behaviour, check},
    linux::{linux, linux_with},
    world::World,
};

fn without(defence: Defence) -> impl Future<Output = Result<World, String>> {
    linux_with(move |config| config.defences = Defences::without(defence))
}

/// `/proc` and `/sys` of this image lead to `/p` and `/s` by way of its `/dev`. Over that the container's own is mounted:
/// from then on they lead nowhere, and what is looked for below them is not found.
fn lead_away_by_dev(image: &Path) {
    fs::create_dir(image.join("dev")).unwrap();
    for (name, place) in [("proc", "p"), ("sys", "s")] {
        fs::create_dir(image.join(place)).unwrap();
        symlink(format!("dev/{place}"), image.join(name)).unwrap();
        symlink(format!("/{place}"), image.join("dev").join(place)).unwrap();
    }
}

fn spec(rootfs: String, privileged: bool) -> ContainerSpec {
    ContainerSpec { rootfs, privileged, ..ContainerSpec::default() }
}

/// Not every kernel has all of these.
const ASK_ABOUT_HOST: &str = "(cat /p/keys /p/timer_list; ls -A /s/firmware) 2> /dev/null; true";

#[test]
fn an_image_that_leads_proc_and_sys_elsewhere_does_not_uncover_them() {
    check(without(Defence::PlacesByDescriptor), |world| {
        Box::pin(async move {
            let (_directory, rootfs) = image(lead_away_by_dev);
            let handle = world.backend().create(spec(rootfs.clone(), false)).await.expect("create");
            assert_ne!(script(world, &handle, ASK_ABOUT_HOST).await, "");
            let handle = world.backend().create(spec(rootfs, true)).await.expect("create");
            let write =
                "panic=$(cat /p/sys/kernel/panic) && echo $panic > /p/sys/kernel/panic && echo written";
            assert_eq!(script(world, &handle, write).await, "written");
        })
    });
    check(linux(), |world| {
        Box::pin(async move {
            let (_directory, rootfs) = image(lead_away_by_dev);
            for privileged in [false, true] {
                let created = world.backend().create(spec(rootfs.clone(), privileged)).await;
                let error = created.expect_err("an image that leads elsewhere").to_string();
                assert!(error.contains("/proc of the image is a symbolic link"), "{error}");
            }
        })
    });
}

/// A directory of the host that everybody may write to. Its path says where it is, so that a behaviour finds it.
struct Outside;

impl Outside {
    fn path() -> PathBuf {
        std::env::temp_dir().join(format!("garden-breakout-etc-{}", std::process::id()))
    }

    fn make() -> Outside {
        fs::create_dir(Outside::path()).unwrap();
        fs::set_permissions(Outside::path(), fs::Permissions::from_mode(0o777)).unwrap();
        Outside
    }

    /// What somebody has made in it.
    fn files() -> Vec<String> {
        let entries = fs::read_dir(Outside::path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().display().to_string()).collect();
        names.sort();
        names
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(Outside::path());
    }
}

/// Makes containers of an image whose `/etc`, where the server puts files, leads out of the root and to the host's tree
/// if that is still there.
const LEAD_ETC_TO_THE_HOST: Behaviour = |world| {
    Box::pin(async move {
        let (_directory, rootfs) = image(|image| {
            symlink(format!("/..{}", Outside::path().display()), image.join("etc")).unwrap();
        });
        for privileged in [false, true] {
            world.backend().create(spec(rootfs.clone(), privileged)).await.expect("create");
        }
    })
};

#[test]
fn an_image_that_leads_to_the_hosts_tree_has_nothing_made_there() {
    let outside = Outside::make();
    check(without(Defence::DetachedHost), LEAD_ETC_TO_THE_HOST);
    assert_eq!(Outside::files(), ["hosts", "resolv.conf"]);
    drop(outside);
    let _outside = Outside::make();
    check(linux(), LEAD_ETC_TO_THE_HOST);
    assert_eq!(Outside::files(), Vec::<String>::new());
}

/// Whether a process of the container finds a file of the host.
async fn finds_the_host(world: &World, privileged: bool) -> bool {
    let handle = world.create_with(|spec| spec.privileged = privileged).await;
    let program = std::env::current_exe().unwrap().display().to_string();
    let said = script(world, &handle, &format!("cd /; ls ..{program}")).await;
    assert!(said == format!("..{program}") || said.contains("No such file"), "{said}");
    !said.contains("No such file")
}

#[test]
fn the_hosts_tree_is_not_above_a_containers_root() {
    check(without(Defence::DetachedHost), |world| {
        Box::pin(async move {
            assert!(finds_the_host(world, true).await);
        })
    });
    check(linux(), |world| {
        Box::pin(async move {
            for privileged in [false, true] {
                assert!(!finds_the_host(world, privileged).await);
            }
        })
    });
}
