//! What only the kernel's processes show. On a backend in memory each is skipped.

use futures_util::StreamExt;
use protocol::{FilesQuery, ProcessSpec, Properties, ResourceLimits};

use crate::world::{Ended, World, command_spec, end, properties};

fn sh(script: &str) -> ProcessSpec {
    command_spec(&["sh", "-c", script])
}

async fn run(world: &World, handle: &str, user: &str, script: &str) -> Ended {
    let spec = ProcessSpec { user: user.into(), dir: "/".into(), ..sh(script) };
    world.run_spec_to_end(handle, spec).await
}

/// Whether a behaviour of this theme is to be skipped.
fn in_memory(world: &World) -> bool {
    if !world.traits().real {
        world.skip(
            "the fake's processes are no kernel's: they have no groups, limits, children and signals but two",
        );
    }
    !world.traits().real
}

/// As they are at the moment of the run, groups by membership too.
pub async fn users_and_groups_come_from_the_containers_files(world: &World) {
    if in_memory(world) {
        return;
    }
    let handle = world.create().await;
    let user = world.traits().user.clone();
    let script =
        "echo eve:x:4242:4343::/tmp:/bin/sh >> /etc/passwd && echo band:x:29:eve,nobody >> /etc/group";
    assert_eq!(run(world, &handle, "", script).await.status, 0);
    for (who, ids) in [
        ("eve", "4242 4343 29"),
        ("4242", "4242 4343 29"),
        ("eve:band", "4242 29"),
        ("eve:77", "4242 77"),
        (&format!("{}:band", user.name), &format!("{} 29", user.id)),
        ("root", "0 0"),
    ] {
        let ended = run(world, &handle, who, "echo $(id -u) $(id -G)").await;
        let mut seen: Vec<_> = ended.text().split_whitespace().map(str::to_owned).collect();
        // The group of the process may be told twice.
        let rest = seen.split_off(1);
        let mut groups: Vec<String> = Vec::new();
        rest.into_iter().for_each(|group| {
            if !groups.contains(&group) {
                groups.push(group)
            }
        });
        seen.extend(groups);
        assert_eq!(seen.join(" "), *ids, "{who}: {ended:?}");
    }
}

/// Whoever names no user, or root.
pub async fn root_needs_no_passwd_file(world: &World) {
    if in_memory(world) {
        return;
    }
    let handle = world.create().await;
    assert_eq!(run(world, &handle, "", "rm /etc/passwd /etc/group").await.status, 0);
    for user in ["", "root", "0"] {
        assert_eq!(run(world, &handle, user, "id -u").await.text(), "0\n", "{user:?}");
    }
}

/// What depends on the user comes last.
pub async fn a_later_variable_takes_the_first_ones_place(world: &World) {
    if in_memory(world) {
        return;
    }
    let handle = world.create_with(|spec| spec.env = vec!["Z=1".into(), "A=1".into(), "Z=2".into()]).await;
    let env = vec!["B=3".into(), "Z=3".into(), "A=4".into(), "B=5".into()];
    let ended = world.run_spec_to_end(&handle, ProcessSpec { env, ..command_spec(&["env"]) }).await;
    let text = ended.text();
    let names: Vec<_> = text.lines().collect();
    assert_eq!(names[..3], ["Z=3", "A=4", "B=5"], "{text}");
    assert_eq!(names.len(), 6, "USER, HOME, PATH: {text}");
}

/// 128 and its number, whichever it is.
pub async fn a_signals_number_is_in_the_exit_status(world: &World) {
    if in_memory(world) {
        return;
    }
    let handle = world.create().await;
    for (signal, status) in
        [("HUP", 129), ("INT", 130), ("ABRT", 134), ("KILL", 137), ("USR1", 138), ("TERM", 143)]
    {
        assert_eq!(
            run(world, &handle, "", &format!("kill -{signal} $$; sleep 1000")).await.status,
            status,
            "{signal}"
        );
    }
}

