//! What was heard of a topic, in order, for the one who follows it.

use super::Heard;
use tokio::sync::{
    mpsc::{self, error::TryRecvError},
    oneshot,
};

/// How much is held for a reader that is behind; then the hearer waits for it.
const HELD: usize = 1024;

/// What is on its way to the reader.
#[derive(Debug)]
enum Item {
    Heard(Heard),
    /// Somebody waits until the reader has taken in all before this, to be told so.
    Until(oneshot::Sender<bool>, bool),
}

/// Where the hearer puts what it hears.
#[derive(Clone)]
pub(super) struct Outbox(mpsc::Sender<Item>);

/// What was heard, to be read in order. Whoever asks for the next thing has taken in the one before:
/// those who [asked anew](super::Hearer::refresh) are told by that.
pub struct Inbox(mpsc::Receiver<Item>);

/// An empty one.
pub(super) fn inbox() -> (Outbox, Inbox) {
    let (sender, receiver) = mpsc::channel(HELD);
    (Outbox(sender), Inbox(receiver))
}

impl Outbox {
    /// Hands this on. Nothing happens when there is no reader any more.
    pub async fn tell(&self, heard: Heard) {
        let _ = self.0.send(Item::Heard(heard)).await;
    }

    /// Tells `waiting` this when all was taken in that was handed on before. It learns that the
    /// reader is gone, if that is so.
    pub async fn tell_when_read(&self, waiting: oneshot::Sender<bool>, what: bool) {
        let _ = self.0.send(Item::Until(waiting, what)).await;
    }

    /// Waits until there is no reader any more.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

impl Inbox {
    /// The next thing that was heard; `None` when the hearer has ended. To be asked for when the one
    /// before was taken in. Nothing is lost when this is dropped.
    pub async fn recv(&mut self) -> Option<Heard> {
        loop {
            let item = self.0.recv().await?;
            if let Some(heard) = item.read() {
                return Some(heard);
            }
        }
    }

    /// The same, if it is there already.
    ///
    /// # Errors
    /// When nothing is.
    pub fn try_recv(&mut self) -> Result<Heard, TryRecvError> {
        loop {
            if let Some(heard) = self.0.try_recv()?.read() {
                return Ok(heard);
            }
        }
    }
}

impl Item {
    /// What was heard. Who waits for what came before is told that it was taken in.
    fn read(self) -> Option<Heard> {
        match self {
            Item::Heard(heard) => Some(heard),
            Item::Until(waiting, what) => {
                // It may have given up.
                let _ = waiting.send(what);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn gone(name: &str) -> Heard {
        Heard::Gone(name.parse().unwrap())
    }

    #[tokio::test]
    async fn who_waits_is_told_when_all_before_was_taken_in_and_no_sooner() {
        let (outbox, mut inbox) = inbox();
        let (first, mut first_told) = oneshot::channel();
        let (second, mut second_told) = oneshot::channel();
        outbox.tell(gone("a")).await;
        outbox.tell_when_read(first, true).await;
        outbox.tell(gone("b")).await;
        outbox.tell_when_read(second, false).await;
        assert_eq!(inbox.recv().await, Some(gone("a")));
        assert!(first_told.try_recv().is_err(), "it is being taken in");
        assert_eq!(inbox.try_recv(), Ok(gone("b")));
        assert_eq!(first_told.try_recv(), Ok(true));
        assert!(second_told.try_recv().is_err(), "and so is this");
        assert!(inbox.recv().now_or_never().is_none());
        assert_eq!(second_told.try_recv(), Ok(false));
    }

    #[tokio::test]
    async fn who_waits_learns_that_there_is_no_reader() {
        let (outbox, reader) = inbox();
        let (waits, told) = oneshot::channel();
        outbox.tell(gone("a")).await;
        outbox.tell_when_read(waits, true).await;
        drop(reader);
        assert!(told.await.is_err());
        let (waits, told) = oneshot::channel();
        outbox.tell_when_read(waits, true).await;
        assert!(told.await.is_err());
    }
}
