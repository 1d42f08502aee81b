//! Password hashes: argon2id (RFC 9106) as PHC strings.
//!
//! In here: hashing and comparing, tens of milliseconds each, so for `codec-N` or before there is an
//! executor; and the memory for it. Not in here: who may try how often (`auth.rs`). Nothing in here
//! is ever printed.

use std::ffi::c_void;

use argon2::password_hash::phc::{Output, ParamsString, Salt};
use argon2::{Algorithm, Argon2, Block, Params, PasswordHash, Version};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// 7 MiB, 5 passes, 1 lane: the smallest of OWASP's equivalent settings, for boards of 512 MB.
const MEMORY_KIB: u32 = 7 << 10;
const PASSES: u32 = 5;
const LANES: u32 = 1;
/// What a stored string may ask for; ours asks for [`MEMORY_KIB`].
const MEMORY_KIB_MAX: u32 = 64 << 10;
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

/// There is no memory for it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

/// Hashes `password` here and now.
pub fn hash_password(password: &str) -> String {
    let mut salt = [0; SALT_BYTES];
    fill_random(&mut salt);
    let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(HASH_BYTES));
    let params = params.expect("constants within argon2's ranges");
    encode_hash(password, &salt, params).expect("7 MiB for a moment: without them nothing runs")
}

/// The hash as a string.
pub(super) fn encode_hash(password: &str, salt: &[u8], params: Params) -> Result<String, NoMemory> {
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&params).expect("parameters have a text"),
        salt: Some(Salt::new(salt).expect("16 bytes are a salt")),
        hash: Some(compute(password.as_bytes(), salt, params)?),
    };
    Ok(hash.to_string())
}

/// `password` is the one of `phc`. Nothing matches a string that is no hash of ours.
pub fn password_matches(phc: &str, password: &[u8]) -> Result<bool, NoMemory> {
    let Some((params, salt, wanted)) = parse_phc(phc) else {
        log::error!("the stored password hash can't be read: no password passes");
        return Ok(false);
    };
    let got = compute(password, salt.as_ref(), params)?;
    Ok(equal_in_constant_time(got.as_ref(), wanted.as_ref()))
}

fn parse_phc(phc: &str) -> Option<(Params, Salt, Output)> {
    let hash = PasswordHash::new(phc).ok()?;
    let ours = hash.algorithm == Algorithm::Argon2id.ident()
        && hash.version == Some(Version::V0x13.into());
    let params = Params::try_from(&hash).ok()?;
    let fits = params.m_cost() <= MEMORY_KIB_MAX;
    (ours && fits).then_some(())?;
    Some((params, hash.salt?, hash.hash?))
}

fn compute(password: &[u8], salt: &[u8], params: Params) -> Result<Output, NoMemory> {
    let blocks = Blocks::map(params.block_count()).ok_or(NoMemory)?;
    let mut out = [0; Output::MAX_LENGTH];
    let out = &mut out[..params.output_len().unwrap_or(HASH_BYTES)];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let filled = argon2.hash_password_into_with_memory(password, salt, out, blocks);
    filled.expect("parameters were checked, and a request's head bounds the password");
    Ok(Output::new(out).expect("a length that argon2 takes is one of a hash"))
}

/// Compares without telling by its time where two differ.
pub(super) fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0, |acc, (a, b)| std::hint::black_box(acc | (a ^ b)));
    a.len() == b.len() && std::hint::black_box(differing) == 0
}

pub(super) fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the kernel gives random bytes once it has booted");
}

/// Argon2's memory, mapped for one run and given back to the kernel after it. From the heap glibc
/// keeps it: three runs left 14 MiB resident that nothing used any more.
struct Blocks {
    start: *mut c_void,
    count: usize,
}

impl Blocks {
    fn map(count: usize) -> Option<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let len = count.checked_mul(Block::SIZE).filter(|len| *len > 0)?;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no other one.
        let start =
            unsafe { mmap_anonymous(std::ptr::null_mut(), len, prot, MapFlags::PRIVATE) }.ok()?;
        Some(Self { start, count })
    }
}

impl AsMut<[Block]> for Blocks {
    fn as_mut(&mut self) -> &mut [Block] {
        // SAFETY: the mapping is `count` blocks long, aligned to a page (a block needs 64), zeroed,
        // which is a valid block (words of 64 bits), ours alone, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast::<Block>(), self.count) }
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and no slice outlives `self`.
        let unmapped = unsafe { munmap(self.start, self.count * Block::SIZE) };
        unmapped.expect("what was mapped can be unmapped");
    }
}

const _: () = assert!(size_of::<Block>() == Block::SIZE && align_of::<Block>() <= 4096);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_matches_its_password_alone_and_names_its_cost() {
        let phc = hash_password("päss:word");
        assert!(phc.starts_with("$argon2id$v=19$m=7168,t=5,p=1$"), "{phc}");
        assert_eq!(password_matches(&phc, "päss:word".as_bytes()), Ok(true));
        assert_eq!(password_matches(&phc, b"pass:word"), Ok(false));
    }

    #[test]
    fn the_hash_of_another_program_is_understood() {
        // argon2-cffi 25.1.0, which wraps the reference implementation in C: hash_secret(b"secret",
        // b"\7" * 16, time_cost=1, memory_cost=8, parallelism=1, hash_len=32, type=Type.ID).
        let phc = "$argon2id$v=19$m=8,t=1,p=1$BwcHBwcHBwcHBwcHBwcHBw$\
                   4R1PEQPItpvkTH5juMUak3oEb8rtWEdaRzGIjigkYIU";
        assert_eq!(password_matches(phc, b"secret"), Ok(true));
        assert_eq!(password_matches(phc, b"Secret"), Ok(false));
    }

    #[test]
    fn nothing_matches_what_is_no_hash_of_ours() {
        let phc = "$argon2id$v=19$m=8,t=1,p=1$BwcHBwcHBwcHBwcHBwcHBw$\
                   4R1PEQPItpvkTH5juMUak3oEb8rtWEdaRzGIjigkYIU";
        for bad in [
            "",
            "secret",
            &phc.replace("argon2id", "argon2i"),
            &phc.replace("v=19", "v=16"),
            &phc.replace("m=8", "m=4294967295"),
            &phc[..phc.len() - 44],
        ] {
            assert_eq!(password_matches(bad, b"secret"), Ok(false), "{bad}");
        }
    }

    #[test]
    fn the_comparison_sees_lengths_and_every_byte() {
        assert!(equal_in_constant_time(b"", b""));
        assert!(equal_in_constant_time(b"ab", b"ab"));
        assert!(!equal_in_constant_time(b"ab", b"ac"));
        assert!(!equal_in_constant_time(b"ab", b"cb"));
        assert!(!equal_in_constant_time(b"ab", b"abc"));
    }
}
