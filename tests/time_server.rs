//! The time server for cameras, asked by a client that others wrote (ntplib).

mod rig;

use std::cell::Cell;
use std::process::Command;

use lightnvr::appliance::time_server::serve;
use lightnvr::appliance::time_server_core::Synced;
use lightnvr::system::clock;
use rig::process::run_silently;
use rig::target_dir;
use smol::net::UdpSocket;

/// Says leap indicator, stratum, offset in seconds, and the server's reference as text.
const CLIENT: &str = "import ntplib, sys
got = ntplib.NTPClient().request('127.0.0.1', port=int(sys.argv[1]), version=int(sys.argv[2]), timeout=20)
print(got.leap, got.stratum, round(got.offset), ntplib.ref_id_to_text(got.ref_id, got.stratum))";

fn asked(synced: Option<Synced>, version: u8) -> String {
    let socket = smol::block_on(UdpSocket::bind("127.0.0.1:0")).expect("a free port");
    let port = socket.local_addr().expect("it is bound").port().to_string();
    // It ends with the test's process.
    let server = move || smol::block_on(serve(&socket, &Cell::new(synced)));
    drop(std::thread::Builder::new().name("time".into()).spawn(server).expect("a thread"));
    let mut client = Command::new(target_dir().join("venv/bin/python"));
    let said = run_silently(client.args(["-c", CLIENT, &port, &version.to_string()]));
    String::from_utf8(said).expect("text").trim().to_owned()
}

#[test]
fn a_client_takes_the_time_once_it_is_known() {
    let synced = Synced { stratum: 2, server: [192, 168, 1, 1], at_ms: clock::wall_ms() };
    for version in [3, 4] {
        assert_eq!(asked(Some(synced), version), "0 3 0 192.168.1.1");
    }
    // "Unsynchronized", and no stratum.
    assert!(asked(None, 4).starts_with("3 0 0 "), "{}", asked(None, 4));
}
