//! Usage: the kernel's files to the protocol's numbers.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use protocol::{CpuStat, Limits, MemoryStat, PidStat};

use crate::name;

use super::{Cgroups, Error, Place, Result, group::gone, settings};

impl Cgroups {
    /// What the container `name` uses. A controller that the host lacks counts nothing: zeros.
    pub fn metrics(&self, name: &str) -> Result<(MemoryStat, CpuStat, PidStat)> {
        self.metrics_in(&name::directory(name))
    }

    pub(super) fn metrics_in(&self, directory: &str) -> Result<(MemoryStat, CpuStat, PidStat)> {
        let memory = match self.place("memory") {
            Some(Place::V1(base)) => memory_v1(&base.join(directory))?,
            Some(Place::V2(base)) => memory_v2(&base.join(directory))?,
            None => MemoryStat::default(),
        };
        let cpu = match (self.place("cpuacct"), &self.v2) {
            (Some(Place::V1(base)), _) => cpu_v1(&base.join(directory))?,
            (_, Some(v2)) => cpu_v2(&read(&v2.base.join(directory).join("cpu.stat"))?),
            (_, None) => CpuStat::default(),
        };
        let pid = match self.place("pids") {
            Some(Place::V1(base) | Place::V2(base)) => {
                let group = base.join(directory);
                PidStat {
                    current: number(&group.join("pids.current"))?,
                    max: limit(&group.join("pids.max"))?.unwrap_or(0),
                }
            }
            None => PidStat::default(),
        };
        Ok((memory, cpu, pid))
    }

    /// How many of the container's processes the kernel killed for want of memory; 0 where it does not say.
    pub fn oom_kills(&self, name: &str) -> Result<u64> {
        self.oom_kills_in(&name::directory(name))
    }

    pub(super) fn oom_kills_in(&self, directory: &str) -> Result<u64> {
        let file = match self.place("memory") {
            Some(Place::V1(base)) => base.join(directory).join("memory.oom_control"),
            Some(Place::V2(base)) => base.join(directory).join("memory.events"),
            None => return Ok(0),
        };
        Ok(value_of(&read(&file)?, "oom_kill"))
    }

    /// The limits that the kernel holds for the container `name`, in the words of those `asked` for where they are
    /// the same. Limits that are not a cgroup's are `asked`'s.
    pub fn applied(&self, name: &str, asked: &Limits) -> Result<Limits> {
        let directory = name::directory(name);
        let file = |base: &Path, file: &str| -> PathBuf { base.join(&directory).join(file) };
        let mut found = settings::Found::default();
        match self.place("memory") {
            Some(Place::V1(base)) => found.memory_bytes = limit(&file(base, "memory.limit_in_bytes"))?,
            Some(Place::V2(base)) => found.memory_bytes = limit(&file(base, "memory.max"))?,
            None => {}
        }
        match self.place("cpu") {
            Some(Place::V1(base)) => found.shares = Some(number(&file(base, "cpu.shares"))?),
            Some(Place::V2(base)) => found.weight = Some(number(&file(base, "cpu.weight"))?),
            None => {}
        }
        if let Some(Place::V1(base) | Place::V2(base)) = self.place("pids") {
            found.pids = limit(&file(base, "pids.max"))?;
        }
        Ok(settings::applied(asked, found))
    }
}

fn memory_v1(group: &Path) -> Result<MemoryStat> {
    let mut stat = memory_stat(&read(&group.join("memory.stat"))?);
    // What the limit counts is memory with swap, where swap is counted.
    let usage = match number(&group.join("memory.memsw.usage_in_bytes")) {
        Err(Error::Read { source, .. }) if gone(&source) => number(&group.join("memory.usage_in_bytes")),
        usage => usage,
    }?;
    stat.total_usage_toward_limit = usage.saturating_sub(stat.total_inactive_file);
    Ok(stat)
}

