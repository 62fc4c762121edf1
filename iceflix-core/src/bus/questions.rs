//! Questions to many, and their answers.

use super::{
    Bus, BusError, MAX_MESSAGE, Message, Size,
    declared::{Declared, What},
    operation,
};
use futures::future::BoxFuture;
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::mpsc;
use zenoh::{
    Wait,
    query::{ConsolidationMode, Query, QueryTarget},
};

/// What somebody answered, and when that came.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What was said, on which key.
    pub message: Message,
    /// When it came, by this machine's clock.
    pub came: SystemTime,
    /// How long after it was asked for.
    pub after: Duration,
}

/// Answers questions, until it is dropped.
pub struct Answering {
    _declared: Arc<Declared>,
}

impl Bus {
    /// Answers questions on `key` with the pieces that `answer` makes of a question's payload.
    /// Questions are answered side by side, never on zenoh's own threads.
    ///
    /// # Errors
    /// When the session is closed or the key is not one.
    pub async fn answer<F>(&self, key: &str, answer: F) -> Result<Answering, BusError>
    where
        F: Fn(Vec<u8>) -> BoxFuture<'static, Vec<Vec<u8>>> + Send + Sync + 'static,
    {
        let runtime = tokio::runtime::Handle::current();
        let aside = self.inner.aside.clone();
        let answer = Arc::new(answer);
        let own_key = key.to_owned();
        let asked = move |query: Query| {
            let question = query
                .payload()
                .map(|bytes| bytes.to_bytes().into_owned())
                .unwrap_or_default();
            if question.len() > MAX_MESSAGE {
                return;
            }
            let answer = Arc::clone(&answer);
            let key = own_key.clone();
            let aside = aside.clone();
            runtime.spawn(async move {
                let pieces = answer(question).await;
                let size = Size::of_question(&query);
                let query = Arc::new(query);
                for piece in pieces {
                    let (query, key) = (Arc::clone(&query), key.clone());
                    let reply = move || query.reply(key, piece).wait();
                    if let Err(error) = aside.send(size, reply).await {
                        tracing::debug!(%error, "an answer could not be sent");
                        break;
                    }
                }
                // Its end is said when it is dropped, which is sending, too.
                let end = move || {
                    drop(query);
                    Ok(())
                };
                if let Err(error) = aside.send(size, end).await {
                    tracing::debug!(%error, "the end of an answer could not be sent");
                }
            });
        };
        let what = What::Queryable(key.to_owned(), Arc::new(asked));
        Ok(Answering {
            _declared: self.declare(what).await?,
        })
    }

    /// Asks everyone who answers on a key matching `key`, and collects what they say, until all
    /// have answered or `timeout` is over. Pieces of one answer keep their order.
    ///
    /// # Errors
    /// When the session is closed or the key is not one. Nobody answering is an empty list.
    pub async fn ask(
        &self,
        key: &str,
        question: Vec<u8>,
        size: Size,
        timeout: Duration,
    ) -> Result<Vec<Message>, BusError> {
        let mut answers = self.ask_each(key, question, size, timeout).await?;
        let mut all = Vec::new();
        while let Some(answer) = answers.recv().await {
            all.push(answer.message);
        }
        Ok(all)
    }

    /// The same, each answer as it comes and when it came. There are no more when all have
    /// answered or `timeout` is over.
    ///
    /// # Errors
    /// When the session is closed or the key is not one.
    pub async fn ask_each(
        &self,
        key: &str,
        question: Vec<u8>,
        size: Size,
        timeout: Duration,
    ) -> Result<mpsc::UnboundedReceiver<Answer>, BusError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let session = self.session();
        let selector = size.asks(key);
        let ask = move || {
            let asked = Instant::now();
            session
                .get(selector)
                .payload(question)
                .target(QueryTarget::All)
                .consolidation(ConsolidationMode::None)
                .timeout(timeout)
                // Answers travel with the question's own settings.
                .congestion_control(size.congestion_control())
                .priority(size.priority())
                // zenoh drops the callback, and with it the sender, when all have answered or time
                // is up.
                .callback(move |reply| {
                    if let Ok(sample) = reply.result() {
                        // The receiver is gone only when the asker gave up.
                        let _ = sender.send(Answer {
                            message: Message {
                                key: sample.key_expr().to_string(),
                                payload: sample.payload().to_bytes().into_owned(),
                            },
                            came: SystemTime::now(),
                            after: asked.elapsed(),
                        });
                    }
                })
                .wait()
        };
        let sent = self.inner.aside.send(size, ask);
        sent.await.map_err(operation("ask on", key))?;
        Ok(receiver)
    }
}
