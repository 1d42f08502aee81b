//! Sessions of the web page: who has logged in, in a table of fixed size, and the cookie's text.
//!
//! In here: how long a session lives, which one goes when the table is full, and finding the tokens in a
//! `Cookie` field. Not in here: making and hashing tokens (`auth.rs`), who may log in (`login.rs`), and
//! the clock: `now_ms` is an argument. The table knows digests alone; nothing in here is ever printed.
//! Invariant S1: an id is given once. S2: no two sessions have the same digest.

use heapless::Vec;

use crate::http::password::equal_in_constant_time;

/// Sessions at once: every browser of a household. One more takes the place of the least recently used.
pub const SESSIONS_MAX: usize = 32;
/// A session that was not used for so long is over: 7 days.
pub const IDLE_MS_MAX: u64 = 7 * 24 * 3600 * 1000;
/// And every one after so long: 30 days.
pub const AGE_MS_MAX: u64 = 30 * 24 * 3600 * 1000;
/// The cookie's name.
pub const COOKIE: &str = "lightnvr_session";
/// Tokens looked at in one request: a browser may hold some of the same name, for other paths.
const TOKENS_MAX: usize = 4;

struct Session {
    id: u64,
    digest: [u8; 32],
    opened_ms: u64,
    used_ms: u64,
}

impl Session {
    fn is_over(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.used_ms) >= IDLE_MS_MAX
            || now_ms.saturating_sub(self.opened_ms) >= AGE_MS_MAX
    }
}

/// The sessions that are open.
#[derive(Default)]
pub struct SessionTable {
    sessions: Vec<Session, SESSIONS_MAX>,
    next_id: u64,
}

impl SessionTable {
    /// Opens a session for the token of `digest`. Gives its id, and whether another one had to go for it.
    pub fn open(&mut self, digest: [u8; 32], now_ms: u64) -> (u64, bool) {
        self.sessions.retain(|session| !session.is_over(now_ms));
        let oldest = self.sessions.iter().enumerate().min_by_key(|(_, s)| (s.used_ms, s.id));
        let displaced = oldest.map(|(at, _)| at).filter(|_| self.sessions.is_full());
        if let Some(at) = displaced {
            self.sessions.swap_remove(at);
        }
        let id = self.next_id;
        self.next_id += 1;
        let session = Session { id, digest, opened_ms: now_ms, used_ms: now_ms };
        let is_in = self.sessions.push(session).is_ok();
        debug_assert!(is_in, "room was made");
        (id, displaced.is_some())
    }

    /// The session of the token of `digest`, which is used now.
    pub fn find(&mut self, digest: &[u8; 32], now_ms: u64) -> Option<u64> {
        self.sessions.retain(|session| !session.is_over(now_ms));
        let mut sessions = self.sessions.iter_mut();
        let session = sessions.find(|s| equal_in_constant_time(&s.digest, digest))?;
        session.used_ms = session.used_ms.max(now_ms);
        Some(session.id)
    }

    /// Whether the session of `id` is open; it is used now, by what takes long.
    pub fn keep(&mut self, id: u64, now_ms: u64) -> bool {
        self.sessions.retain(|session| !session.is_over(now_ms));
        let found = self.sessions.iter_mut().find(|session| session.id == id);
        found.is_some_and(|session| {
            session.used_ms = session.used_ms.max(now_ms);
            true
        })
    }

    /// Ends the session of `id`, if it is there.
    pub fn end(&mut self, id: u64) {
        self.sessions.retain(|session| session.id != id);
    }

    /// Ends all sessions but that of `kept`.
    pub fn end_all_but(&mut self, kept: Option<u64>) {
        self.sessions.retain(|session| Some(session.id) == kept);
    }

    /// Panics when S1 or S2 is broken.
    pub fn check(&self) {
        for (n, session) in self.sessions.iter().enumerate() {
            assert!(session.id < self.next_id, "S1: ids count up");
            let earlier = &self.sessions[..n];
            assert!(earlier.iter().all(|s| s.id != session.id), "S1: an id is given once");
            assert!(earlier.iter().all(|s| s.digest != session.digest), "S2: one token each");
        }
    }
}

/// The values of our cookie in a `Cookie` field (RFC 6265 section 4.2.1), the first few.
pub fn tokens(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    let pairs = field.split(|b| *b == b';').map(<[u8]>::trim_ascii);
    let ours = pairs.filter_map(|pair| pair.strip_prefix(COOKIE.as_bytes())?.strip_prefix(b"="));
    ours.take(TOKENS_MAX)
}