fn memory_v2(group: &Path) -> Result<MemoryStat> {
    let mut stat = memory_stat(&read(&group.join("memory.stat"))?);
    let usage = number(&group.join("memory.current"))?;
    stat.total_usage_toward_limit = usage.saturating_sub(stat.inactive_file);
    stat.hierarchical_memory_limit = limit(&group.join("memory.max"))?.unwrap_or(0);
    // v2 counts whole hierarchies only, and has its own names for three of the numbers. Clients that know v1's names
    // find the same numbers there.
    stat.rss = stat.anon;
    stat.cache = stat.file;
    stat.total_rss = stat.anon;
    stat.total_cache = stat.file;
    stat.total_active_anon = stat.active_anon;
    stat.total_active_file = stat.active_file;
    stat.total_inactive_anon = stat.inactive_anon;
    stat.total_inactive_file = stat.inactive_file;
    stat.total_mapped_file = stat.mapped_file;
    stat.total_pgfault = stat.pgfault;
    stat.total_pgmajfault = stat.pgmajfault;
    stat.total_unevictable = stat.unevictable;
    Ok(stat)
}

/// `memory.stat` of either version. Lines that nobody knows or that are no number are skipped: kernels add some.
pub(super) fn memory_stat(text: &str) -> MemoryStat {
    let mut stat = MemoryStat::default();
    for (key, value) in pairs(text) {
        let field = match key {
            "active_anon" => &mut stat.active_anon,
            "active_file" => &mut stat.active_file,
            "cache" => &mut stat.cache,
            "hierarchical_memory_limit" => &mut stat.hierarchical_memory_limit,
            "inactive_anon" => &mut stat.inactive_anon,
            "inactive_file" => &mut stat.inactive_file,
            // v1's name and v2's.
            "mapped_file" | "file_mapped" => &mut stat.mapped_file,
            "pgfault" => &mut stat.pgfault,
            "pgmajfault" => &mut stat.pgmajfault,
            "pgpgin" => &mut stat.pgpgin,
            "pgpgout" => &mut stat.pgpgout,
            "rss" => &mut stat.rss,
            "total_active_anon" => &mut stat.total_active_anon,
            "total_active_file" => &mut stat.total_active_file,
            "total_cache" => &mut stat.total_cache,
            "total_inactive_anon" => &mut stat.total_inactive_anon,
            "total_inactive_file" => &mut stat.total_inactive_file,
            "total_mapped_file" => &mut stat.total_mapped_file,
            "total_pgfault" => &mut stat.total_pgfault,
            "total_pgmajfault" => &mut stat.total_pgmajfault,
            "total_pgpgin" => &mut stat.total_pgpgin,
            "total_pgpgout" => &mut stat.total_pgpgout,
            "total_rss" => &mut stat.total_rss,
            "total_unevictable" => &mut stat.total_unevictable,
            "unevictable" => &mut stat.unevictable,
            "swap" => &mut stat.swap,
            "hierarchical_memsw_limit" => &mut stat.hierarchical_memsw_limit,
            "total_swap" => &mut stat.total_swap,
            "anon" => &mut stat.anon,
            "file" => &mut stat.file,
            "swapcached" => &mut stat.swapcached,
            _ => continue,
        };
        *field = value;
    }
    stat
}

fn cpu_v1(group: &Path) -> Result<CpuStat> {
    let (user_ns, system_ns) = user_and_system(&read(&group.join("cpuacct.usage_all"))?);
    Ok(CpuStat { usage_ns: number(&group.join("cpuacct.usage"))?, user_ns, system_ns })
}

/// The sums of both columns of `cpuacct.usage_all`, which has a line for each processor below a line of headings.
pub(super) fn user_and_system(text: &str) -> (u64, u64) {
    let times = text.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (_processor, user, system) =
            (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
        Some((user, system))
    });
    times.fold((0, 0), |sum, time| (sum.0.saturating_add(time.0), sum.1.saturating_add(time.1)))
}

pub(super) fn cpu_v2(text: &str) -> CpuStat {
    let nanoseconds = |key| value_of(text, key).saturating_mul(1_000);
    CpuStat {
        usage_ns: nanoseconds("usage_usec"),
        user_ns: nanoseconds("user_usec"),
        system_ns: nanoseconds("system_usec"),
    }
}

