//! LightNVR: a network video recorder for small boards.
//!
//! The library holds everything; `main.rs` only parses arguments and starts it, so that tests and
//! fuzz targets reach the same code. ARCHITECTURE.md has the map.

pub mod api;
pub mod appliance;
pub mod args;
pub mod buffer;
pub mod config;
pub mod http;
pub mod ingest;
pub mod ledger;
pub mod live;
pub mod media;
pub mod nvr;
pub mod record;
pub mod store;
pub mod stream;
pub mod system;
pub mod update;

/// The program's version, as `GET /api/v1/system` and `--version` show it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
