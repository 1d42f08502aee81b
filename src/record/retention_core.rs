//! Which recordings go, and when nothing may be written any more: the policy of retention. Keeps PURE-CORE.
//!
//! Age: a recording that ended longer ago than `retention_days` goes. Space: with `auto_delete_oldest` the oldest go,
//! before the space is needed; without it recording stops before the disk is full. Protected recordings and
//! those that are being written never go. The shell (`retention`) feeds the oldest recording of each stream.

use std::collections::BTreeMap;

use crate::ledger::clock_core;
use crate::nvr::snapshot::Forecast;

const DAY_MS: i64 = 86_400_000;
const DAY_S: f64 = 86_400.0;
/// What is kept free: the larger of 2 % and this much writing.
const HEADROOM_S: u64 = 120;
/// But never more than a quarter: a small limit would be all headroom.
const HEADROOM_PART_MAX: u64 = 4;

/// What the owner wishes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// 0: until space is needed.
    pub retention_days: u32,
    /// Bytes of all recordings together, 0: no limit.
    pub max_storage_size: u64,
    pub auto_delete_oldest: bool,
    pub overrides: BTreeMap<u32, Override>,
}

/// What the owner wishes for one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Override {
    pub retention_days: Option<u32>,
    pub max_storage_size: Option<u64>,
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub now_ms: i64,
    /// The wall clock was set and has not stepped lately: ages mean something.
    pub is_clock_trusted: bool,
    /// Size and free bytes of the recordings' filesystem, if it answers.
    pub disk: Option<(u64, u64)>,
    pub streams: BTreeMap<u32, Use>,
}

/// What one stream uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Of its recordings, running ones included.
    pub bytes: u64,
    /// What it would write if it records.
    pub bytes_per_s: u64,
}

/// A recording that may be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub id: u64,
    pub stream_id: u32,
    pub start_ms: i64,
    pub end_ms: i64,
    pub size: u64,
}

/// Why nothing may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    DiskFull,
    Limit,
    StreamLimit,
}

impl Hold {
    /// For the owner.
    pub fn text(self) -> &'static str {
        match self {
            Self::DiskFull => {
                "not recording: the disk is almost full and nothing may be deleted \
                 (auto_delete_oldest, protected recordings)"
            }
            Self::Limit => {
                "not recording: max_storage_size is reached and nothing may be deleted \
                 (auto_delete_oldest, protected recordings)"
            }
            Self::StreamLimit => {
                "not recording: the stream's max_storage_size is reached and nothing may be deleted \
                 (auto_delete_oldest, protected recordings)"
            }
        }
    }
}

/// How much of `size` is kept free while `bytes_per_s` are written.
pub fn headroom(size: u64, bytes_per_s: u64) -> u64 {
    (size / 50).max(bytes_per_s.saturating_mul(HEADROOM_S)).min(size / HEADROOM_PART_MAX)
}

/// Some space with its limit.
#[derive(Clone, Copy, Debug)]
struct Space {
    size: u64,
    free: u64,
    headroom: u64,
}

impl Space {
    fn new(size: u64, free: u64, bytes_per_s: u64) -> Self {
        Self { size, free, headroom: headroom(size, bytes_per_s) }
    }

    fn limit(limit: u64, used: u64, bytes_per_s: u64) -> Option<Self> {
        (limit > 0).then(|| Self::new(limit, limit.saturating_sub(used), bytes_per_s))
    }

    fn is_short(&self) -> bool {
        self.free < self.headroom
    }

    /// Half of the headroom is for what deletes; recording goes on at three quarters.
    fn is_held(&self, was_held: bool) -> bool {
        let line = if was_held { self.headroom - self.headroom / 4 } else { self.headroom / 2 };
        self.size > 0 && self.free < line
    }
}

/// One round of decisions.
#[derive(Clone, Debug)]
pub struct Planner<'a> {
    policy: &'a Policy,
    facts: Facts,
}

impl<'a> Planner<'a> {
    pub fn new(policy: &'a Policy, facts: Facts) -> Self {
        Self { policy, facts }
    }

