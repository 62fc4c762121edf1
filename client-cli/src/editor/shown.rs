//! What the prompt shows and completes: kept true by the async side, read by the editor's thread.

use super::complete::Known;
use iceflix_core::api::SessionId;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// How the cluster's state looks, as one column so that it can change while a line is typed.
const UP: char = '●';
const DOWN: char = '○';
/// The same where only ASCII is safe.
const UP_ASCII: char = '+';
const DOWN_ASCII: char = '!';

/// What follows the mark.
const END: &str = "> ";

/// State that the prompt shows.
#[derive(Debug)]
pub struct Shown {
    reachable: AtomicBool,
    unicode: bool,
    color: bool,
    known: Mutex<Known>,
    ended: Mutex<Option<SessionId>>,
}

impl Shown {
    /// Nothing is known yet. `unicode`: the terminal shows more than ASCII; `color`: and colours.
    pub fn new(unicode: bool, color: bool) -> Self {
        Self {
            reachable: AtomicBool::new(false),
            unicode,
            color,
            known: Mutex::default(),
            ended: Mutex::default(),
        }
    }

    /// Says whether the cluster answers; returns whether that is news.
    pub fn set_reachable(&self, reachable: bool) -> bool {
        self.reachable.swap(reachable, Ordering::Relaxed) != reachable
    }

    /// Remembers that a session has ended although its file is still there.
    pub fn set_ended(&self, session: Option<SessionId>) {
        *lock(&self.ended) = session;
    }

    /// Whether that session is known to have ended.
    pub fn has_ended(&self, session: SessionId) -> bool {
        *lock(&self.ended) == Some(session)
    }

    /// Looks at, or changes, what can be completed.
    pub fn with_known<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        look(&mut lock(&self.known))
    }

    /// The prompt: who is logged in, whether the cluster answers, which film is selected.
    pub fn prompt(&self, user: Option<&str>, selected: Option<&str>) -> String {
        let user = user.map(|user| format!(" {user}")).unwrap_or_default();
        let selected = selected
            .map(|name| format!(" [{name}]"))
            .unwrap_or_default();
        format!("iceflix{user}{selected} {}{END}", self.mark())
    }

    fn mark(&self) -> char {
        match (self.reachable.load(Ordering::Relaxed), self.unicode) {
            (true, true) => UP,
            (false, true) => DOWN,
            (true, false) => UP_ASCII,
            (false, false) => DOWN_ASCII,
        }
    }

    /// The prompt as it is now, whatever it was when the line was begun.
    pub fn paint(&self, prompt: &str) -> String {
        let mut before = match prompt.strip_suffix(END) {
            Some(before) => before.chars(),
            None => return prompt.to_owned(),
        };
        before.next_back();
        let mark = self.mark();
        let painted = match (self.color, mark) {
            (false, _) => mark.to_string(),
            (true, UP | UP_ASCII) => format!("\x1b[32m{mark}\x1b[0m"),
            (true, _) => format!("\x1b[31m{mark}\x1b[0m"),
        };
        format!("{}{painted}{END}", before.as_str())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Whole values are put in: a panic elsewhere cannot have left half of one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the environment's locale shows more than ASCII.
pub fn is_unicode(env: &crate::config::Environment) -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| env.var(name));
    let locale = locale.map(|locale| locale.to_string_lossy().to_lowercase());
    locale.is_some_and(|locale| locale.contains("utf-8") || locale.contains("utf8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    #[test]
    fn the_prompt_says_who_and_whether() {
        let shown = Shown::new(true, false);
        assert_eq!(shown.prompt(None, None), "iceflix ○> ");
        assert!(shown.set_reachable(true));
        assert!(!shown.set_reachable(true));
        assert_eq!(shown.prompt(Some("ann"), None), "iceflix ann ●> ");
        assert_eq!(
            shown.prompt(Some("ann"), Some("M ○> x")),
            "iceflix ann [M ○> x] ●> "
        );
        assert_eq!(Shown::new(false, false).prompt(None, None), "iceflix !> ");
    }

    #[test]
    fn a_prompt_already_drawn_follows_the_cluster() {
        let shown = Shown::new(true, false);
        let drawn = shown.prompt(Some("○ é"), Some("○> "));
        shown.set_reachable(true);
        assert_eq!(shown.paint(&drawn), "iceflix ○ é [○> ] ●> ");
        let colored = Shown::new(true, true);
        assert_eq!(colored.paint("iceflix ●> "), "iceflix \x1b[31m○\x1b[0m> ");
        assert_eq!(colored.paint("User: "), "User: ");
    }

    #[test]
    fn only_a_utf8_locale_gets_more_than_ascii() {
        let env = |vars: &[(&str, &str)]| Environment {
            vars: vars
                .iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            ..Environment::default()
        };
        assert!(is_unicode(&env(&[("LANG", "en_GB.UTF-8")])));
        assert!(is_unicode(&env(&[("LC_ALL", "C.utf8"), ("LANG", "C")])));
        assert!(!is_unicode(&env(&[
            ("LC_ALL", "C"),
            ("LANG", "en_GB.UTF-8")
        ])));
        assert!(!is_unicode(&env(&[])));
    }
}
