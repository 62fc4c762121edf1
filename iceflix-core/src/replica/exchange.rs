//! What one instance asks of another: to keep rows, what its rows come to, and those of some buckets.

use super::digest::Digest;
use crate::{
    api::InstanceId,
    bus::{Answering, BATCH, Bus, BusError, Size},
    feed::{Piece, assemble, decode, split},
    topics::{Entries, FeedTopic},
};
use futures::future::{BoxFuture, join_all};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, time::Duration};

/// How long a peer may take to say that it keeps rows, or can. One that is dead is known to be after a
/// second; a caller waits two for a write.
const KEEP: Duration = Duration::from_secs(1);

/// How long a peer may take to say what its rows come to, or a few of them.
const COMPARE: Duration = Duration::from_secs(5);

/// After how long peers are asked once more to keep rows: the first question may not have got through.
/// What a disk in trouble takes is longer (0.7 s in `make faults`), and then it is one write more.
const KEEP_AGAIN: Duration = Duration::from_millis(400);

/// About how many bytes of rows a question has at most, so that no link need take much at once.
const PART: usize = BATCH - (4 << 10);

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

    /// Asks all others to keep rows, and returns as soon as one of them does; of many rows each
    /// part may be kept by another one. Whether all are.
    pub(super) async fn keep(&self, rows: Entries) -> bool {
        let parts = parts(rows);
        // Mostly it is one of a few rows, and who can take them at once is to have them at once.
        let several = parts.len() > 1;
        // All at once: there is one time for all of them.
        let parts = parts.into_iter().map(|part| {
            let question = encode(&Question::Keep(part));
            self.keep_part(question, several)
        });
        join_all(parts).await.into_iter().all(|kept| kept)
    }

    async fn keep_part(&self, question: Vec<u8>, several: bool) -> bool {
        if several || Size::of(question.len()) == Size::Large {
            return self.is_kept(question, Size::Large, KEEP).await;
        }
        let again = async {
            tokio::time::sleep(KEEP_AGAIN).await;
            let left = KEEP - KEEP_AGAIN;
            self.is_kept(question.clone(), Size::Small, left).await
        };
        let first = self.is_kept(question.clone(), Size::Small, KEEP);
        tokio::pin!(first, again);
        tokio::select! {
            // All have answered, or the time is over.
            kept = &mut first => kept,
            kept = &mut again => kept || first.await,
        }
    }

    /// Asks all others to keep rows. Whether one of them says within that time that it does.
    async fn is_kept(&self, question: Vec<u8>, size: Size, within: Duration) -> bool {
        let all = self.topic.all();
        let answers = self.bus.ask_each(&all, question, size, within).await;
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
        let all = self.topic.all();
        let answers = self.bus.ask_each(&all, question, Size::Small, KEEP).await;
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
        let peer = self.topic.of(of);
        let answers = self.bus.ask(&peer, question, Size::Small, COMPARE).await;
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
        let peer = self.topic.of(of);
        let answers = self.bus.ask(&peer, question, Size::Large, COMPARE).await;
        let pieces = answers.ok()?;
        let pieces: Vec<Piece> = pieces.iter().filter_map(|it| decode(&it.payload)).collect();
        assemble(pieces).map(|snapshot| snapshot.entries)
    }
}

/// Rows in parts of at most a batch. A row that is larger is a part of its own.
fn parts(rows: Entries) -> Vec<Entries> {
    let mut parts = vec![Entries::new()];
    let mut size = 0;
    for (key, row) in rows {
        let length = key.len() + row.to_string().len();
        if size > 0 && size + length > PART {
            parts.push(Entries::new());
            size = 0;
        }
        size += length;
        if let Some(last) = parts.last_mut() {
            last.insert(key, row);
        }
    }
    parts
}

fn encode(question: &Question) -> Vec<u8> {
    serde_json::to_vec(question).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn many_rows_are_asked_to_be_kept_a_part_at_a_time() {
        let rows = (0..1000).map(|n| (format!("{n:04}"), json!("x".repeat(8 << 10))));
        let large = ("0500 large".to_owned(), json!("x".repeat(PART * 2)));
        let rows: Entries = rows.chain([large.clone()]).collect();
        let asked = parts(rows.clone());
        let sizes = asked.iter().map(|part| {
            let question = encode(&Question::Keep(part.clone()));
            (part.contains_key(&large.0), part.len(), question.len())
        });
        for (is_large, rows, size) in sizes {
            match is_large {
                true => assert_eq!(rows, 1),
                false => assert!(size <= BATCH, "{size} bytes"),
            }
        }
        // No fewer than it needs, and not each row by itself.
        assert!((180..260).contains(&asked.len()), "{} parts", asked.len());
        assert_eq!(asked.into_iter().flatten().collect::<Entries>(), rows);
        let few = Entries::from([("a".to_owned(), json!(1)), ("b".to_owned(), json!(2))]);
        assert_eq!(parts(few.clone()), [few]);
    }
}
