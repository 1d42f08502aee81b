//! schemathesis finds nothing: what the program answers is what `/api/v1/openapi.json` says.

mod rig;

use std::process::Command;

use base64::prelude::{BASE64_STANDARD, Engine};
use rig::nvr::{Nvr, PASSWORD};
use rig::temp_dir::TempDir;
use rig::{target_dir, test_file};

/// Cases per operation beyond those that cover the schema.
const EXAMPLES_MAX: &str = "40";

#[test]
fn schemathesis_finds_nothing_against_the_schema() {
    let home = TempDir::new("schema");
    let storage = home.path().join("storage");
    std::fs::create_dir(&storage).expect("the test's directory can be written");
    let nvr = Nvr::start_with(home.path(), &["--demo"]);
    let base = format!("http://{}", nvr.addr);
    let login = BASE64_STANDARD.encode(format!("admin:{PASSWORD}"));
    // Made by build.sh from tests/requirements.txt.
    let mut command = Command::new(target_dir().join("venv/bin/schemathesis"));
    command.arg("--config-file").arg(test_file("schema/schemathesis.toml"));
    command.args(["--no-color", "run", "--auth", &format!("admin:{PASSWORD}")]);
    command.args(["--checks", "all", "--phases", "examples,coverage,fuzzing"]);
    // The recorder answers 50 a second from one address, and a hook may need one more.
    command.args(["--rate-limit", "20/s", "--max-examples", EXAMPLES_MAX]);
    // The same cases every time: a failure can be looked at, and the suite does not flicker.
    command.arg("--generation-deterministic");
    command.args(["--continue-on-failure", "--output-truncate", "false"]);
    command.arg(format!("{base}/api/v1/openapi.json")).current_dir(home.path());
    command.env("SCHEMATHESIS_HOOKS", "hooks").env("PYTHONPATH", test_file("schema"));
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("RIG_LOGIN", format!("Basic {login}"));
    command.env("RIG_PASSWORD", PASSWORD).env("RIG_STORAGE", &storage).env("RIG_BASE", &base);
    let out = command.output().expect("target/venv is there: run ./build.sh test");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let wrong = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{}\n{said}\n{wrong}", out.status);
    println!("{said}");
}
