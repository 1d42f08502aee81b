//! The password of `admin`: checked, cached, and guarded against guessing; and the sessions it opens.
//!
//! In here: HTTP Basic (RFC 7617), the cache that makes the next request cheap, the limit on wrong
//! passwords, and the tokens of sessions, of which only digests are kept. Not in here: argon2
//! (`password.rs`), the table of sessions (`session_core.rs`), where the hash is stored, and what is
//! answered (`gate.rs`). Nothing in here is ever printed: no type but the verdicts has `Debug`.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use smol::lock::Semaphore;

use crate::http::head_core::Secret;
use crate::http::password::{NoMemory, equal_in_constant_time, fill_random, password_matches};
use crate::http::quota::Quota;
use crate::http::rate_core::{PeerKey, Rate, RateTable};
use crate::http::session_core::{self, SessionTable};
use crate::system::pool::{Pool, PoolError};
use crate::system::wait;

pub use crate::api::wire::USER;
pub use crate::http::password::hash_password;

/// Passwords being checked at once: 14 MiB, and a core is left for video.
const RUNS_MAX: usize = 2;
/// Requests that wait for their turn; more are told to come back.
const WAITERS_MAX: usize = 32;
/// Addresses whose wrong passwords are remembered.
const PEERS_MAX: usize = 256;
const WRONG_RATE: Rate = Rate { per_minute: 5, burst: 5 };
/// How soon what a session watches ends with it.
const SESSION_LOOK: Duration = Duration::from_secs(2);
/// Random bytes of a session's token.
const TOKEN_BYTES: usize = 32;

/// What a request's password is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Granted,
    /// No Basic credentials at all.
    Missing,
    /// Wrong user or password, or a header that can't be decoded.
    Wrong,
    /// The address gave too many wrong ones.
    TooMany {
        retry_after_s: u32,
    },
    /// Too many are being checked; come back.
    Busy,
}

/// Why a password could not be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// Too many are being checked; come back.
    Busy,
}

/// The stored password and everything around it. Lives on the executor.
pub struct Auth {
    phc: RefCell<Arc<str>>,
    pool: Pool,
    /// Of this process: what the cache holds is of no use elsewhere.
    key: [u8; 32],
    /// Digest of the credentials that passed last. One is enough: there is one user, and the decoded
    /// form is digested, so all headers that can pass have the same one.
    verified: Cell<Option<[u8; 32]>>,
    sessions: RefCell<SessionTable>,
    /// The password is the one that was made at the first start.
    is_initial: Cell<bool>,
    runs: Semaphore,
    waiters: Rc<Quota>,
    wrong: RefCell<RateTable<PEERS_MAX>>,
    started: Instant,
}

impl Auth {
    /// Checks against `phc`, a string of [`hash_password`]; argon2 runs in `pool`. With a string that
    /// is none, no password passes.
    pub fn new(phc: String, pool: Pool) -> Self {
        let mut key = [0; 32];
        fill_random(&mut key);
        Self {
            phc: RefCell::new(phc.into()),
            pool,
            key,
            verified: Cell::new(None),
            sessions: RefCell::default(),
            is_initial: Cell::new(false),
            runs: Semaphore::new(RUNS_MAX),
            waiters: Quota::new(WAITERS_MAX),
            wrong: RefCell::new(RateTable::new(WRONG_RATE)),
            started: Instant::now(),
        }
    }

    /// The password was changed: from now on only the new one passes, and of the sessions only `kept`.
    pub fn set_hash(&self, phc: String, kept: Option<u64>) {
        *self.phc.borrow_mut() = phc.into();
        self.verified.set(None);
        self.is_initial.set(false);
        self.sessions.borrow_mut().end_all_but(kept);
    }

    /// The password is the one that was made and printed at the first start.
    pub fn mark_initial(&self) {
        self.is_initial.set(true);
    }

    /// Whether the owner has yet to choose a password.
    pub fn is_initial(&self) -> bool {
        self.is_initial.get()
    }

    /// Opens a session for who was just granted. Gives its token, which is kept nowhere, and whether the
    /// table was full and another one had to go.
    pub fn open_session(&self) -> (String, bool) {
        let mut token = [0; TOKEN_BYTES];
        fill_random(&mut token);
        let token = URL_SAFE_NO_PAD.encode(token);
        let digest = self.digest(token.as_bytes());
        let (_, has_displaced) = self.sessions.borrow_mut().open(digest, self.now_ms());
        (token, has_displaced)
    }

