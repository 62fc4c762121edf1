//! Requests that are under way.

use super::{Audit, Event};

type About = Box<dyn FnOnce(Event) -> Event + Send>;

/// A request that is under way. Whoever asked may hang up before its end, and a handler then ends
/// where it is; what it began may have been done all the same. So that is written, too.
pub struct Pending {
    audit: Audit,
    action: &'static str,
    about: Option<About>,
}

impl Audit {
    /// A request begins; `about` will say who asked, and what it is about.
    pub fn begin(
        &self,
        action: &'static str,
        about: impl FnOnce(Event) -> Event + Send + 'static,
    ) -> Pending {
        Pending {
            audit: self.clone(),
            action,
            about: Some(Box::new(about)),
        }
    }
}

impl Pending {
    /// It was done, or refused for a reason.
    pub fn ends(mut self, refused: Option<&'static str>) {
        self.write(match refused {
            None => Event::done(self.action),
            Some(reason) => Event::refused(self.action, reason),
        });
    }

    fn write(&mut self, event: Event) {
        if let Some(about) = self.about.take() {
            self.audit.record(&about(event));
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.write(Event::new(self.action, "abandoned"));
    }
}
