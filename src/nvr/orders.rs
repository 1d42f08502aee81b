//! What the recorder does itself for a client, on the connection's own task: trials of cameras, exports, updates.
//!
//! In here: who is asked. Not in here: the work (`trial.rs`, `export.rs`, `update.rs`).

use std::rc::Rc;

use super::export::{self, Places};
use super::state::Nvr;
use super::trial::{self, Turn};
use super::update::{self, Intake};
use crate::api::wire::Order;
use crate::http::viewer::{OrderService, Serving, Viewer};

/// Serves orders. Lives on the executor.
pub struct Orders {
    pub(super) nvr: Rc<Nvr>,
    pub(super) trial: Turn,
    pub(super) exports: Places,
    pub(super) intake: Intake,
}

impl Orders {
    pub fn new(nvr: Rc<Nvr>, intake: Intake) -> Self {
        Self { nvr, trial: Turn::default(), exports: Places::default(), intake }
    }
}

impl OrderService for Orders {
    fn serve<'a>(&'a self, order: Order, viewer: Viewer<'a>) -> Serving<'a> {
        Box::pin(async move {
            match order {
                Order::Trial(order) => trial::serve(self, order, viewer).await,
                Order::Export(order) => export::serve(self, order, viewer).await,
                Order::Update { length } => update::serve(self, length, viewer).await,
            }
        })
    }
}
