//! What the recorder does itself for a client, on the connection's own task: trials of cameras, exports.
//!
//! In here: who is asked. Not in here: the work (`trial.rs`).

use std::rc::Rc;

use super::state::Nvr;
use super::trial::{self, Turn};
use crate::api::wire::Order;
use crate::http::viewer::{OrderService, Serving, Viewer};

/// Serves orders. Lives on the executor.
pub struct Orders {
    pub(super) nvr: Rc<Nvr>,
    pub(super) trial: Turn,
}

impl Orders {
    pub fn new(nvr: Rc<Nvr>) -> Self {
        Self { nvr, trial: Turn::default() }
    }
}

impl OrderService for Orders {
    fn serve<'a>(&'a self, order: Order, viewer: Viewer<'a>) -> Serving<'a> {
        Box::pin(async move {
            match order {
                Order::Trial(order) => trial::serve(self, order, viewer).await,
            }
        })
    }
}