/// Soft and hard; one that is not given is as it was.
pub async fn resource_limits_are_those_of_the_spec(world: &World) {
    if in_memory(world) {
        return;
    }
    let handle = world.create().await;
    let limits = async |rlimits| {
        let spec = ProcessSpec { rlimits, ..command_spec(&["cat", "/proc/self/limits"]) };
        let text = world.run_spec_to_end(&handle, spec).await.text();
        let line = |line: &str| {
            let numbers: Vec<_> =
                line.get(26..).unwrap_or("").split_whitespace().map(str::to_owned).collect();
            (
                line.get(..26).unwrap_or(line).trim().to_owned(),
                numbers.into_iter().take(2).collect::<Vec<_>>(),
            )
        };
        text.lines().skip(1).map(line).collect::<std::collections::BTreeMap<_, _>>()
    };
    let before = limits(ResourceLimits::default()).await;
    assert_eq!(before.len(), 16, "{before:?}");
    let given = ResourceLimits {
        address_space: Some(1 << 31),
        core: Some(0),
        cpu: Some(1001),
        data: Some(1 << 30),
        fsize: Some(1 << 20),
        locks: Some(1002),
        memlock: Some(4096),
        msgqueue: Some(8192),
        nice: Some(0),
        nofile: Some(77),
        nproc: Some(100),
        rss: Some(1 << 29),
        rtprio: Some(0),
        sigpending: Some(101),
        stack: Some(1 << 20),
    };
    let all = limits(given).await;
    for (name, value) in [
        ("Max address space", 1_u64 << 31),
        ("Max core file size", 0),
        ("Max cpu time", 1001),
        ("Max data size", 1 << 30),
        ("Max file size", 1 << 20),
        ("Max file locks", 1002),
        ("Max locked memory", 4096),
        ("Max msgqueue size", 8192),
        ("Max nice priority", 0),
        ("Max open files", 77),
        ("Max processes", 100),
        ("Max resident set", 1 << 29),
        ("Max realtime priority", 0),
        ("Max pending signals", 101),
        ("Max stack size", 1 << 20),
    ] {
        assert_eq!(all[name], [value.to_string(), value.to_string()], "{name}");
    }
    let one = limits(ResourceLimits { nofile: Some(78), ..Default::default() }).await;
    for (name, numbers) in &before {
        let wanted =
            if name == "Max open files" { &["78".to_owned(), "78".to_owned()] } else { &numbers[..] };
        assert_eq!(one[name], wanted, "{name}");
    }
}

/// They have their time, as their parents do.
pub async fn stop_asks_children_too(world: &World) {
    if in_memory(world) {
        return;
    }
    let handle = world.create().await;
    let script = "trap 'echo parent; wait; exit 5' TERM
        (trap 'echo child; exit 0' TERM; echo ready; while :; do sleep 0.05; done) & wait";
    let process = world.backend().run(&handle, sh(script)).await.expect("run");
    let mut stdout = process.stdout.open();
    assert_eq!(stdout.next().await.expect("a word").expect("a word"), "ready\n");
    world.backend().stop(&handle, false).await.expect("stop");
    assert_eq!(process.exit.await, Ok(5));
    let text = String::from_utf8(crate::files::collect(stdout).await.expect("the rest")).expect("text");
    let mut words: Vec<_> = text.lines().collect();
    words.sort_unstable();
    assert_eq!(words, ["child", "parent"]);
}

/// Also while a child holds them open.
pub async fn streams_end_with_a_killed_process(world: &World) {
    if in_memory(world) {
        return;
    }
    let handle = world.create().await;
    let process = world.backend().run(&handle, sh("sleep 1000 & echo ready; wait")).await.expect("run");
    let mut stdout = process.stdout.open();
    assert_eq!(stdout.next().await.expect("a word").expect("a word"), "ready\n");
    process.control.signal(protocol::Signal::Kill).await.expect("signal");
    let killed = tokio::time::Instant::now();
    assert_eq!(process.exit.await, Ok(137));
    assert_eq!(stdout.next().await.map(|piece| piece.expect("output")), None);
    // A second, and room for a busy host.
    assert!(killed.elapsed() < std::time::Duration::from_secs(5), "{:?}", killed.elapsed());
}

/// The error says which, and the process has what others had.
pub async fn a_resource_limit_that_cannot_be_set_is_named(world: &World) {
    if in_memory(world) {
        return;
    }
    let handle = world.create().await;
    // More files than any kernel lets a process open.
    let rlimits = ResourceLimits { nofile: Some(u64::MAX - 1), ..Default::default() };
    let error =
        world.backend().run(&handle, ProcessSpec { rlimits, ..sh("true") }).await.expect_err("too many");
    assert!(error.to_string().to_lowercase().contains("nofile"), "{error}");
    assert_eq!(end(world.run(&handle, &["true"]).await).await.status, 0);
}

/// In whichever way ids are mapped.
pub async fn root_owns_what_root_owns_in_the_image(world: &World) {
    if in_memory(world) {
        return;
    }
    let handle = world.create().await;
    let ended = run(
        world,
        &handle,
        "",
        "stat -c %u:%g /bin/sh /etc/passwd / && touch /bin/new && stat -c %u /bin/new",
    );
    assert_eq!(ended.await.text(), "0:0\n0:0\n0:0\n0\n");
}

