//! Deletes recordings: by the policy of `retention_core`, and one by hand. Crash-safe at every step.
//!
//! The row becomes a garbage row in one transaction, the file is removed and its directory synced, the garbage row
//! goes. A crash in between leaves a garbage row, and `sweep` goes on from there at the next start. Nobody walks
//! all recordings: the store knows totals and the oldest of each stream.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::RecordError;
use super::disk::{Disk, dir_of};
use super::open::OpenRecordings;
use super::recovery::split_path;
use super::retention_core::{Candidate, Facts, Hold, Planner, Policy};
use super::storage;
use crate::ledger::clock_core;
use crate::nvr::snapshot::Forecast;
use crate::store::{Change, StoreError, StoreReader};

/// Recordings of one round; the next one follows at once if there are more.
pub const DOOMED_MAX: usize = 64;
/// Behind all recordings that were made before the clock was set.
const UNDATED: Option<(i64, u64)> = Some((clock_core::SET_SINCE_MS - 1, u64::MAX - 1));
/// Garbage rows of one sweep.
const GARBAGE_MAX: usize = 256;

/// A recording that is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doomed {
    pub id: u64,
    pub path: String,
}

/// What a round found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Round {
    pub doomed: Vec<Doomed>,
    /// Streams that must not write.
    pub holds: BTreeMap<u32, Hold>,
    pub forecast: Vec<Forecast>,
}

/// Decides one round. `facts` lacks what finished recordings use; `held` are the streams that the last round held.
/// Blocking: belongs to the store's disk thread.
pub fn plan(
    reader: &StoreReader,
    policy: &Policy,
    mut facts: Facts,
    root: &Path,
    held: &BTreeSet<u32>,
) -> Result<Round, StoreError> {
    // What is of unknown age is the oldest for whoever needs room, but has no age to be too old.
    let (mut heads, mut dated) = (BTreeMap::new(), BTreeMap::new());
    for (stream_id, totals) in reader.totals()? {
        facts.streams.entry(stream_id).or_default().bytes += totals.bytes;
        heads.extend(head(reader, stream_id, None)?.map(|head| (stream_id, head)));
        dated.extend(head(reader, stream_id, UNDATED)?.map(|head| (stream_id, head)));
    }
    let ids: Vec<u32> = facts.streams.keys().copied().collect();
    let all: Vec<u32> = heads.keys().copied().collect();
    let mut planner = Planner::new(policy, facts);
    let mut round = Round::default();
    let mut gone = BTreeSet::new();
    while round.doomed.len() < DOOMED_MAX {
        let picked = match planner.pick(&heads, &dated) {
            Some(picked) => Some(picked),
            None if planner.is_disk_short() => oldest_below(reader, &all, root, &gone)?,
            None => None,
        };
        let Some(picked) = picked else { break };
        planner.take(&picked);
        gone.insert(picked.id);
        if heads.get(&picked.stream_id) == Some(&picked) {
            heads.remove(&picked.stream_id);
            let next = next_left(reader, picked.stream_id, None, &gone)?;
            heads.extend(next.map(|next| (picked.stream_id, next)));
        }
        if dated.get(&picked.stream_id) == Some(&picked) {
            dated.remove(&picked.stream_id);
            let next = next_left(reader, picked.stream_id, UNDATED, &gone)?;
            dated.extend(next.map(|next| (picked.stream_id, next)));
        }
        if let Some(row) = reader.recording(picked.id)? {
            round.doomed.push(Doomed { id: row.id, path: row.path });
        }
    }
    for id in ids {
        round.holds.extend(planner.hold(id, held.contains(&id)).map(|hold| (id, hold)));
    }
    round.forecast = planner.forecast();
    Ok(round)
}

/// The oldest recording of a stream that may go, behind the one with this start and id.
fn head(
    reader: &StoreReader,
    stream_id: u32,
    behind: Option<(i64, u64)>,
) -> Result<Option<Candidate>, StoreError> {
    let found = reader.next_deletable(stream_id, behind)?;
    Ok(found.map(|found| Candidate {
        id: found.id,
        stream_id,
        start_ms: found.start_ms,
        end_ms: found.end_ms,
        size: found.size,
    }))
}

/// The oldest recording of a stream that may go and is not in `gone`, behind that start and id.
fn next_left(
    reader: &StoreReader,
    stream_id: u32,
    behind: Option<(i64, u64)>,
    gone: &BTreeSet<u64>,
) -> Result<Option<Candidate>, StoreError> {
    let mut next = head(reader, stream_id, behind)?;
    while let Some(found) = next.filter(|found| gone.contains(&found.id)) {
        next = head(reader, stream_id, Some((found.start_ms, found.id)))?;
    }
    Ok(next)
}