    /// The session whose token is in the value of a `Cookie` field; from now on it was used just now.
    pub fn find_session(&self, cookie: Option<&[u8]>) -> Option<u64> {
        let find = |token| self.sessions.borrow_mut().find(&self.digest(token), self.now_ms());
        session_core::tokens(cookie?).find_map(find)
    }

    /// Resolves when the session has ended: what it still watches or loads ends with it.
    pub async fn session_ended(&self, id: u64) {
        while self.sessions.borrow_mut().keep(id, self.now_ms()) {
            wait::pause(SESSION_LOOK).await;
        }
    }

    /// Ends a session.
    pub fn end_session(&self, id: u64) {
        self.sessions.borrow_mut().end(id);
    }

    /// `header` passed before, so [`Self::verify_header`] would grant it at once.
    pub fn is_verified(&self, header: Option<&[u8]>) -> bool {
        match parse_basic(header) {
            Basic::Given(credentials) => self.is_cached(&self.digest(&credentials)),
            Basic::Absent | Basic::Malformed => false,
        }
    }

    /// Judges the value of an `Authorization` field that came from `peer`.
    pub async fn verify_header(&self, header: Option<&[u8]>, peer: IpAddr) -> Verdict {
        match parse_basic(header) {
            Basic::Given(credentials) => self.verify_credentials(Secret(credentials), peer).await,
            Basic::Absent => Verdict::Missing,
            Basic::Malformed => self.count_wrong(PeerKey::new(peer)),
        }
    }

    /// Judges `user:password` that came from `peer`.
    pub async fn verify_credentials(&self, Secret(credentials): Secret, peer: IpAddr) -> Verdict {
        let peer = PeerKey::new(peer);
        let digest = self.digest(&credentials);
        if self.is_cached(&digest) {
            return Verdict::Granted;
        }
        // Before the queue, so that an address that guesses can't fill it.
        if let Err(retry_after_s) = self.wrong.borrow_mut().peek(peer, self.now_ms()) {
            return Verdict::TooMany { retry_after_s };
        }
        let Some(_waiter) = self.waiters.take(1) else { return Verdict::Busy };
        let _run = self.runs.acquire().await;
        if self.is_cached(&digest) {
            return Verdict::Granted; // a page asks for ten things at once; the first one paid
        }
        // Taken before the answer is known, or guesses in parallel would all pass the limit.
        if let Err(retry_after_s) = self.wrong.borrow_mut().take(peer, self.now_ms()) {
            return Verdict::TooMany { retry_after_s };
        }
        let phc = Arc::clone(&self.phc.borrow());
        let outcome = self.run(Arc::clone(&phc), credentials).await;
        if outcome != Ok(false) {
            self.wrong.borrow_mut().refund(peer, self.now_ms());
        }
        match outcome {
            Ok(true) if Arc::ptr_eq(&phc, &self.phc.borrow()) => {
                self.verified.set(Some(digest));
                Verdict::Granted
            }
            Ok(_) => Verdict::Wrong,
            Err(AuthError::Busy) => Verdict::Busy,
        }
    }

    /// `password` is the present one. For a change of password, which was authenticated already.
    pub async fn verify_password(&self, password: &str) -> Result<bool, AuthError> {
        let _waiter = self.waiters.take(1).ok_or(AuthError::Busy)?;
        let _run = self.runs.acquire().await;
        let phc = Arc::clone(&self.phc.borrow());
        self.run(phc, [USER.as_bytes(), b":", password.as_bytes()].concat()).await
    }

    /// Hashes a new password for [`Self::set_hash`] and the store.
    pub async fn hash(&self, password: &str) -> Result<String, AuthError> {
        let _waiter = self.waiters.take(1).ok_or(AuthError::Busy)?;
        let _run = self.runs.acquire().await;
        let password = password.to_owned();
        self.pool.run(move || hash_password(&password)).await.map_err(busy)
    }

    async fn run(&self, phc: Arc<str>, credentials: Vec<u8>) -> Result<bool, AuthError> {
        let outcome = self.pool.run(move || credentials_match(&phc, &credentials)).await;
        outcome.map_err(busy)?.map_err(|NoMemory| AuthError::Busy)
    }

    /// Counts a password that comes in a body as a wrong one, before it is known: else guesses in
    /// parallel would all pass the limit. The error says in how many seconds `peer` may try again.
    pub fn take_guess(&self, peer: IpAddr) -> Result<(), u32> {
        self.wrong.borrow_mut().take(PeerKey::new(peer), self.now_ms())
    }