/// The `key value` lines of a text.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.trim().parse().ok()?))
    })
}

fn value_of(text: &str, wanted: &str) -> u64 {
    pairs(text).find(|(key, _)| *key == wanted).map_or(0, |(_, value)| value)
}

fn read(file: &Path) -> Result<String> {
    /// None of these files has more, and few have more than a part of it.
    const FILE_BYTES_MAX: u64 = 64 << 10;
    let read = || -> io::Result<String> {
        let mut text = String::with_capacity(4096);
        // The metrics of many containers are thousands of files. `take` saves two system calls for each, which would
        // ask for a size that is always 0.
        File::open(file)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(|source| Error::Read { file: file.into(), source })
}

fn number(file: &Path) -> Result<u64> {
    let text = read(file)?;
    text.trim().parse().map_err(|_| Error::Parse { file: file.into(), text })
}

/// A limit; none: "max", or v1's way to say it, the largest number of whole pages.
fn limit(file: &Path) -> Result<Option<u64>> {
    let text = read(file)?;
    parse_limit(&text).ok_or_else(|| Error::Parse { file: file.into(), text })
}

pub(super) fn parse_limit(text: &str) -> Option<Option<u64>> {
    /// The largest page that any kernel has; v1's "no limit" is `i64::MAX` rounded down to one.
    const PAGE_BYTES_MAX: u64 = 1 << 16;
    match text.trim() {
        "max" => Some(None),
        number => {
            let number: u64 = number.parse().ok()?;
            Some((number <= i64::MAX as u64 - PAGE_BYTES_MAX).then_some(number))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_memory_stat_of_v1_and_skips_what_it_does_not_know() {
        let stat =
            memory_stat("cache 4096\nrss 8192\nrss_huge 0\nfuture_thing 7\nbroken\ntotal_cache nope\n");
        assert_eq!(stat, MemoryStat { cache: 4096, rss: 8192, ..MemoryStat::default() });
    }

    #[test]
    fn reads_memory_stat_of_v2() {
        let stat = memory_stat("anon 100\nfile 200\nfile_mapped 30\ninactive_file 50\nswapcached 1\n");
        let expected = MemoryStat {
            anon: 100,
            file: 200,
            mapped_file: 30,
            inactive_file: 50,
            swapcached: 1,
            ..MemoryStat::default()
        };
        assert_eq!(stat, expected);
    }

    #[test]
    fn reads_cpu_stat_of_v2_in_nanoseconds() {
        let stat = cpu_v2("usage_usec 3\nuser_usec 2\nsystem_usec 1\nnr_periods 0\n");
        assert_eq!(stat, CpuStat { usage_ns: 3_000, user_ns: 2_000, system_ns: 1_000 });
    }

    #[test]
    fn adds_the_processors_of_v1_up() {
        let text = "cpu user system\n0 100 20\n1 3 4\nbroken\n2 7\n";
        assert_eq!(user_and_system(text), (103, 24));
        assert_eq!(user_and_system(&format!("0 {0} {0}\n1 {0} 1\n", u64::MAX)), (u64::MAX, u64::MAX));
    }

    #[test]
    fn oom_kill_is_not_mistaken_for_its_neighbours() {
        assert_eq!(value_of("oom_kill_disable 0\nunder_oom 1\noom_kill 3\n", "oom_kill"), 3);
        assert_eq!(value_of("oom 9\noom_kill 2\noom_group_kill 5\n", "oom_kill"), 2);
        assert_eq!(value_of("oom_kill_disable 1\n", "oom_kill"), 0);
    }

    #[test]
    fn no_limit_has_two_spellings() {
        assert_eq!(parse_limit("max\n"), Some(None));
        assert_eq!(parse_limit("9223372036854771712\n"), Some(None));
        assert_eq!(parse_limit("4096\n"), Some(Some(4096)));
        assert_eq!(parse_limit("4k\n"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_fail(text in "[ -~\n]{0,400}") {
            memory_stat(&text);
            cpu_v2(&text);
            user_and_system(&text);
            value_of(&text, "oom_kill");
            parse_limit(&text);
        }
    }
}