/// While a create is under way, which it is for some milliseconds.
pub async fn a_half_made_container_is_listed_on_request_only(world: &World) {
    if in_memory(world) {
        return;
    }
    let all = properties(&[("garden.state", "all")]);
    let created = properties(&[("garden.state", "created")]);
    let none = Properties::new();
    for _ in 0..200 {
        let spec = world.spec();
        let handle = spec.handle.clone();
        let lists = async |filter| world.backend().list(filter).await.expect("list").contains(&handle);
        let backend = world.shared();
        let create = tokio::spawn(async move { backend.create(spec).await });
        // In this order: what is not created after it was listed as half-made is not just created.
        while !lists(&all).await {
            tokio::task::yield_now().await;
        }
        let seen_half_made = !lists(&created).await && !lists(&none).await;
        create.await.expect("a task").expect("create");
        assert!(lists(&created).await && lists(&none).await);
        world.backend().destroy(&handle).await.expect("destroy");
        if seen_half_made {
            return;
        }
    }
    panic!("no create was ever seen under way");
}

/// Their values are bytes, not text.
pub async fn extended_attributes_go_in_and_come_out(world: &World) {
    if in_memory(world) {
        return;
    }
    let handle = world.create().await;
    let record = b"32 SCHILY.xattr.user.note=v=al\xff\n";
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, content) in
        [("pax", tar::EntryType::XHeader, &record[..]), ("file", tar::EntryType::Regular, b"x")]
    {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        builder.append_data(&mut header, name, content).expect("a tar in memory");
    }
    let tar = builder.into_inner().expect("a tar in memory");
    let query = || FilesQuery { path: "/tmp/in/".into(), ..Default::default() };
    world.backend().stream_in(&handle, query(), crate::files::body(tar)).await.expect("stream in");
    let out = world.backend().stream_out(&handle, query()).await.expect("stream out");
    let out = crate::files::collect(out).await.expect("a whole tar");
    let mut archive = tar::Archive::new(&out[..]);
    let mut values = Vec::new();
    for entry in archive.entries().expect("entries of a tar") {
        let mut entry = entry.expect("an entry of a tar");
        for record in entry.pax_extensions().expect("extensions").into_iter().flatten() {
            let record = record.expect("a record");
            if record.key() == Ok("SCHILY.xattr.user.note") {
                values.push(record.value_bytes().to_vec());
            }
        }
    }
    assert_eq!(values, [b"v=al\xff"]);
}

/// Each works as its name says, and shared memory holds no programs and no devices.
pub async fn the_usual_devices_are_there(world: &World) {
    if in_memory(world) {
        return;
    }
    let script = "
        for name in null zero full random urandom tty ptmx; do [ -c /dev/$name ] || [ -L /dev/$name ] || echo no $name; done
        for name in fd stdin stdout stderr; do [ -L /dev/$name ] || echo no link $name; done
        [ \"$(head -c 3 /dev/zero | od -An -tx1)\" = ' 00 00 00' ] || echo zero
        [ $(head -c 9 /dev/urandom | wc -c) = 9 ] || echo urandom
        [ -z \"$(cat /dev/null)\" ] || echo null
        (echo x > /dev/full) 2> /dev/null && echo full
        grep -q ' /dev/shm rw,nosuid,nodev,noexec,relatime .*- tmpfs ' /proc/self/mountinfo || echo shm
        grep -q ' /dev/mqueue .* - mqueue ' /proc/self/mountinfo || echo mqueue
        grep -q ' /dev/pts .* - devpts ' /proc/self/mountinfo || echo pts
        grep -q ' /sys ro,' /proc/self/mountinfo || echo sys";
    let handle = world.create().await;
    assert_eq!(run(world, &handle, "", script).await.text(), "");
}

/// Where the kernel has it at all.
pub async fn what_tells_of_the_host_is_masked_or_read_only(world: &World) {
    if in_memory(world) {
        return;
    }
    let script = "
        for file in kcore keys timer_list timer_stats latency_stats sched_debug; do
            [ ! -e /proc/$file ] || [ -z \"$(head -c 1 /proc/$file)\" ] || echo /proc/$file can be read
        done
        for directory in /proc/scsi /proc/acpi /sys/firmware /sys/devices/virtual/powercap; do
            [ ! -e $directory ] || [ -z \"$(ls -A $directory)\" ] || echo $directory is not empty
            [ ! -e $directory ] || ! touch $directory/new 2> /dev/null || echo $directory can be written
        done
        for name in bus fs irq sys sysrq-trigger; do
            [ ! -e /proc/$name ] || grep -q \" /proc/$name ro[, ]\" /proc/self/mountinfo || echo /proc/$name can be written
        done";
    let handle = world.create().await;
    assert_eq!(run(world, &handle, "", script).await.text(), "");
}
