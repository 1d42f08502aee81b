//! The ledger: every second of a stream is recorded or has a dated reason.
//!
//! `span_core` is the algebra of spans (pure), `journal_core` turns what is seen of streams into spans (pure),
//! `clock_core` finds steps of the wall clock (pure). `nvr/ledger` drives them, `store/spans` keeps them,
//! `api/ledger` answers them.

pub mod clock_core;
pub mod journal_core;
pub mod span_core;
