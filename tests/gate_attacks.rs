//! The attacks on a gate in this process: the right status or a closed connection, bounded
//! connections, and an ordinary request answered meanwhile.

#[path = "rig/attacks.rs"]
mod attacks;
#[path = "rig/gate.rs"]
mod rig;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use attacks::{ORDINARY, Target, connect_from, probe, wait_for_close};
use lightnvr::http::conn_table::Caps;
use lightnvr::http::gate::{CAPS, GateConfig};
use rig::Rig;

fn attacked(
    change: impl FnOnce(&mut GateConfig) + Send + 'static,
    attack: impl FnOnce(&Target, &Rig),
) {
    let limit = rustix::process::Rlimit {
        current: rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum,
        ..rustix::process::getrlimit(rustix::process::Resource::Nofile)
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let rig = rig::start(change);
    let open = || rig.open();
    let target = Target { addr: rig.addr, open: &open, open_max: CAPS.all, path: "/healthz" };
    attack(&target, &rig);
}

#[test]
fn a_thousand_idle_connections_leave_room_for_others() {
    attacked(
        |_| {},
        |target, rig| {
            let kept = attacks::silent_connections(target, 2, 1000, CAPS.per_peer, b"");
            assert!(rig.open() <= CAPS.per_peer + 4, "{} open", rig.open());
            assert_eq!(rig.counters.closed_for_room.get(), 1000 - CAPS.per_peer as u64);
            drop(kept);
        },
    );
}

#[test]
fn idle_connections_of_many_addresses_stop_at_the_cap_of_all() {
    attacked(
        |_| {},
        |target, rig| {
            let mut kept = Vec::new();
            for last in 20..40 {
                kept.extend(attacks::silent_connections(target, last, 50, 50, b""));
            }
            assert_eq!(rig.counters.refused_busy.get(), 0);
            assert!(rig.open() <= CAPS.all);
        },
    );
}

#[test]
fn a_thousand_partial_heads_leave_room_for_others() {
    attacked(
        |_| {},
        |target, rig| {
            let start = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Partial: ";
            let kept = attacks::silent_connections(target, 2, 1000, CAPS.per_peer, start);
            assert!(rig.open() <= CAPS.per_peer + 4);
            drop(kept);
        },
    );
}

#[test]
fn connections_at_work_are_never_closed_for_a_new_one() {
    let caps = Caps { all: 3, per_peer: 2 };
    let change = move |config: &mut GateConfig| {
        config.caps = caps;
        config.deadlines.exchange = attacks::GUARD;
        config.deadlines.give_way = attacks::GUARD;
    };
    attacked(change, |target, rig| {
        let mut waiting = connect_from(3, target.addr);
        // Half a body: the client owes us the rest, so this one goes before those at work.
        let half = "PUT /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf";
        waiting.write_all(half.as_bytes()).unwrap();
        let mut big = stalled_readers(target, 2, 2);
        for stream in &big {
            assert_eq!(stream.peek(&mut [0]).unwrap(), 1, "its reply has begun");
        }
        probe(target);
        wait_for_close(&mut waiting);
        let mut third = connect_from(2, target.addr);
        wait_for_close(&mut third);
        assert_eq!(rig.counters.refused_busy.get(), 1);
        for stream in &mut big {
            let answer = attacks::read_answer(stream).expect("it was kept");
            assert_eq!((answer.status, answer.body.len()), (200, 1 << 20));
        }
    });
}

/// Clients that asked for a megabyte and read nothing of it.
fn stalled_readers(target: &Target, last: u8, count: usize) -> Vec<TcpStream> {
    (0..count)
        .map(|_| {
            let stream = attacks::unconnected(last);
            rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 4096).unwrap();
            rustix::net::connect(&stream, &target.addr).unwrap();
            (&stream).write_all(attacks::get("/big").as_bytes()).unwrap();
            stream
        })
        .collect()
}

/// Asks ordinary questions until `is_so`; each takes the gate through all its work.
fn wait_for_counter(target: &Target, is_so: impl Fn() -> bool) {
    for _ in 0..150 {
        if is_so() {
            return;
        }
        probe(target);
    }
    panic!("it never came to that");
}

