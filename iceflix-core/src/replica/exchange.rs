//! What one instance asks of another: to keep rows, what its rows come to, and those of some buckets.

use super::digest::Digest;
use crate::{
    api::InstanceId,
    bus::{Answering, Bus, BusError},
    feed::{Piece, assemble, decode, split},
    topics::{Entries, FeedTopic},
};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, time::Duration};

/// How long a peer may take to say that it keeps rows, or can. One that is dead is known to be after a
/// second; a caller waits two for a write.
const KEEP: Duration = Duration::from_secs(1);

/// How long a peer may take to say what its rows come to, or a few of them.
const COMPARE: Duration = Duration::from_secs(5);

/// A question.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Take these rows and keep them: they are to be on disk when it is answered.
    Keep(Entries),
    /// Does your disk take writes? It is to be tried.
    Writable,
    /// What do all rows come to?
    Digest,
    /// Which rows are in these buckets?
    Buckets(Vec<u8>),
}

/// An answer to a [`Question`]. Rows come as a snapshot's pieces. Who cannot keep or write says
/// nothing.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// They are on disk.
    Kept,
    /// It does.
    Writable,
    /// All rows come to this.
    Digest(Digest),
}

impl Answer {
    pub(super) fn encode(&self) -> Vec<Vec<u8>> {
        // Texts and numbers: JSON holds them all.
        vec![serde_json::to_vec(self).unwrap_or_default()]
    }
}

/// The rows that were asked for, as they travel.
pub(super) fn pieces(entries: Entries) -> Vec<Vec<u8>> {
    split(0, 0, entries)
}

/// Where questions are asked, and by whom.
#[derive(Clone)]
pub(super) struct Exchange {
    bus: Bus,
    topic: FeedTopic,
    own: InstanceId,
}

impl Exchange {
    pub(super) fn new(bus: &Bus, topic: FeedTopic, own: &InstanceId) -> Self {
        Self {
            bus: bus.clone(),
            topic,
            own: own.clone(),
        }
    }

    /// Answers the others' questions, until what it gives is dropped.
    ///
    /// # Errors
    /// When the bus is closed.
    pub(super) async fn answer<F>(&self, answer: F) -> Result<Answering, BusError>
    where
        F: Fn(Question) -> BoxFuture<'static, Vec<Vec<u8>>> + Send + Sync + 'static,
    {
        let key = self.topic.of(&self.own);
        let answered = move |question: Vec<u8>| match decode(&question) {
            Some(question) => answer(question),
            None => Box::pin(std::future::ready(Vec::new())),
        };
        self.bus.answer(&key, answered).await
    }

    /// Asks all others to keep rows, and returns as soon as one of them does. Whether any did.
    pub(super) async fn keep(&self, rows: Entries) -> bool {
        let question = encode(&Question::Keep(rows));
        let answers = self.bus.ask_each(&self.topic.all(), question, KEEP).await;
        let Ok(mut answers) = answers else {
            return false;
        };
        while let Some(answer) = answers.recv().await {
            let speaker = self.topic.parse(&answer.message.key);
            if speaker.is_some_and(|speaker| speaker != self.own)
                && matches!(decode(&answer.message.payload), Some(Answer::Kept))
            {
                return true;
            }
        }
        false
    }

    /// Asks all others whether their disks take writes; the first of these that says so.
    pub(super) async fn who_can_write(&self, of: &BTreeSet<InstanceId>) -> Option<InstanceId> {
        let question = encode(&Question::Writable);
        let answers = self.bus.ask_each(&self.topic.all(), question, KEEP).await;
        let mut answers = answers.ok()?;
        while let Some(answer) = answers.recv().await {
            let speaker = self.topic.parse(&answer.message.key);
            let speaker = speaker.filter(|speaker| of.contains(speaker));
            if speaker.is_some()
                && matches!(decode(&answer.message.payload), Some(Answer::Writable))
            {
                return speaker;
            }
        }
        None
    }

    /// Asks a peer what its rows come to.
    pub(super) async fn digest(&self, of: &InstanceId) -> Option<Digest> {
        let question = encode(&Question::Digest);
        let answers = self.bus.ask(&self.topic.of(of), question, COMPARE).await;
        answers
            .ok()?
            .iter()
            .find_map(|answer| match decode(&answer.payload) {
                Some(Answer::Digest(digest)) => Some(digest),
                _ => None,
            })
    }

    /// Asks a peer for its rows of these buckets.
    pub(super) async fn buckets(&self, of: &InstanceId, buckets: Vec<u8>) -> Option<Entries> {
        let question = encode(&Question::Buckets(buckets));
        let answers = self.bus.ask(&self.topic.of(of), question, COMPARE).await;
        let pieces = answers.ok()?;
        let pieces: Vec<Piece> = pieces.iter().filter_map(|it| decode(&it.payload)).collect();
        assemble(pieces).map(|snapshot| snapshot.entries)
    }
}

fn encode(question: &Question) -> Vec<u8> {
    serde_json::to_vec(question).unwrap_or_default()
}