/// The oldest recording that may go and whose going makes room below `root`: recordings of an earlier storage path
/// stay, for they are on another disk.
fn oldest_below(
    reader: &StoreReader,
    streams: &[u32],
    root: &Path,
    gone: &BTreeSet<u64>,
) -> Result<Option<Candidate>, StoreError> {
    let mut oldest: Option<Candidate> = None;
    for &stream_id in streams {
        let mut next = next_left(reader, stream_id, None, gone)?;
        while let Some(found) = next {
            if oldest.is_some_and(|oldest| oldest.start_ms <= found.start_ms) {
                break;
            }
            let row = reader.recording(found.id)?;
            let is_below = row.is_some_and(|row| Path::new(&row.path).starts_with(root));
            if is_below && !gone.contains(&found.id) {
                oldest = Some(found);
                break;
            }
            next = head(reader, stream_id, Some((found.start_ms, found.id)))?;
        }
    }
    Ok(oldest)
}

/// Deletes recordings: rows, files, garbage rows, in this order. An error of the disk leaves garbage rows, and
/// `sweep` tries again.
pub async fn delete(recordings: &OpenRecordings, doomed: Vec<Doomed>) -> Result<(), RecordError> {
    trash(recordings, &doomed).await?;
    remove_files(recordings, doomed).await
}

/// The first half of `delete`: out of the list for good.
pub async fn trash(recordings: &OpenRecordings, doomed: &[Doomed]) -> Result<(), RecordError> {
    // Refused before the row goes: what is on an unplugged disk stays in the list.
    doomed.iter().try_for_each(|doomed| recordings.may_remove(Path::new(&doomed.path)))?;
    let changes = doomed.iter().map(|doomed| Change::TrashRecording(doomed.id)).collect();
    recordings.commit(changes).await
}

/// Goes on with deletions that were begun and not finished; answers whether there may be more.
pub async fn sweep(recordings: &OpenRecordings) -> Result<bool, RecordError> {
    let reader = recordings.store.reader();
    let found = recordings.store_pool.run(move || reader.garbage(GARBAGE_MAX)).await;
    let found = found.map_err(RecordError::Pool)?.map_err(RecordError::Store)?;
    let has_more = found.len() == GARBAGE_MAX;
    if !found.is_empty() {
        let doomed = found.into_iter().map(|(id, path)| Doomed { id, path }).collect();
        remove_files(recordings, doomed).await?;
    }
    Ok(has_more)
}

/// The second half of `delete`. It may be dropped anywhere: what it leaves undone `sweep` does.
pub async fn remove_files(
    recordings: &OpenRecordings,
    doomed: Vec<Doomed>,
) -> Result<(), RecordError> {
    let (mut gone, mut result) = (Vec::with_capacity(doomed.len()), Ok(()));
    // One job a file: removing a large one takes a card long, and what is recorded comes in between.
    for doomed in doomed {
        match remove_file(recordings, &doomed.path).await {
            Ok(()) => gone.push(Change::ForgetGarbage(doomed.id)),
            Err(error) => result = result.and(Err(error)),
        }
    }
    if !gone.is_empty() {
        recordings.commit(gone).await?;
    }
    result
}

async fn remove_file(recordings: &OpenRecordings, path: &str) -> Result<(), RecordError> {
    recordings.may_remove(Path::new(path))?;
    let Some((place, name)) = split_path(path) else { return Ok(()) };
    let (place, name) = (place.to_owned(), name.to_owned());
    let pool =
        recordings.disks.pool_for(&place).await.map_err(|e| RecordError::disk(&place, &e))?;
    let attached = recordings.attached().ok().filter(|(root, _)| *root == place);
    let disk = attached.map(|(_, attached)| attached.disk);
    let (opener, store) = (Arc::clone(&recordings.opener), recordings.store.clone());
    let job = move || {
        let failed = |error: &std::io::Error| RecordError::disk(&place.join(&name), error);
        let disk: Arc<dyn Disk> = match disk {
            Some(disk) => disk,
            // A storage of earlier: if it is not there, its file is not gone.
            None => storage::look(&opener, &store, &place)?
                .map_err(RecordError::Storage)?
                .ok_or_else(|| failed(&ErrorKind::NotFound.into()))?,
        };
        match disk.remove(&name) {
            Err(error) if error.kind() == ErrorKind::NotFound && disk.is_at_path() => Ok(()),
            Err(error) => Err(failed(&error)),
            Ok(()) => disk.sync_dir(dir_of(&name)).map_err(|error| failed(&error)),
        }
    };
    pool.run(job).await.map_err(RecordError::Pool)?
}
