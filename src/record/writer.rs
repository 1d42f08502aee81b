//! Writes one stream's recordings: takes packets from its hub at the disk's pace.
//!
//! In here: the loop between hub, cutter and disk, and what happens when the disk refuses: what was written is
//! kept as a recording, the ring goes on holding packets, and writing is tried again from a keyframe on.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use smol::future::FutureExt;

use super::RecordError;
use super::cut_core::{Cut, CutConfig, Cutter, Opening};
use super::open::OpenRecordings;
use crate::buffer::ring::Take;
use crate::stream::hub::Hub;
use crate::system::wait::{self, Stopping};

/// Pause after the disk refused a write.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// How soon a storage that is back is noticed.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Packets taken in a row before other tasks get their turn.
const PACKETS_IN_A_ROW_MAX: usize = 256;

/// A fragment on its way to the disk.
type Appending = Pin<Box<dyn Future<Output = Result<(), RecordError>>>>;

/// The file that is open, if any.
#[derive(Default)]
struct Writing {
    opening: Option<Opening>,
    id: Option<u64>,
    /// The fragment that is on its way to the disk. Nobody is woken when it is there: the next one is a second away,
    /// and waking costs more than the rest of it.
    appending: Option<Appending>,
}

/// Runs until `stop` asks; then what waits is written and the file finished.
pub async fn run(
    hub: Rc<Hub>,
    recordings: Rc<OpenRecordings>,
    config: Rc<RefCell<CutConfig>>,
    stop: Stopping,
) {
    let mut cutter = Cutter::default();
    let mut writing = Writing::default();
    let mut cuts = Vec::new();
    let mut taken_in_a_row = 0;
    loop {
        let packet = hub.take();
        let is_loading = packet == Take::Loading;
        let is_empty = packet == Take::Empty;
        match packet {
            Take::Packet(packet) => cutter.push(packet, &config.borrow(), &mut cuts),
            Take::Empty if hub.is_idle() || stop.is_asked() => {
                cutter.finish(&config.borrow(), &mut cuts);
            }
            Take::Empty | Take::Loading => {}
        }
        match writing.carry_out_all(&mut cuts, &recordings, &config).await {
            Ok(false) => {}
            Ok(true) => {
                hub.set_record_error(None);
                hub.set_record_state(None);
            }
            Err(error) => {
                // A disk that stays broken is told once, not at every try.
                if hub.record_error() != Some(error.for_owner()) {
                    let stream_id = config.borrow().stream_id;
                    log::error!("stream {stream_id}: recording stopped: {error}");
                }
                hub.set_record_error(Some(error.for_owner()));
                hub.set_record_state(Some(error.state()));
                writing.give_up(&recordings).await;
                cutter.abandon();
                wait_for_storage(&hub, &recordings, &stop).await;
            }
        }
        taken_in_a_row += 1;
        if is_loading {
            // Also while stopping: what was kept is written, as far as time allows.
            taken_in_a_row = 0;
            hub.ready().await;
        } else if is_empty {
            if stop.is_asked() {
                return;
            }
            taken_in_a_row = 0;
            hub.ready_at(cutter.quiet_until()).or(stop.asked()).await;
        } else if taken_in_a_row >= PACKETS_IN_A_ROW_MAX {
            taken_in_a_row = 0;
            smol::future::yield_now().await;
        }
    }
}

/// Pauses, and longer while there is nothing to write to: the ring keeps the newest packets meanwhile.
async fn wait_for_storage(hub: &Hub, recordings: &OpenRecordings, stop: &Stopping) {
    wait::pause(RETRY_PAUSE).or(stop.asked()).await;
    while let Some(why) = recordings.storage_fault()
        && !stop.is_asked()
        && !hub.is_idle()
    {
        hub.set_record_error(Some(why));
        hub.set_record_state(recordings.storage_state());
        wait::pause(LOOK_PAUSE).or(stop.asked()).await;
    }
}

impl Writing {
    /// Answers whether something was written; after an error the rest is dropped.
    async fn carry_out_all(
        &mut self,
        cuts: &mut Vec<Cut>,
        recordings: &Rc<OpenRecordings>,
        config: &RefCell<CutConfig>,
    ) -> Result<bool, RecordError> {
        self.look()?;
        let mut is_written = false;
        for cut in cuts.drain(..) {
            is_written |= self.carry_out(cut, recordings, config).await?;
        }
        Ok(is_written)
    }

    async fn carry_out(
        &mut self,
        cut: Cut,
        recordings: &Rc<OpenRecordings>,
        config: &RefCell<CutConfig>,
    ) -> Result<bool, RecordError> {
        match cut {
            Cut::Open(opening) => {
                self.opening = Some(opening);
                return Ok(false);
            }
            Cut::Fragment(fragment) => match (self.opening.take(), self.id) {
                (Some(opening), _) => {
                    let (stream_id, name) = {
                        let config = config.borrow();
                        (config.stream_id, config.stream_name.clone())
                    };
                    self.id = Some(recordings.create(stream_id, &name, opening, fragment).await?);
                }
                (None, Some(id)) => {
                    self.settle().await?;
                    let recordings = Rc::clone(recordings);
                    let appending = async move { recordings.append(id, fragment).await };
                    self.appending = Some(Box::pin(appending));
                    self.look()?;
                }
                (None, None) => {}
            },
            Cut::Finish { patches } => {
                self.settle().await?;
                self.opening = None;
                if let Some(id) = self.id.take() {
                    recordings.finish(id, patches).await?;
                }
            }
        }
        Ok(true)
    }

    /// Waits for the fragment that is on its way.
    async fn settle(&mut self) -> Result<(), RecordError> {
        match self.appending.take() {
            Some(appending) => appending.await,
            None => Ok(()),
        }
    }

    /// The same without waiting, and without being woken.
    fn look(&mut self) -> Result<(), RecordError> {
        let Some(appending) = &mut self.appending else { return Ok(()) };
        match appending.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => Ok(()),
            Poll::Ready(done) => {
                self.appending = None;
                done
            }
        }
    }

    /// Ends the file after an error with what it holds.
    async fn give_up(&mut self, recordings: &OpenRecordings) {
        self.opening = None;
        if let Some(id) = self.id.take()
            && let Err(error) = recordings.finish(id, Vec::new()).await
        {
            log::info!("recording {id} is finished later: {error}");
        }
    }
}