    /// It was not a wrong one.
    pub fn give_back_guess(&self, peer: IpAddr) {
        self.wrong.borrow_mut().refund(PeerKey::new(peer), self.now_ms());
    }

    fn count_wrong(&self, peer: PeerKey) -> Verdict {
        match self.wrong.borrow_mut().take(peer, self.now_ms()) {
            Ok(()) => Verdict::Wrong,
            Err(retry_after_s) => Verdict::TooMany { retry_after_s },
        }
    }

    /// Of credentials, which hold a colon, or of a token, which holds none.
    fn digest(&self, secret: &[u8]) -> [u8; 32] {
        Sha256::new().chain_update(self.key).chain_update(secret).finalize().into()
    }

    fn is_cached(&self, digest: &[u8; 32]) -> bool {
        self.verified.get().is_some_and(|verified| equal_in_constant_time(&verified, digest))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The job panicked (its text is in the log) or the queue is full: either way nothing was found out.
fn busy(_: PoolError) -> AuthError {
    AuthError::Busy
}

/// `USER:PASSWORD` is right. A wrong name takes as long as a wrong password.
fn credentials_match(phc: &str, credentials: &[u8]) -> Result<bool, NoMemory> {
    let colon = credentials.iter().position(|b| *b == b':').unwrap_or(credentials.len());
    let (user, password) = credentials.split_at(colon);
    let password_ok = password_matches(phc, password.get(1..).unwrap_or_default())?;
    Ok(password_ok & equal_in_constant_time(user, USER.as_bytes()))
}

enum Basic {
    /// `user:password`.
    Given(Vec<u8>),
    Absent,
    Malformed,
}

/// RFC 7617 section 2. Another scheme than Basic is as good as none.
fn parse_basic(header: Option<&[u8]>) -> Basic {
    let Some(header) = header else { return Basic::Absent };
    let header = header.trim_ascii();
    let scheme_len = header.iter().position(|b| *b == b' ').unwrap_or(header.len());
    let (scheme, token) = header.split_at(scheme_len);
    if !scheme.eq_ignore_ascii_case(b"Basic") {
        return Basic::Absent;
    }
    match STANDARD.decode(token.trim_ascii()) {
        Ok(credentials) if credentials.contains(&b':') => Basic::Given(credentials),
        _ => Basic::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::password::encode_hash;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn basic(user: &str, password: &str) -> Vec<u8> {
        format!("basic {}", STANDARD.encode(format!("{user}:{password}"))).into_bytes()
    }

    /// Cheap parameters: the string carries them, and what is tested here is not argon2.
    fn cheap_hash(password: &str) -> String {
        let params = argon2::Params::new(8, 1, 1, Some(32)).unwrap();
        encode_hash(password, &[7; 16], params).unwrap()
    }

    fn auth(password: &str) -> Auth {
        Auth::new(cheap_hash(password), Pool::start("codec", 1, 8).unwrap())
    }

    #[test]
    fn the_first_request_pays_and_a_new_password_ends_the_cache() {
        let auth = auth("secret");
        smol::block_on(async {
            let header = basic("admin", "secret");
            assert!(!auth.is_verified(Some(&header)));
            assert_eq!(auth.verify_header(Some(&header), A).await, Verdict::Granted);
            assert!(auth.is_verified(Some(&header)));
            assert!(!auth.is_verified(Some(&basic("admin", "secreT"))));
            let renewed = auth.hash("other: päss").await.unwrap();
            assert!(renewed.starts_with("$argon2id$v=19$m=7168,t=5,p=1$"));
            auth.set_hash(renewed, None);
            assert!(!auth.is_verified(Some(&header)));
            assert_eq!(auth.verify_header(Some(&header), A).await, Verdict::Wrong);
            let header = basic("admin", "other: päss");
            assert_eq!(auth.verify_header(Some(&header), A).await, Verdict::Granted);
            assert_eq!(auth.verify_password("other: päss").await, Ok(true));
            assert_eq!(auth.verify_password("secret").await, Ok(false));
        });
    }

    #[test]
    fn five_wrong_ones_close_the_door_for_that_address_but_not_for_who_passed() {
        let auth = auth("secret");
        smol::block_on(async {
            let right = basic("admin", "secret");
            for n in 0..20 {
                assert_eq!(auth.verify_header(None, A).await, Verdict::Missing, "{n}");
            }
            for wrong in [
                basic("root", "secret"),
                basic("admin", ""),
                b"Basic !".to_vec(),
                b"Basic".to_vec(),
                basic("admin", "secret "),
            ] {
                assert_eq!(auth.verify_header(Some(&wrong), A).await, Verdict::Wrong);
            }
            let closed = auth.verify_header(Some(&right), A).await;
            assert!(matches!(closed, Verdict::TooMany { retry_after_s: 1..=12 }), "{closed:?}");
            assert_eq!(auth.verify_header(Some(&right), B).await, Verdict::Granted);
            assert_eq!(auth.verify_header(Some(&right), A).await, Verdict::Granted, "verified");
            let wrong = auth.verify_header(Some(&basic("admin", "x")), A).await;
            assert!(matches!(wrong, Verdict::TooMany { .. }));
        });
    }

    #[test]
    fn a_session_is_found_by_its_token_until_it_ends_or_the_password_changes() {
        let auth = auth("secret");
        let cookie = |token: &str| format!("a=b; lightnvr_session={token}").into_bytes();
        let (first, _) = auth.open_session();
        let (second, _) = auth.open_session();
        assert_eq!(first.len(), 43, "256 bits of base64: {first}");
        assert_ne!(first, second);
        let id = auth.find_session(Some(&cookie(&first))).expect("open");
        let other = auth.find_session(Some(&cookie(&second))).expect("open");
        assert_ne!(id, other);
        assert_eq!(auth.find_session(Some(&cookie(&first[1..]))), None);
        assert_eq!(auth.find_session(Some(b"lightnvr_session=")), None);
        assert_eq!(auth.find_session(Some(b"lightnvr_session=admin:secret")), None);
        assert_eq!(auth.find_session(None), None);
        let two = format!("lightnvr_session=old; lightnvr_session={first}");
        assert_eq!(auth.find_session(Some(two.as_bytes())), Some(id), "one of another path before");
        auth.mark_initial();
        auth.set_hash(cheap_hash("other"), Some(id));
        assert!(!auth.is_initial());
        assert_eq!(auth.find_session(Some(&cookie(&first))), Some(id), "it made the change");
        assert_eq!(auth.find_session(Some(&cookie(&second))), None);
        auth.end_session(id);
        assert_eq!(auth.find_session(Some(&cookie(&first))), None);
    }

    #[test]
    fn a_login_and_a_header_share_the_limit_on_wrong_passwords() {
        let auth = auth("secret");
        let login = |text: &str| Secret(text.as_bytes().to_vec());
        smol::block_on(async {
            for n in 0..5 {
                let verdict = if n % 2 == 0 {
                    auth.verify_credentials(login("admin:x"), A).await
                } else {
                    auth.verify_header(Some(&basic("admin", "y")), A).await
                };
                assert_eq!(verdict, Verdict::Wrong);
            }
            let closed = auth.verify_credentials(login("admin:secret"), A).await;
            assert!(matches!(closed, Verdict::TooMany { .. }), "{closed:?}");
            assert_eq!(auth.verify_credentials(login("admin:secret"), B).await, Verdict::Granted);
            assert!(auth.is_verified(Some(&basic("admin", "secret"))), "one login for both ways");
        });
    }

    #[test]
    fn guesses_in_parallel_get_no_more_than_five() {
        let auth = auth("secret");
        let guesses: Vec<Vec<u8>> =
            (0..30).map(|n| basic("admin", &format!("guess {n}"))).collect();
        let executor = smol::LocalExecutor::new();
        let tasks: Vec<_> =
            guesses.iter().map(|g| executor.spawn(auth.verify_header(Some(g), A))).collect();
        smol::block_on(executor.run(async {
            let mut wrong = 0;
            for task in tasks {
                wrong += usize::from(task.await == Verdict::Wrong);
            }
            assert_eq!(wrong, 5);
        }));
    }

    #[test]
    fn ten_right_ones_in_parallel_all_pass() {
        let auth = auth("secret");
        let header = basic("admin", "secret");
        let executor = smol::LocalExecutor::new();
        let tasks: Vec<_> =
            (0..10).map(|_| executor.spawn(auth.verify_header(Some(&header), A))).collect();
        smol::block_on(executor.run(async {
            for task in tasks {
                assert_eq!(task.await, Verdict::Granted);
            }
        }));
    }

    #[test]
    fn a_stored_string_that_is_no_hash_lets_nobody_in() {
        let auth = Auth::new("admin".into(), Pool::start("codec", 1, 8).unwrap());
        let header = basic("admin", "admin");
        assert_eq!(smol::block_on(auth.verify_header(Some(&header), A)), Verdict::Wrong);
    }
}