#[test]
fn readers_that_stand_still_give_way_to_others() {
    attacked(
        |_| {},
        |target, rig| {
            let readers = stalled_readers(target, 2, 12);
            wait_for_counter(target, || rig.counters.closed_for_memory.get() >= 4);
            let paged = attacks::get("/api/v1/pages");
            rig.set(|settings| settings.web_auth_enabled = false);
            let answer = attacks::ask_from(ORDINARY, target.addr, paged.as_bytes()).unwrap();
            assert_eq!((answer.status, answer.body.len()), (200, 500 << 10), "others get theirs");
            assert_eq!(rig.counters.replies_full.get(), 0);
            drop(readers);
        },
    );
}

#[test]
fn readers_that_stand_still_are_closed() {
    let change = |config: &mut GateConfig| config.deadlines.stall = Duration::from_millis(300);
    attacked(change, |target, rig| {
        let mut readers = stalled_readers(target, 2, 4);
        readers.iter_mut().for_each(wait_for_close_unread);
        wait_for_counter(target, || rig.open() <= 1);
        assert_eq!(rig.counters.closed_stalled.get(), 4);
    });
}

/// Waits without reading: the error state of a socket can be asked for.
fn wait_for_close_unread(stream: &mut TcpStream) {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(&*stream, PollFlags::RDHUP)];
    let guard = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
    assert_eq!(poll(&mut fds, Some(&guard)).unwrap(), 1, "still open");
}

#[test]
fn a_header_line_of_200_mib_ends_early() {
    attacked(|_| {}, |target, _| attacks::endless_header_line(target, 200 << 20));
}

#[test]
fn broken_framing_is_named_and_ends_the_connection() {
    attacked(|_| {}, |target, _| attacks::broken_framing(target));
}

#[test]
fn resets_around_accept_do_no_harm() {
    attacked(|_| {}, |target, _| attacks::resets(target, 300));
}

#[test]
fn a_pipelining_flood_behind_a_stalled_reader_fills_only_its_own_socket() {
    let change = |config: &mut GateConfig| config.deadlines.stall = Duration::from_millis(700);
    attacked(change, |target, rig| {
        let mut stream = attacks::pipelining_flood(target, 64 << 20);
        wait_for_close_unread(&mut stream);
        wait_for_counter(target, || rig.open() <= 1);
        assert_eq!(rig.counters.closed_stalled.get(), 1);
    });
}

#[test]
fn a_trickle_of_bytes_does_not_outlive_the_deadline_of_the_head() {
    let change = |config: &mut GateConfig| config.deadlines.head = Duration::from_millis(400);
    attacked(change, |target, rig| {
        attacks::slow_loris(target);
        assert_eq!(rig.counters.closed_idle.get(), 20);
    });
}

#[test]
fn a_kept_connection_has_no_longer_for_its_next_head() {
    let change = |config: &mut GateConfig| {
        config.deadlines.head = Duration::from_millis(400);
        config.deadlines.idle = 2 * attacks::GUARD;
    };
    attacked(change, |target, _| {
        let mut stream = connect_from(2, target.addr);
        stream.write_all(attacks::get("/healthz").as_bytes()).unwrap();
        assert_eq!(attacks::read_answer(&mut stream).unwrap().status, 200);
        stream.write_all(b"GET / HTTP/1.1\r\nHost").unwrap();
        assert_eq!(attacks::read_answer(&mut stream).unwrap().status, 408);
    });
}

#[test]
fn a_body_that_never_comes_ends_at_its_deadline() {
    let change = |config: &mut GateConfig| config.deadlines.body = Duration::from_millis(300);
    attacked(change, |target, _| {
        let head = "PUT /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf";
        let answer = attacks::ask_from(2, target.addr, head.as_bytes()).unwrap();
        assert_eq!(answer.status, 408);
        probe(target);
    });
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let change = |config: &mut GateConfig| config.deadlines.idle = Duration::from_millis(300);
    attacked(change, |target, _| {
        let mut stream = connect_from(2, target.addr);
        stream.write_all(attacks::get("/healthz").as_bytes()).unwrap();
        assert_eq!(attacks::read_answer(&mut stream).unwrap().status, 200);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    });
}

#[test]
fn twelve_kept_connections_of_two_browsers_all_get_their_replies() {
    attacked(|_| {}, |target, _| attacks::twelve_keep_alive_connections(target));
}

