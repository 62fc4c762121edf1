//! The stream that runs beside the prompt.

use crate::error::Error;
use crate::output::Notifier;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The stream that runs beside the prompt, at most one.
#[derive(Default)]
pub struct Background {
    notifier: Notifier,
    running: Option<Running>,
}

struct Running {
    name: String,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Background {
    /// None yet; its end will be told so.
    pub fn new(notifier: Notifier) -> Self {
        Self {
            notifier,
            running: None,
        }
    }

    /// How things are said while it runs.
    pub(super) fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// Lets a film be watched; the stream before it must have been stopped.
    pub(super) fn start<F, Fut>(&mut self, name: String, cancel: CancellationToken, watching: F)
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let (watching, notifier) = (watching(cancel.clone()), self.notifier.clone());
        let (film, wanted) = (name.clone(), cancel.clone());
        let task = tokio::spawn(async move {
            match watching.await {
                Err(error) => notifier.tell(&format!("{film}: {error}")),
                Ok(()) if !wanted.is_cancelled() => notifier.tell(&format!("{film} has ended")),
                Ok(()) => {}
            }
        });
        self.running = Some(Running { name, cancel, task });
    }

    /// Ends it and waits until that is done. Says what it was, if it was still going on.
    pub async fn stop(&mut self) -> Option<String> {
        let running = self.running.take()?;
        let going = !running.task.is_finished();
        running.cancel.cancel();
        if let Err(error) = running.task.await {
            tracing::warn!(%error, "the stream's task broke");
        }
        going.then_some(running.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[tokio::test]
    async fn one_stream_runs_beside_the_prompt_until_it_is_stopped() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&told);
        let notifier = Notifier::new(move |words| to.lock().unwrap().push(words.to_owned()));
        let mut background = Background::new(notifier);
        assert_eq!(background.stop().await, None);
        let until = async |cancel: CancellationToken| {
            cancel.cancelled().await;
            Ok(())
        };
        background.start("film".into(), CancellationToken::new(), until);
        assert_eq!(background.stop().await.as_deref(), Some("film"));
        assert!(told.lock().unwrap().is_empty(), "no news: it was wanted");
        let fails = async |_| Err(Error::Failed("it broke".into()));
        background.start("film".into(), CancellationToken::new(), fails);
        background.stop().await;
        assert_eq!(*told.lock().unwrap(), ["film: it broke"]);
    }
}