/// The `Set-Cookie` field that gives a browser its token. Not `Secure`: the recorder speaks plain HTTP,
/// and a proxy with TLS may stand in front of it or not.
pub fn set_cookie(token: &str) -> String {
    let seconds = AGE_MS_MAX / 1000;
    format!("{COOKIE}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict")
}

/// The `Set-Cookie` field that takes it away.
pub fn clear_cookie() -> String {
    format!("{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(n: u8) -> [u8; 32] {
        [n; 32]
    }

    #[test]
    fn a_session_ends_after_a_week_unused_and_after_a_month_whatever_is_done() {
        let mut table = SessionTable::default();
        let (id, _) = table.open(digest(1), 0);
        assert_eq!(table.find(&digest(1), IDLE_MS_MAX - 1), Some(id));
        assert_eq!(table.find(&digest(2), 5), None);
        assert_eq!(table.find(&digest(1), 2 * IDLE_MS_MAX - 1), None, "a week later");
        let (id, _) = table.open(digest(1), 0);
        for day in 1..30 {
            assert_eq!(table.find(&digest(1), day * 24 * 3600 * 1000), Some(id));
        }
        assert_eq!(table.find(&digest(1), AGE_MS_MAX), None);
    }

    #[test]
    fn a_full_table_loses_who_asked_least_recently() {
        let mut table = SessionTable::default();
        for n in 0..32 {
            assert!(!table.open(digest(n), u64::from(n)).1);
        }
        table.find(&digest(0), 40);
        assert!(table.open(digest(32), 41).1, "one had to go");
        table.check();
        assert!(table.find(&digest(0), 42).is_some());
        assert!(table.find(&digest(1), 42).is_none());
        assert!(table.find(&digest(2), 42).is_some());
    }

    #[test]
    fn all_others_can_be_ended() {
        let mut table = SessionTable::default();
        let kept = table.open(digest(1), 0).0;
        let other = table.open(digest(2), 0).0;
        table.end_all_but(Some(kept));
        assert!(table.keep(kept, 0) && !table.keep(other, 0));
        assert!(table.keep(kept, IDLE_MS_MAX - 1), "watching is using");
        assert!(table.keep(kept, IDLE_MS_MAX + 1));
        assert!(!table.keep(kept, AGE_MS_MAX));
        let id = table.open(digest(3), AGE_MS_MAX).0;
        table.end_all_but(None);
        assert!(!table.keep(id, AGE_MS_MAX));
    }

    #[test]
    fn the_token_is_found_among_other_cookies() {
        let found = |field: &'static str| tokens(field.as_bytes()).collect::<std::vec::Vec<_>>();
        assert_eq!(found("a=b; lightnvr_session=T; c"), [b"T"]);
        assert_eq!(found("lightnvr_session=A;lightnvr_session=B"), [b"A", b"B"]);
        assert!(found("xlightnvr_session=T; lightnvr_session; LIGHTNVR_SESSION=T").is_empty());
        assert_eq!(found("lightnvr_session=").concat(), b"");
        let flood = "lightnvr_session=x;".repeat(400);
        assert_eq!(tokens(flood.as_bytes()).count(), TOKENS_MAX);
    }

    proptest! {
        #[test]
        fn whatever_is_done_the_table_holds(
            steps in prop::collection::vec((0_u8..4, 0_u8..60, 0_u64..IDLE_MS_MAX / 3), 1..300),
        ) {
            let (mut table, mut now_ms) = (SessionTable::default(), 0);
            for (n, (what, token, pause)) in steps.into_iter().enumerate() {
                now_ms += pause;
                match what {
                    // A token is random: no two of them are the same.
                    0 => {
                        let mut fresh = digest(token);
                        fresh[..8].copy_from_slice(&(n as u64).to_be_bytes());
                        table.open(fresh, now_ms);
                    }
                    1 => table.end(u64::from(token)),
                    2 => table.end_all_but(Some(u64::from(token))),
                    _ => drop(table.find(&digest(token), now_ms)),
                }
                table.check();
            }
        }

        #[test]
        fn any_field_is_read(field in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(tokens(&field).count() <= TOKENS_MAX);
        }
    }
}
