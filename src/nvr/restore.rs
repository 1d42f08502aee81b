//! Puts a backup into force: everything is checked before anything is changed, and one commit makes it durable.
//!
//! A stream of a name that is there becomes as the backup says, others are added, and no stream goes: what
//! an owner has beside the backup stays. Not in here: reading the document (`api/backup.rs`).

use std::collections::BTreeSet;

use super::apply::Applier;
use super::command::{Backup, CommandError};
use crate::config::FieldError;
use crate::config::stream::{StreamConfig, StreamPatch};
use crate::config::url::has_masked_password;
use crate::http::listener::Listener;
use crate::store::Change;
use crate::store::spans::Life;
use crate::system::clock;

const HIDDEN: &str = "the password is hidden in this backup: write it in place of ***, or make the backup \
                      with ?passwords=true";

/// A stream of the backup as it will be.
struct Planned {
    config: StreamConfig,
    /// As it is now, if there is one of its name.
    was: Option<StreamConfig>,
}

impl Applier {
    /// Carries out `Restore`; gives the listener of a changed `web_port`.
    pub(super) async fn restore(&self, backup: &Backup) -> Result<Option<Listener>, CommandError> {
        let was = self.nvr.settings();
        let settings = was.patched(&backup.settings);
        let max = usize::from(settings.max_streams);
        let planned = self.plan_streams(&backup.streams, max).await?;
        let prepared = self.prepare_settings(&was, settings).await;
        let prepared = prepared.map_err(|error| within("settings", error))?;
        let created_ms = clock::wall_ms();
        let mut changes = prepared.change(&was);
        for Planned { config, was } in &planned {
            if was.as_ref() != Some(config) {
                changes.push(Change::PutStream(config.clone()));
            }
            if was.is_none() {
                let life = Life { stream_id: config.id, created_ms, removed_ms: None };
                changes.push(Change::PutLife(life));
            }
        }
        self.commit_all(changes).await?;
        let listener = self.enforce_settings(&was, prepared).await;
        for Planned { config, was } in planned {
            match was {
                None => self.nvr.add_stream(config),
                Some(was) if was != config => self.nvr.change_stream(config).await,
                Some(_) => {}
            }
        }
        self.nvr.wake_retention();
        self.nvr.publish();
        Ok(listener)
    }

    async fn plan_streams(
        &self,
        patches: &[StreamPatch],
        max: usize,
    ) -> Result<Vec<Planned>, CommandError> {
        let mut next_id = self.free_stream_id().await?;
        let mut names = BTreeSet::new();
        let mut planned = Vec::with_capacity(patches.len());
        for (n, patch) in patches.iter().enumerate() {
            let bad = |error| within(&format!("streams[{n}]"), CommandError::BadField(error));
            let name = patch.name.as_deref().unwrap_or_default();
            if !names.insert(name) {
                let what = "another stream of this backup has this name; names are unique";
                return Err(bad(FieldError::new("name", what)));
            }
            let was = self.nvr.stream_named(name).and_then(|id| self.nvr.stream_config(id));
            let is_hidden = |url: &str| was.is_none() && has_masked_password(url);
            let sub_url = patch.sub_url.as_ref().and_then(Option::as_deref);
            for (field, url) in [("url", patch.url.as_deref()), ("sub_url", sub_url)] {
                if url.is_some_and(is_hidden) {
                    return Err(bad(FieldError::new(field, HIDDEN)));
                }
            }
            let config = match &was {
                Some(was) => was.patched(patch),
                None => StreamConfig::from_patch(next_id, patch),
            };
            let config = config.map_err(bad)?;
            next_id += u32::from(was.is_none());
            planned.push(Planned { config, was });
        }
        let added = planned.iter().filter(|planned| planned.was.is_none()).count();
        let count = self.nvr.stream_count() + added;
        if count > max {
            let what = format!("there would be {count} streams; it must be {count} to 512");
            let error = CommandError::BadField(FieldError::new("max_streams", what));
            return Err(within("settings", error));
        }
        Ok(planned)
    }
}

/// The error with the place of its field in the document.
fn within(place: &str, error: CommandError) -> CommandError {
    match error {
        CommandError::BadField(error) => CommandError::BadPlace { place: place.to_owned(), error },
        other => other,
    }
}
