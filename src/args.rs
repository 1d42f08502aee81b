//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use lexopt::prelude::*;

/// Where everything is kept unless `--data-dir` says otherwise.
pub const DATA_DIR_DEFAULT: &str = "/var/lib/lightnvr";

/// What `--help` prints.
pub const HELP: &str = "\
LightNVR, a network video recorder

Usage: lightnvr [--data-dir DIR] [--listen ADDR:PORT] [--demo]
                [--admin-password-file FILE] [--redirect-port PORT] [--update-dir DIR]
                [--log-level LEVEL]
       lightnvr check --data-dir DIR [--rebuild [--storage DIR]]
       lightnvr init --disk DEVICE | keep    on a device flashed with the image only

  --data-dir DIR              store, settings and, by default, recordings (/var/lib/lightnvr)
  --listen ADDR:PORT          listen here instead of 0.0.0.0 and the setting web_port
  --demo                      add a test pattern if there is no stream yet
  --admin-password-file FILE  password of user admin, only while none is stored
                              (or the variable LIGHTNVR_ADMIN_PASSWORD)
  --redirect-port PORT        answer there too, with 308 to the page
  --update-dir DIR            take updates and hand them to `lightnvr keep`, which writes DIR
  --log-level LEVEL           off, error, warn, info (default), debug or trace
  --version, --help

  check                       hold store and files against each other, change nothing;
                              exit status 1 when something does not agree
  --rebuild                   make the rows anew from the recordings' files alone; a store
                              that can't be read is set aside (streams and settings with it)
  --storage DIR               where the recordings are, when the settings are lost

  init                        once at each start: grow and mount the data partition of
                              DEVICE, read lightnvr-setup.txt
  keep                        run the recorder as its own user, and kick the watchdog
";

/// What the program is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Task {
    Run(RunArgs),
    Check { data_dir: PathBuf },
    Rebuild { data_dir: PathBuf, storage: Option<PathBuf> },
    Init(InitArgs),
    Keep(KeepArgs),
    Version,
    Help,
}

/// How to start a device.
#[derive(Debug, PartialEq, Eq)]
pub struct InitArgs {
    /// The disk with the four partitions.
    pub disk: PathBuf,
    pub data_dir: PathBuf,
}

/// How to keep a device running.
#[derive(Debug, PartialEq, Eq)]
pub struct KeepArgs {
    pub data_dir: PathBuf,
}

/// How to run the recorder.
#[derive(Debug, PartialEq, Eq)]
pub struct RunArgs {
    pub data_dir: PathBuf,
    pub listen: Option<SocketAddr>,
    pub is_demo: bool,
    pub admin_password_file: Option<PathBuf>,
    /// A second port that answers every request with 308 to the page.
    pub redirect_port: Option<u16>,
    /// Where `lightnvr keep` says what this device is; with it the recorder takes updates.
    pub update_dir: Option<PathBuf>,
    pub log_level: log::LevelFilter,
}

/// Parses the arguments, without the program's name. The error is one line for the owner.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Task, String> {
    let mut parser = lexopt::Parser::from_args(args);
    let mut run = RunArgs {
        data_dir: DATA_DIR_DEFAULT.into(),
        listen: None,
        is_demo: false,
        admin_password_file: None,
        redirect_port: None,
        update_dir: None,
        log_level: log::LevelFilter::Info,
    };
    let (mut word, mut is_rebuild, mut storage) = (Word::Run, false, None);
    let mut disk = None;
    let mut run_only = None;
    while let Some(arg) = parser.next().map_err(|error| error.to_string())? {
        match arg {
            Long("data-dir") => run.data_dir = path(&mut parser, "--data-dir")?,
            Long("listen") => {
                run_only = Some("--listen");
                let text = text(&mut parser, "--listen")?;
                let parsed = text.parse().map_err(|_| {
                    format!("--listen: got {text:?}, want ADDR:PORT such as 127.0.0.1:8080")
                });
                run.listen = Some(parsed?);
            }
            Long("demo") => {
                run_only = Some("--demo");
                run.is_demo = true;
            }
            Long("admin-password-file") => {
                run_only = Some("--admin-password-file");
                run.admin_password_file = Some(path(&mut parser, "--admin-password-file")?);
            }
            Long("redirect-port") => {
                run_only = Some("--redirect-port");
                let text = text(&mut parser, "--redirect-port")?;
                let port = text.parse().ok().filter(|port| *port > 0);
                let wrong = || format!("--redirect-port: got {text:?}, want 1 to 65535");
                run.redirect_port = Some(port.ok_or_else(wrong)?);
            }
            Long("update-dir") => {
                run_only = Some("--update-dir");
                run.update_dir = Some(path(&mut parser, "--update-dir")?);
            }
            Long("log-level") => {
                let text = text(&mut parser, "--log-level")?;
                run.log_level = text.parse().map_err(|_| {
                    format!(
                        "--log-level: got {text:?}, want off, error, warn, info, debug or trace"
                    )
                })?;
            }
            Long("rebuild") => is_rebuild = true,
            Long("storage") => storage = Some(path(&mut parser, "--storage")?),
            Long("version") | Short('V') => return Ok(Task::Version),
            Long("help") | Short('h') => return Ok(Task::Help),
            Long("disk") => disk = Some(path(&mut parser, "--disk")?),
            Value(value) if word == Word::Run && value == "check" => word = Word::Check,
            Value(value) if word == Word::Run && value == "init" => word = Word::Init,
            Value(value) if word == Word::Run && value == "keep" => word = Word::Keep,
            other => return Err(other.unexpected().to_string()),
        }
    }
    if is_rebuild && word != Word::Check {
        return Err("--rebuild goes with check".into());
    }
    if storage.is_some() && !is_rebuild {
        return Err("--storage goes with check --rebuild".into());
    }
    if disk.is_some() && word != Word::Init {
        return Err("--disk goes with init".into());
    }
    let data_dir = match (word, run_only) {
        (Word::Run, _) => return Ok(Task::Run(run)),
        (_, Some(option)) => return Err(format!("{option} goes with no command")),
        (_, None) => run.data_dir,
    };
    Ok(match word {
        Word::Init => Task::Init(InitArgs { disk: disk.ok_or("init wants --disk")?, data_dir }),
        Word::Keep => Task::Keep(KeepArgs { data_dir }),
        _ if is_rebuild => Task::Rebuild { data_dir, storage },
        _ => Task::Check { data_dir },
    })
}

