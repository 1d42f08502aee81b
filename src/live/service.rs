//! The live service: takes the orders that the REST layer gives, each on its connection's task.

use crate::api::wire::LiveOrder;
use crate::http::viewer::{LiveService, Serving, Viewer};

/// Everything that can be watched. Lives on the executor.
#[derive(Default)]
pub struct Live {}

impl Live {
    pub fn new() -> Self {
        Self::default()
    }
}

impl LiveService for Live {
    fn serve<'a>(&'a self, _order: &'a LiveOrder, viewer: Viewer<'a>) -> Serving<'a> {
        Box::pin(async move { viewer.refuse_for("there is no picture yet", 2).await })
    }
}
