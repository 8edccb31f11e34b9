//! Where each option's value comes from: the command line, else the environment, else the configuration file, else
//! its default.
//!
//! The file's keys are the options' long names, and its values become arguments before those of the command line, so
//! that they are read, checked and complained about in one place.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fmt::Write,
    path::Path,
};

use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches, error::ErrorKind, parser::ValueSource};
use toml::{Table, Value};

use crate::{gdn, options::Options};

/// The options in force.
pub(crate) struct Settings {
    pub(crate) options: Options,
    /// What the operator should know of options that have no effect.
    pub(crate) warnings: Vec<String>,
    matches: ArgMatches,
    from_file: BTreeSet<String>,
}

impl Settings {
    /// Reads the command line, the environment and the file.
    pub(crate) fn read(arguments: Vec<OsString>) -> Result<Settings, clap::Error> {
        let mut warnings = Vec::new();
        let arguments = without_gdn_options(arguments, &mut warnings)?;
        refuse_gdn_environment(|name| std::env::var_os(name).is_some())?;
        let first = Options::command().try_get_matches_from(&arguments)?;
        let mut from_file = BTreeSet::new();
        let matches = match first.get_one::<std::path::PathBuf>("config") {
            None => first,
            Some(path) => {
                let added = read_file(path, &first, &mut from_file, &mut warnings)?;
                let (program, rest) = arguments.split_first().map_or((None, &[][..]), |(p, r)| (Some(p), r));
                Options::command().try_get_matches_from(program.into_iter().chain(&added).chain(rest))?
            }
        };
        let options = Options::from_arg_matches(&matches).map_err(|e| e.format(&mut Options::command()))?;
        Ok(Settings { options, warnings, matches, from_file })
    }

    /// The options in force, as a file that can be given to `--config`, and where each comes from.
    pub(crate) fn in_force(&self) -> String {
        let mut text = String::new();
        for argument in options_of(&Options::command()) {
            let Some(key) = argument.get_long() else { continue };
            if key == "config" || argument.is_hide_set() {
                continue;
            }
            let source = match self.matches.value_source(argument.get_id().as_str()) {
                _ if self.from_file.contains(key) => "file",
                Some(ValueSource::CommandLine) => "command line",
                Some(ValueSource::EnvVariable) => "environment",
                _ => "default",
            };
            let values = self.matches.get_raw(argument.get_id().as_str()).map(Iterator::collect::<Vec<_>>);
            // Writing to a string cannot fail.
            let _ = match values {
                Some(values) => writeln!(text, "{key} = {}  # {source}", to_toml(argument, &values)),
                None => writeln!(text, "# {key}: {source}"),
            };
        }
        text
    }
}

fn options_of(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|argument| !matches!(argument.get_id().as_str(), "help" | "version"))
}

fn takes_many(argument: &Arg) -> bool {
    matches!(argument.get_action(), clap::ArgAction::Append)
}

fn to_toml(argument: &Arg, values: &[&OsStr]) -> String {
    let one = |value: &&OsStr| {
        let text = value.to_string_lossy();
        match text.as_ref() {
            "true" | "false" => text.into_owned(),
            number if number.parse::<u32>().is_ok_and(|n| n.to_string() == number) => text.into_owned(),
            _ => Value::from(text.as_ref()).to_string(),
        }
    };
    if takes_many(argument) {
        format!("[{}]", values.iter().map(one).collect::<Vec<_>>().join(", "))
    } else {
        values.first().map(one).unwrap_or_default()
    }
}

fn refused(reason: String) -> clap::Error {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{reason}\n")).with_cmd(&Options::command())
}