    /// Which of the streams' oldest recordings goes now, if any; the caller then tells `take`. `dated` are the oldest of
    /// known age.
    pub fn pick(
        &self,
        heads: &BTreeMap<u32, Candidate>,
        dated: &BTreeMap<u32, Candidate>,
    ) -> Option<Candidate> {
        let oldest = |wanted: &dyn Fn(&Candidate) -> bool| {
            let wanted = heads.values().filter(|head| wanted(head));
            wanted.min_by_key(|head| (head.start_ms, head.id)).copied()
        };
        let expired = dated.values().filter(|head| self.is_expired(head));
        if let Some(expired) = expired.min_by_key(|head| (head.start_ms, head.id)) {
            return Some(*expired);
        }
        if !self.policy.auto_delete_oldest {
            return None;
        }
        let is_over = |head: &Candidate| {
            self.stream_space(head.stream_id).is_some_and(|space| space.is_short())
        };
        if let Some(over) = oldest(&is_over) {
            return Some(over);
        }
        let is_over = self.limit_space().is_some_and(|space| space.is_short());
        if is_over { oldest(&|_| true) } else { None }
    }

    /// Whether the disk needs room and recordings may go for that. Which of them are on this disk is the caller's to
    /// know: the oldest of those.
    pub fn is_disk_short(&self) -> bool {
        self.policy.auto_delete_oldest && self.disk_space().is_some_and(|space| space.is_short())
    }

    /// The recording that was picked is as good as gone.
    pub fn take(&mut self, taken: &Candidate) {
        if let Some(stream) = self.facts.streams.get_mut(&taken.stream_id) {
            stream.bytes = stream.bytes.saturating_sub(taken.size);
        }
        if let Some((_, free)) = &mut self.facts.disk {
            *free = free.saturating_add(taken.size);
        }
    }

    /// Why a stream must not write now. `was_held` is the last answer.
    pub fn hold(&self, stream_id: u32, was_held: bool) -> Option<Hold> {
        let spaces = self.spaces();
        let held = spaces.iter().find(|(space, _)| space.is_held(was_held)).map(|(_, hold)| *hold);
        let is_own = || self.stream_space(stream_id).is_some_and(|s| s.is_held(was_held));
        held.or_else(|| is_own().then_some(Hold::StreamLimit))
    }

    fn is_expired(&self, head: &Candidate) -> bool {
        let days = self.retention_days(head.stream_id);
        let oldest_ms = self.facts.now_ms.saturating_sub(i64::from(days) * DAY_MS);
        // What was made before the clock was set is of unknown age: it goes when space is needed.
        let has_age = self.facts.is_clock_trusted && clock_core::is_set(head.end_ms);
        days > 0 && has_age && head.end_ms < oldest_ms
    }

    fn retention_days(&self, stream_id: u32) -> u32 {
        let own = self.policy.overrides.get(&stream_id).and_then(|own| own.retention_days);
        own.unwrap_or(self.policy.retention_days)
    }

    fn bytes_per_s(&self) -> u64 {
        self.facts.streams.values().map(|stream| stream.bytes_per_s).sum()
    }

    fn used(&self) -> u64 {
        self.facts.streams.values().map(|stream| stream.bytes).sum()
    }

    /// What all streams share.
    fn spaces(&self) -> Vec<(Space, Hold)> {
        let disk = self.disk_space().map(|space| (space, Hold::DiskFull));
        let limit = self.limit_space().map(|space| (space, Hold::Limit));
        disk.into_iter().chain(limit).collect()
    }

    fn disk_space(&self) -> Option<Space> {
        let rate = self.bytes_per_s();
        self.facts.disk.map(|(size, free)| Space::new(size, free, rate))
    }

    fn limit_space(&self) -> Option<Space> {
        Space::limit(self.policy.max_storage_size, self.used(), self.bytes_per_s())
    }

    fn stream_space(&self, stream_id: u32) -> Option<Space> {
        let limit = self.policy.overrides.get(&stream_id)?.max_storage_size?;
        let used = self.facts.streams.get(&stream_id).copied().unwrap_or_default();
        Space::limit(limit, used.bytes, used.bytes_per_s)
    }

