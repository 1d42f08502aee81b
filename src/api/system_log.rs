//! `GET /system/log`: the last lines of the log, as text.

use super::Reply;
use crate::system::log_recent;

/// `GET /system/log`
pub fn get() -> Reply {
    Reply::Text(log_recent::text())
}