/// Takes out the options of gdn that have no meaning here; those that carry policy are errors.
fn without_gdn_options(
    arguments: Vec<OsString>,
    warnings: &mut Vec<String>,
) -> Result<Vec<OsString>, clap::Error> {
    let mut kept = Vec::new();
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let text = argument.to_string_lossy().into_owned();
        let Some(option) = text.strip_prefix("--") else {
            kept.push(argument);
            continue;
        };
        let (name, value) = option.split_once('=').map_or((option, None), |(n, v)| (n, Some(v)));
        match gdn::judge(name) {
            gdn::Verdict::Ours => kept.push(argument),
            gdn::Verdict::Ignored(warning) => {
                warnings.push(warning);
                if value.is_none() {
                    rest.next();
                }
            }
            gdn::Verdict::Refused(reason) => return Err(refused(reason)),
        }
    }
    Ok(kept)
}

fn refuse_gdn_environment(is_set: impl Fn(&str) -> bool) -> Result<(), clap::Error> {
    for name in gdn::refused_names() {
        let variable = format!("GARDEN_{}", name.to_uppercase().replace('-', "_"));
        if is_set(&variable)
            && let gdn::Verdict::Refused(reason) = gdn::judge(name)
        {
            return Err(refused(format!("{variable}: {reason}")));
        }
    }
    Ok(())
}

