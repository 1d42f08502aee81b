//! A full table of file descriptors does not make the gate deaf. It runs in a process of its own,
//! so that the test can lower that one's limit.

#[path = "rig/attacks.rs"]
mod attacks;
#[path = "rig/gate.rs"]
mod rig;

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use attacks::Target;

/// Set in the process that the test starts.
const CHILD: &str = "LIGHTNVR_TEST_GATE_CHILD";

#[test]
fn a_full_fd_table_is_survived() {
    if std::env::var_os(CHILD).is_some() {
        return gate_of_the_child();
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_full_fd_table_is_survived", "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let addr = lines
        .find_map(|line| Some(line.unwrap().split_once("listens ")?.1.parse().unwrap()))
        .expect("the child says where it listens");
    let target = Target { addr, open: &|| 0, open_max: 0, path: "/healthz" };
    attacks::full_fd_table(&target, child.id(), 20);
    drop(child.stdin.take());
    let refused: u64 = lines
        .find_map(|line| Some(line.unwrap().split_once("accept errors ")?.1.parse().unwrap()))
        .expect("the child counts");
    assert!(refused > 0, "the table was full");
    assert!(child.wait().unwrap().success());
}

/// What is attacked: a process of its own, whose table can be made small.
fn gate_of_the_child() {
    let rig = rig::start(|_| {});
    println!("\nlistens {}", rig.addr);
    drop(std::io::stdin().read_to_end(&mut Vec::new()));
    println!("\naccept errors {}", rig.counters.accept_errors.get());
}
