//! Logging in and out on the web page: what the REST layer orders, done where the sessions are.
//!
//! In here: the answer to `POST` and `DELETE /api/v1/session`. The REST layer has read the body; argon2
//! runs after its thread is free again. Not in here: the table of sessions (`session_core.rs`), and
//! checking passwords (`auth.rs`), whose limit on wrong ones holds here as for Basic.

use std::rc::Rc;

use crate::http::conn::{Conn, Stop};
use crate::http::head_core::{Request, Secret};
use crate::http::reply_core::Frame;
use crate::http::session_core;
use crate::http::upstream::Reply;

impl Conn {
    /// Checks `credentials` (`user:password`), and sends `reply` with a cookie if they are right. A
    /// session that the browser had before, `was`, ends.
    pub(super) async fn log_in(
        &mut self,
        request: &Request,
        frame: &Frame,
        mut reply: Reply,
        credentials: Secret,
        was: Option<u64>,
    ) -> Result<(), Stop> {
        let auth = Rc::clone(&self.gate.config.auth);
        let verdict = auth.verify_credentials(credentials, self.peer).await;
        if let Err(refusal) = self.gate.check_verdict(verdict, request, self.peer) {
            return self.refuse(request, frame, &refusal).await;
        }
        was.into_iter().for_each(|id| auth.end_session(id));
        let (token, has_displaced) = auth.open_session();
        if has_displaced {
            self.gate.count().sessions_displaced.add();
        }
        reply.head.fields.push(("Set-Cookie".to_owned(), session_core::set_cookie(&token)));
        self.send_whole(request, frame, reply).await
    }

    /// Ends the session `id` and sends `reply`, which takes the browser's cookie away.
    pub(super) async fn log_out(
        &mut self,
        request: &Request,
        frame: &Frame,
        mut reply: Reply,
        id: Option<u64>,
    ) -> Result<(), Stop> {
        id.into_iter().for_each(|id| self.gate.config.auth.end_session(id));
        reply.head.fields.push(("Set-Cookie".to_owned(), session_core::clear_cookie()));
        self.send_whole(request, frame, reply).await
    }
}