/// The file's settings as arguments, but for those that are given elsewhere.
fn read_file(
    path: &Path,
    given: &ArgMatches,
    from_file: &mut BTreeSet<String>,
    warnings: &mut Vec<String>,
) -> Result<Vec<OsString>, clap::Error> {
    let in_file = |reason: String| refused(format!("{}: {reason}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| in_file(format!("cannot be read: {e}")))?;
    let table: Table = text.parse().map_err(|e: toml::de::Error| in_file(e.to_string()))?;
    let command = Options::command();
    let mut arguments = Vec::new();
    for (key, value) in table {
        match gdn::judge(&key) {
            gdn::Verdict::Ours => {}
            gdn::Verdict::Ignored(warning) => {
                warnings.push(format!("{}: {warning}", path.display()));
                continue;
            }
            gdn::Verdict::Refused(reason) => return Err(in_file(reason)),
        }
        let argument = options_of(&command)
            .find(|argument| argument.get_long() == Some(&key) && key != "config")
            .ok_or_else(|| in_file(format!("{key}: there is no such option")))?;
        let given_elsewhere = matches!(
            given.value_source(argument.get_id().as_str()),
            Some(ValueSource::CommandLine | ValueSource::EnvVariable)
        );
        if !given_elsewhere {
            arguments.extend(to_arguments(argument, &key, value).map_err(in_file)?);
            from_file.insert(key);
        }
    }
    Ok(arguments)
}

fn to_arguments(argument: &Arg, key: &str, value: Value) -> Result<Vec<OsString>, String> {
    let is_switch = !argument.get_action().takes_values();
    match value {
        Value::Boolean(on) if is_switch => Ok(on.then(|| format!("--{key}").into()).into_iter().collect()),
        _ if is_switch => Err(format!("{key}: is either true or false")),
        Value::Array(values) if takes_many(argument) => {
            values.into_iter().map(|value| to_argument(key, value)).collect()
        }
        value => Ok(vec![to_argument(key, value)?]),
    }
}

fn to_argument(key: &str, value: Value) -> Result<OsString, String> {
    match value {
        Value::String(text) => Ok(format!("--{key}={text}").into()),
        Value::Integer(number) => Ok(format!("--{key}={number}").into()),
        other => Err(format!("{key}: cannot be {}", other.type_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Settings, String> {
        let arguments = std::iter::once("garden-server").chain(arguments.iter().copied()).map(OsString::from);
        Settings::read(arguments.collect()).map_err(|error| error.to_string())
    }

    fn file(text: &str) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("garden.toml");
        std::fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap().to_owned();
        (folder, path)
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_the_file_over_the_default() {
        let text = "tag = \"ab\"\nbind-port = 1\nallow-host-access = true\nallowed-host = [\"a\", \"b\"]\n";
        let (_folder, path) = file(text);
        let settings = read(&["--config", &path, "--bind-port", "2", "--allowed-host", "c"]).unwrap();
        let options = &settings.options;
        assert_eq!((options.tag.as_str(), options.bind_port, options.allow_host_access), ("ab", 2, true));
        assert_eq!(options.allowed_host, ["c"]);
        assert_eq!(options.debug_bind_port, 17013);
        assert_eq!(read(&["--config", &path]).unwrap().options.allowed_host, ["a", "b"]);
    }

    #[test]
    fn what_is_in_force_is_a_file_again() {
        let settings = read(&["--tag", "ab", "--allowed-host", "a,b", "--default-grace-time=5m"]).unwrap();
        let printed = settings.in_force();
        assert!(printed.contains("tag = \"ab\"  # command line"), "{printed}");
        assert!(printed.contains("bind-port = 7777  # default"), "{printed}");
        let (_folder, path) = file(&printed);
        let again = read(&["--config", &path]).unwrap();
        assert_eq!(again.options.default_grace_time.as_secs(), 300);
        assert_eq!(again.in_force().replace("# file", ""), {
            let sources = ["# command line", "# default"];
            // Options without a value stay comments.
            let lines = printed.lines().map(|line| match line.starts_with('#') {
                true => line.to_owned(),
                false => sources.iter().fold(line.to_owned(), |line, source| line.replace(source, "")),
            });
            lines.map(|line| line + "\n").collect::<String>()
        });
    }

    #[test]
    fn a_wrong_key_or_value_in_the_file_is_named() {
        for (text, wanted) in [
            ("nosuch = 1", "nosuch: there is no such option"),
            ("bind-port = 70000", "--bind-port"),
            ("allow-host-access = 1", "allow-host-access: is either true or false"),
            ("tag = 1.5", "tag: cannot be float"),
            ("tls-key = \"key.pem\"", "--tls-key is refused"),
            ("tag = [", "garden.toml"),
        ] {
            let (_folder, path) = file(text);
            let error = read(&["--config", &path]).err().unwrap();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        assert!(read(&["--config", "/nosuch.toml"]).err().unwrap().contains("/nosuch.toml: cannot be read"));
    }

    #[test]
    fn options_of_gdn_are_ignored_with_a_warning_or_refused() {
        let settings = read(&["--dadoo-bin", "/x/dadoo", "--tar-bin=/x/tar", "--tag", "ab"]).unwrap();
        assert_eq!(settings.options.tag, "ab");
        assert_eq!(settings.warnings.len(), 2);
        assert!(read(&["--network-plugin", "/x"]).err().unwrap().contains("--network-plugin is refused"));
        let error = refuse_gdn_environment(|name| name == "GARDEN_NETWORK_PLUGIN").unwrap_err().to_string();
        assert!(error.contains("GARDEN_NETWORK_PLUGIN"), "{error}");
    }

    #[test]
    fn options_may_stand_behind_the_action() {
        let settings = read(&["cleanup", "--tag", "ab"]).unwrap();
        assert_eq!(settings.options.tag, "ab");
        assert_eq!(settings.options.action, Some(crate::options::Action::Cleanup));
        let (_folder, path) = file("store = \"/x\"");
        let settings = read(&["cleanup", "--config", &path]).unwrap();
        assert_eq!(settings.options.store, Path::new("/x"));
    }

    #[test]
    fn wrong_values_are_refused() {
        for arguments in [
            ["--tag", "abc"],
            ["--socket-mode", "0999"],
            ["--bind-ip", "nowhere"],
            ["--mtu", "x"],
            ["--prepared-containers", "257"],
        ] {
            read(&arguments).err().unwrap();
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
        for argument in options_of(&Options::command()) {
            let name = argument.get_long().unwrap();
            assert_eq!(gdn::judge(name), gdn::Verdict::Ours, "{name}");
            let variable = format!("GARDEN_{}", name.to_uppercase().replace('-', "_"));
            let expected = (!argument.is_hide_set()).then_some(variable.as_str());
            assert_eq!(argument.get_env().and_then(OsStr::to_str), expected);
        }
    }
}