#[test]
fn who_reads_no_refusals_keeps_nobody_out() {
    let change = |config: &mut GateConfig| {
        config.caps = Caps { all: 4, per_peer: 4 };
        config.deadlines.stall = attacks::GUARD;
        config.deadlines.give_way = Duration::from_millis(100);
    };
    attacked(change, |target, rig| {
        let flood = attacks::get("/api/v1/streams").repeat(1000);
        let stalled: Vec<TcpStream> = (0..4)
            .map(|_| {
                let stream = attacks::unconnected(2);
                rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 1024).unwrap();
                rustix::net::connect(&stream, &target.addr).unwrap();
                // Not a wait for something: until the gate reads no more, because nobody reads it.
                stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
                while (&stream).write_all(flood.as_bytes()).is_ok() {}
                stream
            })
            .collect();
        probe(target);
        assert_eq!((rig.counters.closed_for_room.get(), rig.counters.refused_busy.get()), (1, 0));
        drop(stalled);
    });
}

#[test]
fn a_foreign_host_name_does_not_lead_around_the_rate() {
    attacked(
        |_| {},
        |target, rig| {
            let foreign = "GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n";
            let mut stream = connect_from(2, target.addr);
            let mut limited = 0;
            for _ in 0..400 {
                stream.write_all(foreign.as_bytes()).unwrap();
                let answer = attacks::read_answer(&mut stream).unwrap();
                limited += usize::from(answer.status == 429);
            }
            assert!(limited > 0 && rig.counters.rate_limited.get() == limited as u64);
        },
    );
}

#[test]
fn bodies_of_open_requests_have_a_limit_together() {
    attacked(
        |_| {},
        |target, rig| {
            rig.set(|settings| settings.web_auth_enabled = false);
            let head = |path: &str, length: usize| {
                let fields = format!("Host: localhost\r\nContent-Length: {length}\r\n");
                format!("POST {path} HTTP/1.1\r\n{fields}Expect: 100-continue\r\n\r\n")
            };
            let open = |path: &str| {
                let mut stream = connect_from(2, target.addr);
                stream.write_all(head(path, 65536).as_bytes()).unwrap();
                let mut first = [0; 25];
                stream.read_exact(&mut first).unwrap();
                assert!(first.starts_with(b"HTTP/1.1 100 "), "asked for its body");
                stream
            };
            let others: Vec<TcpStream> = (0..20).map(|_| open("/")).collect();
            let kept: Vec<TcpStream> = (0..32).map(|_| open("/api/v1/streams")).collect();
            let mut late = connect_from(3, target.addr);
            late.write_all(head("/api/v1/streams", 9).as_bytes()).unwrap();
            let answer = attacks::read_answer(&mut late).unwrap();
            assert_eq!((answer.status, answer.field("retry-after")), (503, Some("1")));
            assert_eq!(rig.counters.bodies_full.get(), 1);
            drop((others, kept));
            let whole =
                "POST /api/v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nkept";
            wait_for_counter(target, || {
                let answer = attacks::ask_from(3, target.addr, whole.as_bytes()).unwrap();
                answer.status == 200 && answer.text().ends_with("kept")
            });
        },
    );
}

#[test]
fn a_body_that_no_handler_reads_is_not_kept() {
    attacked(
        |_| {},
        |target, rig| {
            rig.set(|settings| settings.web_auth_enabled = false);
            for (line, is_kept) in [
                ("PUT /echo", false),
                ("DELETE /api/v1/echo", false),
                ("GET /api/v1/echo", false),
                ("PUT /api/v1/echo", true),
                ("POST /api/v1/echo", true),
            ] {
                let request =
                    format!("{line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody");
                let answer = attacks::ask_from(2, target.addr, request.as_bytes()).unwrap();
                assert_eq!(answer.status, 200, "{line}");
                assert_eq!(answer.text().ends_with("body"), is_kept, "{line}");
            }
        },
    );
}

#[test]
fn wrong_passwords_in_a_body_are_limited_and_right_ones_are_not() {
    attacked(
        |_| {},
        |target, rig| {
            rig.set(|settings| settings.web_auth_enabled = false);
            let change = |body: &str| {
                let head = "PUT /api/v1/password HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5";
                let request = format!("{head}\r\n\r\n{body}");
                attacks::ask_from(2, target.addr, request.as_bytes()).unwrap()
            };
            (0..20).for_each(|_| assert_eq!(change("right").status, 200));
            (0..5).for_each(|_| assert_eq!(change("wrong").status, 200));
            for body in ["wrong", "right"] {
                let answer = change(body);
                assert_eq!(answer.status, 429, "{body}");
                let seconds: u32 = answer.field("retry-after").unwrap().parse().unwrap();
                assert!((1..=12).contains(&seconds));
            }
            assert_eq!(rig.counters.auth_limited.get(), 2);
        },
    );
}
