//! The resource `storage`: where the recordings are.

use super::error::ApiError;
use super::{Ctx, Reply, success};
use crate::nvr::command::Command;

/// `POST /storage/adopt`
pub fn adopt(ctx: &Ctx) -> Result<Reply, ApiError> {
    ctx.commands.ask(|reply| Command::AdoptStorage { reply })?;
    Ok(success())
}
