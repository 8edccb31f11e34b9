//! As much of busybox as tests of a container server need.

use std::time::Duration;

use protocol::Result;

use crate::{
    files::Kind,
    programs::{Context, Programs},
    sync::lock,
};

/// A block of zeros that `head` and `dd` write at once.
const ZEROS: &[u8] = &[0; 64 * 1024];

pub(crate) fn add(programs: &mut Programs) {
    programs.insert("true", |_| async { Ok(0) });
    programs.insert("false", |_| async { Ok(1) });
    programs.insert("echo", echo);
    programs.insert("cat", cat);
    programs.insert("sleep", sleep);
    programs.insert("env", env);
    programs.insert("pwd", |context: Context| async move {
        context.print(format!("{}\n", context.dir)).await;
        Ok(0)
    });
    programs.insert("id", id);
    programs.insert("ls", ls);
    programs.insert("stat", stat);
    programs.insert("test", test);
    programs.insert("wc", wc);
    programs.insert("head", head);
    programs.insert("dd", dd);
}

/// `echo [-n] WORDS`
async fn echo(context: Context) -> Result<i32> {
    let (words, end) = match context.args.split_first() {
        Some((first, rest)) if first == "-n" => (rest, ""),
        _ => (&context.args[..], "\n"),
    };
    context.print(words.join(" ") + end).await;
    Ok(0)
}

/// `cat [FILES]`
async fn cat(context: Context) -> Result<i32> {
    if context.args.is_empty() {
        while let Some(piece) = context.read_stdin().await {
            context.print(piece).await;
        }
    }
    let mut status = 0;
    for path in &context.args {
        match context.read_file(path) {
            Ok(content) => context.print(content).await,
            Err(refusal) => status = context.complain(1, format!("cat: can't open {refusal}")).await?,
        }
    }
    Ok(status)
}

/// `sleep SECONDS`
async fn sleep(context: Context) -> Result<i32> {
    match context.arg(0).parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
        Some(time) => {
            tokio::time::sleep(time).await;
            Ok(0)
        }
        None => context.complain(1, format!("sleep: invalid number '{}'", context.arg(0))).await,
    }
}

/// `env`
async fn env(context: Context) -> Result<i32> {
    for (name, value) in &context.env {
        context.print(format!("{name}={value}\n")).await;
    }
    Ok(0)
}

/// `id -u`, `id -g`, `id -un`
async fn id(context: Context) -> Result<i32> {
    let answer = match context.arg(0) {
        "-u" => context.user.uid.to_string(),
        "-g" => context.user.gid.to_string(),
        "-un" => context.user.name.clone(),
        other => return context.complain(1, format!("id: the fake does not know {other:?}")).await,
    };
    context.print(answer + "\n").await;
    Ok(0)
}

/// `ls [DIR]`
async fn ls(context: Context) -> Result<i32> {
    let path = if context.args.is_empty() { "." } else { context.arg(0) };
    let names = {
        let files = lock(&context.files);
        let at = files.resolve(&context.dir, path, true);
        at.ok().filter(|at| files.get(at).is_some()).map(|at| {
            let names = files.below(&at).map(|(name, _)| name).filter(|name| !name.contains('/'));
            names.map(|name| format!("{name}\n")).collect::<String>()
        })
    };
    match names {
        Some(names) => {
            context.print(names).await;
            Ok(0)
        }
        None => context.complain(1, format!("ls: {path}: No such file or directory")).await,
    }
}

/// `stat -c FORMAT FILE`, where the format has `%u`, `%g`, `%a`, `%s`.
async fn stat(context: Context) -> Result<i32> {
    let path = context.arg(2);
    let answer = {
        let files = lock(&context.files);
        let at = files.resolve(&context.dir, path, false);
        at.ok().and_then(|at| files.get(&at)).map(|node| {
            let replaced = context.arg(1).replace("%u", &node.uid.to_string());
            let replaced = replaced.replace("%g", &node.gid.to_string());
            let replaced = replaced.replace("%a", &format!("{:o}", node.mode));
            replaced.replace("%s", &node.len_bytes().to_string())
        })
    };
    match answer {
        Some(answer) if context.arg(0) == "-c" => {
            context.print(answer + "\n").await;
            Ok(0)
        }
        _ => context.complain(1, format!("stat: can't stat '{path}': No such file or directory")).await,
    }
}

/// `test -e|-d|-f PATH`
async fn test(context: Context) -> Result<i32> {
    let files = lock(&context.files);
    let at = files.resolve(&context.dir, context.arg(1), true);
    let found = at.ok().and_then(|at| files.get(&at));
    let holds = match context.arg(0) {
        "-e" => found.is_some(),
        "-d" => found.is_some_and(|node| node.is_dir()),
        "-f" => found.is_some_and(|node| matches!(node.kind, Kind::File(_))),
        _ => return Ok(2),
    };
    Ok(i32::from(!holds))
}

/// `wc -c`
async fn wc(context: Context) -> Result<i32> {
    if context.args != ["-c"] {
        return context.complain(1, "wc: the fake knows only -c").await;
    }
    let mut count = 0;
    while let Some(piece) = context.read_stdin().await {
        count += piece.len();
    }
    context.print(format!("{count}\n")).await;
    Ok(0)
}

/// `head -c BYTES /dev/zero`
async fn head(context: Context) -> Result<i32> {
    let count: Option<usize> = context.arg(1).parse().ok();
    let (Some(count), "-c", "/dev/zero") = (count, context.arg(0), context.arg(2)) else {
        return context.complain(1, "head: the fake knows only head -c BYTES /dev/zero").await;
    };
    print_zeros(&context, count).await;
    Ok(0)
}

/// `dd if=/dev/zero of=/dev/null bs=BYTES count=N`: needs memory for one block.
async fn dd(context: Context) -> Result<i32> {
    let mut block_bytes = 512;
    for arg in &context.args {
        match arg.split_once('=') {
            Some(("bs", value)) => match parse_size(value) {
                Some(bytes) => block_bytes = bytes,
                None => return context.complain(1, format!("dd: invalid number '{value}'")).await,
            },
            Some(("if" | "of" | "count", _)) => {}
            _ => return context.complain(1, format!("dd: the fake does not know {arg:?}")).await,
        }
    }
    let limit = context.memory_limit_bytes();
    if limit > 0 && block_bytes > limit {
        return context.run_out_of_memory().await;
    }
    Ok(0)
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, factor) = match text.strip_suffix('M') {
        Some(number) => (number, 1024 * 1024),
        None => (text, 1),
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

async fn print_zeros(context: &Context, mut count: usize) {
    while count > 0 {
        let piece = &ZEROS[..count.min(ZEROS.len())];
        context.print(piece).await;
        count -= piece.len();
    }
}
