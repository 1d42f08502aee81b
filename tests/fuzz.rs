//! Every place where bytes of others come in, on a corpus and on new inputs made from it.
//!
//! All targets run at once for 20 s, on threads of their own, so that the promise costs CI 20 s and not 20 s each;
//! `./build.sh soak` gives each 20 s of a processor (SOAK=1). An input that breaks something is printed, and
//! belongs into `tests/fuzz/corpus/TARGET/`.

#[path = "fuzz/bodies.rs"]
mod bodies;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use bodies::{TARGETS, Target};

/// Longest input that is made.
const INPUT_BYTES_MAX: usize = 4096;

/// A generator that needs no crate: xorshift64 (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a directory").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{name}: a corpus has at least one input");
    files.iter().map(|file| fs::read(file).expect("a file")).collect()
}

/// Another input, made from one or two.
fn mutate(random: &mut Random, pool: &[Vec<u8>]) -> Vec<u8> {
    let mut input = pool[random.below(pool.len())].clone();
    for _ in 0..1 + random.below(6) {
        let at = random.below(input.len() + 1);
        match random.below(7) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = [0, 1, 0x7f, 0x80, 0xff, b'\n'][random.below(6)],
            2 => {
                let some = [random.next() as u8, random.next() as u8];
                input.splice(at..at, some);
            }
            3 => drop(input.drain(at..(at + 1 + random.below(16)).min(input.len()).max(at))),
            4 => {
                let other = &pool[random.below(pool.len())];
                let from = random.below(other.len() + 1);
                let piece = &other[from..(from + random.below(64)).min(other.len())];
                input.splice(at..at, piece.iter().copied());
            }
            5 => {
                let again = input[at..(at + random.below(64)).min(input.len())].to_vec();
                input.splice(at..at, again);
            }
            _ => input.truncate(at.max(1)),
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

/// Runs one target until `end`; gives the number of inputs.
fn run(&(name, body): &Target, seed: u64, end: Instant) -> u64 {
    let mut pool = corpus(name);
    let mut random = Random(seed);
    let check = |input: &[u8]| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(input))) {
            let escaped = input.escape_ascii();
            eprintln!("{name} breaks on {} bytes, seed {seed}: b\"{escaped}\"", input.len());
            std::panic::resume_unwind(panic);
        }
    };
    pool.iter().for_each(|input| check(input));
    let mut inputs = 0;
    while inputs < 100 || Instant::now() < end {
        let input = mutate(&mut random, &pool);
        check(&input);
        inputs += 1;
        // Some of the new ones are built upon.
        if inputs % 64 == 0 && pool.len() < 512 {
            pool.push(input);
        }
    }
    inputs
}

/// The crate for cargo-fuzz is not built by the tests, for it wants nightly.
#[test]
fn each_target_is_one_of_cargo_fuzz_too() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let manifest = fs::read_to_string(dir.join("Cargo.toml")).expect("a manifest");
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
    for (name, _) in &TARGETS {
        let path = format!("fuzz_targets/{name}.rs");
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"{path}\"\n")), "{name}");
        assert!(fs::read_to_string(dir.join(path)).expect("a target").contains("bodies::"));
    }
}

#[test]
fn no_bytes_of_others_break_anything() {
    let seed = getrandom::u64().expect("random numbers") | 1;
    let seconds =
        if std::env::var_os("SOAK").is_some() { 20 * TARGETS.len() as u64 / 2 } else { 20 };
    let end = Instant::now() + Duration::from_secs(seconds);
    std::thread::scope(|scope| {
        let start = |target: &'static Target| {
            let thread = std::thread::Builder::new().name(target.0.to_owned());
            (
                target.0,
                thread.spawn_scoped(scope, move || run(target, seed, end)).expect("a thread"),
            )
        };
        let threads: Vec<_> = TARGETS.iter().map(start).collect();
        for (name, thread) in threads {
            let inputs = thread.join().unwrap_or_else(|_| panic!("{name} is broken, see above"));
            println!("{name}: {inputs} inputs");
        }
    });
}
