//! The gate: everything that touches the LAN's HTTP, in front of the REST layer.
//!
//! In here: listener, connections, framing, limits, authentication, files, and the pooled connections
//! to the REST layer. Not in here: routes and resources (`api/`), which never see a socket.

pub mod access_core;
pub mod auth;
pub mod chunked_core;
mod conn;
pub mod conn_table;
pub mod counters;
mod file;
pub mod gate;
pub mod head_core;
pub mod listener;
mod login;
mod password;
mod quota;
pub mod range_core;
pub mod rate_core;
pub mod reply_core;
mod respond;
pub mod session_core;
mod upstream;
pub mod viewer;
mod wire;