    /// How long recordings will be kept if all goes on as it does now.
    pub fn forecast(&self) -> Vec<Forecast> {
        let streams = &self.facts.streams;
        let writing: Vec<(u32, Use)> =
            streams.iter().filter(|(_, s)| s.bytes_per_s > 0).map(|(id, s)| (*id, *s)).collect();
        let sizes: BTreeMap<u32, f64> =
            writing.iter().map(|(id, stream)| (*id, self.days_by_size(*id, stream))).collect();
        let caps: BTreeMap<u32, f64> =
            sizes.iter().map(|(id, by_size)| (*id, by_size.min(self.days_by_age(*id)))).collect();
        // All that recordings may take, and what of it is left.
        let room = |(space, _): &(Space, Hold)| space.free.saturating_sub(space.headroom);
        let left = self.spaces().iter().map(room).min();
        let [shared_days, shared_fit] = [&caps, &sizes].map(|caps| {
            left.map_or(f64::INFINITY, |left| {
                let capacity = left.saturating_add(self.used()) as f64;
                shared_days(&writing, caps, capacity)
            })
        });
        let rate: u64 = writing.iter().map(|(_, stream)| stream.bytes_per_s).sum();
        let mut all = Vec::with_capacity(streams.len());
        for (&stream_id, stream) in streams {
            let wished = Some(self.retention_days(stream_id)).filter(|days| *days > 0);
            let mut forecast = Forecast {
                stream_id,
                days_kept: None,
                days_fit: None,
                days_wished: wished,
                short_from_ms: None,
            };
            if let Some(cap) = caps.get(&stream_id) {
                let kept = cap.min(shared_days);
                forecast.days_kept = kept.is_finite().then_some(kept);
                let fit = sizes[&stream_id].min(shared_fit);
                forecast.days_fit = fit.is_finite().then_some(fit);
                if wished.is_some_and(|wished| kept < f64::from(wished)) {
                    let own = self.stream_space(stream_id).filter(|_| *cap <= shared_days);
                    let (left, rate) = match own {
                        Some(own) => (own.free.saturating_sub(own.headroom), stream.bytes_per_s),
                        None => (left.unwrap_or(0), rate),
                    };
                    let in_ms = (left as f64 / rate.max(1) as f64 * 1000.0) as i64;
                    forecast.short_from_ms = Some(self.facts.now_ms.saturating_add(in_ms));
                }
            }
            all.push(forecast);
        }
        all
    }

    /// Days after which a stream's recordings go for their age.
    fn days_by_age(&self, stream_id: u32) -> f64 {
        let days = self.retention_days(stream_id);
        if days > 0 { f64::from(days) } else { f64::INFINITY }
    }

    /// Days that its own limit in bytes has room for.
    fn days_by_size(&self, stream_id: u32, stream: &Use) -> f64 {
        self.stream_space(stream_id).map_or(f64::INFINITY, |space| {
            (space.size - space.headroom) as f64 / stream.bytes_per_s as f64 / DAY_S
        })
    }
}

/// How many days fit into `capacity` when the oldest go first and each stream keeps its own cap: what the small
/// ones leave is for the others.
fn shared_days(writing: &[(u32, Use)], caps: &BTreeMap<u32, f64>, capacity: f64) -> f64 {
    let per_day = |stream: &Use| stream.bytes_per_s as f64 * DAY_S;
    let mut open: Vec<&(u32, Use)> = writing.iter().collect();
    open.sort_by(|a, b| caps[&a.0].total_cmp(&caps[&b.0]));
    let mut capacity = capacity;
    while let Some((id, stream)) = open.first() {
        let rate: f64 = open.iter().map(|(_, stream)| per_day(stream)).sum();
        let days = capacity / rate;
        if days < caps[id] {
            return days;
        }
        capacity -= caps[id] * per_day(stream);
        open.remove(0);
    }
    f64::INFINITY
}

#[cfg(test)]
mod tests;