/// What to do, as the first word without dashes says it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Run,
    Check,
    Init,
    Keep,
}

fn text(parser: &mut lexopt::Parser, option: &str) -> Result<String, String> {
    let value = parser.value().map_err(|error| error.to_string())?;
    value.into_string().map_err(|_| format!("{option}: want UTF-8"))
}

fn path(parser: &mut lexopt::Parser, option: &str) -> Result<PathBuf, String> {
    let value = parser.value().map_err(|error| error.to_string())?;
    if value.is_empty() { Err(format!("{option}: want a path")) } else { Ok(value.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Task, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn defaults_are_those_of_the_help_text() {
        let Ok(Task::Run(run)) = parsed("") else { panic!("want a run") };
        assert_eq!(run.data_dir, PathBuf::from("/var/lib/lightnvr"));
        assert_eq!((run.listen, run.is_demo), (None, false));
        assert_eq!(run.log_level, log::LevelFilter::Info);
    }

    #[test]
    fn every_option_is_taken() {
        let line = "--data-dir /d --listen 127.0.0.1:0 --demo --admin-password-file /p --redirect-port 80 \
             --update-dir /u --log-level debug";
        let want = RunArgs {
            data_dir: "/d".into(),
            listen: Some(([127, 0, 0, 1], 0).into()),
            is_demo: true,
            admin_password_file: Some("/p".into()),
            redirect_port: Some(80),
            update_dir: Some("/u".into()),
            log_level: log::LevelFilter::Debug,
        };
        assert_eq!(parsed(line), Ok(Task::Run(want)));
        assert_eq!(parsed("check --data-dir /d"), Ok(Task::Check { data_dir: "/d".into() }));
        let rebuild = |storage| Task::Rebuild { data_dir: "/d".into(), storage };
        assert_eq!(parsed("check --rebuild --data-dir /d"), Ok(rebuild(None)));
        let line = "check --rebuild --storage /s --data-dir /d";
        assert_eq!(parsed(line), Ok(rebuild(Some("/s".into()))));
        assert_eq!(parsed("--version"), Ok(Task::Version));
        let init = InitArgs { disk: "/dev/vda".into(), data_dir: "/d".into() };
        assert_eq!(parsed("init --disk /dev/vda --data-dir /d"), Ok(Task::Init(init)));
        assert_eq!(
            parsed("keep --data-dir /d"),
            Ok(Task::Keep(KeepArgs { data_dir: "/d".into() }))
        );
    }

    #[test]
    fn a_bad_argument_is_one_line_that_names_it() {
        for line in [
            "--listen here",
            "--listen",
            "--nope",
            "extra",
            "--log-level loud",
            "--redirect-port 0",
            "check --redirect-port 80",
            "keep --update-dir /u",
            "check --demo",
            "check check",
            "--rebuild",
            "check --storage /s",
            "init",
            "init keep --disk /d",
            "keep --disk /d",
            "keep --demo",
        ] {
            let error = parsed(line).expect_err(line);
            assert!(!error.contains('\n') && !error.is_empty(), "{line}: {error}");
        }
    }
}
