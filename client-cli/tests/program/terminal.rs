//! The prompt as a person at a terminal meets it; `script` (util-linux) lends the terminal.

use crate::fake::PASSWORD;
use crate::fake::home::{DEADLINE, Home};
use iceflix_core::api::streaming::{EndReason, StreamEvent};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

const CTRL_C: &str = "\u{3}";
const CTRL_D: &str = "\u{4}";

struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn open(home: &Home) -> Self {
        Self::open_after(home, "true")
    }

    /// Opens one on which a shell has prepared something.
    fn open_after(home: &Home, prepare: &str) -> Self {
        let bin = home.dir.path().join("bin");
        let command = format!(
            "{prepare} && PATH='{}' exec {}",
            bin.display(),
            iceflix(home)
        );
        Self::run(home, &command)
    }

    /// Opens one in which a shell runs this.
    fn run(home: &Home, command: &str) -> Self {
        // Whoever runs this in the background may have taken Ctrl-C from all that it starts.
        let mut child = Command::new("env")
            .args(["--default-signal=INT", "script", "--quiet"])
            .args(["--return", "--command", command, "/dev/null"])
            .env("HOME", home.dir.path())
            .env_remove("XDG_STATE_HOME")
            .env("TERM", "xterm")
            .env("LC_ALL", "C.UTF-8")
            .env("NO_COLOR", "1")
            .env("SHELL", "/bin/sh")
            .current_dir(home.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (send, screen) = channel();
        let mut out = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = out.read(&mut buffer) {
                if send.send(buffer[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            keys: child.stdin.take().unwrap(),
            child,
            screen,
            seen: String::new(),
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits until this is on the screen, after what was waited for before.
    fn sees(&mut self, text: &str) {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("no {text:?} ({error}) in {:?}", self.seen),
            }
        }
    }

    fn ends(mut self) -> i32 {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap();
            }
            while let Ok(bytes) = self.screen.try_recv() {
                self.seen.push_str(&String::from_utf8_lossy(&bytes));
            }
            assert!(Instant::now() < end, "does not end: {:?}", self.seen);
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// The client, as a shell is told to start it.
fn iceflix(home: &Home) -> String {
    let program = env!("CARGO_BIN_EXE_iceflix");
    format!(
        "'{program}' --main {} --ca {}",
        home.cluster.main,
        home.cluster.ca()
    )
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

#[test]
fn a_person_logs_in_finds_and_watches_a_film() {
    let home = Home::new();
    home.cluster.film([0xab; 32], "Alpha Centauri");
    home.program("mpv", "exec /bin/sleep 600");
    let mut terminal = Terminal::open(&home);
    terminal.sees("iceflix ●> ");
    terminal.press("login\r");
    terminal.sees("User [admin]: ");
    terminal.press("\r");
    terminal.sees("Password of admin: ");
    // Ctrl-C ends the command, not the prompt.
    terminal.press(CTRL_C);
    terminal.sees("iceflix ●> ");
    terminal.press("login admin\r");
    terminal.sees("Password of admin: ");
    terminal.press(CTRL_D);
    terminal.sees("interrupted");
    terminal.sees("iceflix ●> ");
    terminal.press("login admin\r");
    terminal.sees("Password of admin: ");
    terminal.press(&format!("{PASSWORD}\r"));
    terminal.sees("logged in as admin");
    terminal.sees("iceflix admin ●> ");
    terminal.press(CTRL_C);
    terminal.sees("iceflix admin ●> ");
    terminal.press("sear\talpha\r");
    terminal.sees("no film matches");
    terminal.press("search Al\t\r");
    terminal.sees("abababab");
    terminal.sees("Alpha Centauri");
    terminal.press("select 1\r");
    terminal.sees("iceflix admin [Alpha Centauri] ●> ");
    terminal.press("play\r");
    terminal.sees("playing Alpha Centauri in mpv");
    terminal.sees("●> ");
    terminal.press("stop\r");
    terminal.sees("stopped Alpha Centauri");
    terminal.press("url\r");
    terminal.sees("rtsp://127.0.0.1:1/");
    terminal.sees("●> ");
    terminal.press(CTRL_D);
    assert_eq!(terminal.ends(), 0);
    assert!(home.cluster.state(|state| state.streams.is_empty()));

    let history = home.dir.path().join(".local/state/iceflix/history");
    assert_eq!(
        history.metadata().unwrap().permissions().mode() & 0o777,
        0o600
    );
    let text = std::fs::read_to_string(&history).unwrap();
    assert!(
        text.contains("select 1") && !text.contains(PASSWORD),
        "{text}"
    );

    // The next prompt knows the session and the history.
    let mut terminal = Terminal::open(&home);
    terminal.sees("iceflix admin ●> ");
    terminal.press("\u{1b}[A");
    terminal.sees("url");
    terminal.press(CTRL_C);
    terminal.sees("●> ");
    terminal.press("exit\r");
    assert_eq!(terminal.ends(), 0);
}

#[test]
fn news_come_above_the_line_that_is_being_typed() {
    let home = Home::logged_in();
    home.cluster.film([0xab; 32], "Alpha");
    let mut terminal = Terminal::open(&home);
    terminal.sees("iceflix admin ●> ");
    terminal.press("url ab\r");
    terminal.sees("rtsp://");
    terminal.sees("●> ");
    terminal.press("half a li");
    terminal.sees("half a li");
    let ends = |reason| {
        let news = StreamEvent::Ended(reason);
        home.cluster.state(|state| state.news.push(news));
    };
    ends(EndReason::Shutdown);
    terminal.sees("its node is shutting down; it goes on at streaming-1: rtsp://");
    terminal.sees("half a li");
    ends(EndReason::Stopped);
    terminal.sees("Alpha has ended");
    terminal.sees("half a li");
    home.cluster.shut_down();
    terminal.sees("the cluster does not answer");
    terminal.sees("iceflix admin ○> half a li");
    terminal.press(CTRL_C);
    terminal.sees("○> ");
    terminal.press("exit\r");
    assert_eq!(terminal.ends(), 0);
}

#[test]
fn a_narrow_terminal_shows_what_matters() {
    let home = Home::logged_in();
    home.cluster
        .film([0xab; 32], &"A very long name ".repeat(8));
    let mut terminal = Terminal::open_after(&home, "stty cols 40 rows 24");
    terminal.sees("iceflix admin ●> ");
    terminal.press("search\r");
    terminal.sees("LENGTH");
    terminal.sees("1  ababababab  A very long…  0:01:00  ");
    terminal.sees("●> ");
    terminal.press("select 1\r");
    terminal.sees("iceflix admin [A very lo…] ●> ");
    terminal.press("exit\r");
    assert_eq!(terminal.ends(), 0);
}

#[test]
fn a_terminal_without_keys_gets_lines_and_a_new_prompt_after_ctrl_c() {
    let home = Home::logged_in();
    home.cluster.film([0xab; 32], "Alpha");
    let mut terminal = Terminal::open_after(&home, "export TERM=dumb");
    terminal.sees("iceflix admin ●> ");
    terminal.press("half a line");
    terminal.sees("half a line");
    terminal.press(CTRL_C);
    terminal.sees("\niceflix admin ●> ");
    terminal.press("search\n");
    terminal.sees("1  ababababab  Alpha");
    terminal.sees("●> ");
    assert!(!terminal.seen.contains('\u{1b}'), "{:?}", terminal.seen);
    terminal.press(CTRL_D);
    assert_eq!(terminal.ends(), 0);
}

#[test]
fn two_prompts_share_one_session() {
    let home = Home::logged_in();
    home.cluster.film([0xab; 32], "Alpha");
    let (mut one, mut two) = (Terminal::open(&home), Terminal::open(&home));
    one.sees("iceflix admin ●> ");
    two.sees("iceflix admin ●> ");
    one.press("logout\r");
    one.sees("admin logged out");
    one.sees("iceflix ●> ");
    two.press("show ab\r");
    two.sees("not logged in; log in: `login`");
    two.sees("iceflix ●> ");
    two.press("login admin\r");
    two.sees("Password of admin: ");
    two.press(&format!("{PASSWORD}\r"));
    two.sees("iceflix admin ●> ");
    one.press("show ab\r");
    one.sees("Alpha");
    one.sees("iceflix admin ●> ");
    one.press(CTRL_D);
    two.press(CTRL_D);
    assert_eq!((one.ends(), two.ends()), (0, 0));
}

/// A shell need not put the terminal right after a program that was interrupted, and many do not.
#[test]
fn a_login_that_is_interrupted_leaves_the_terminal_as_it_was() {
    let home = Home::new();
    let command = format!(
        "stty -a >before; trap : INT; {} login admin; echo ended with $?; \
         stty -a >after; diff before after && echo as it was",
        iceflix(&home)
    );
    let mut terminal = Terminal::run(&home, &command);
    terminal.sees("Password of admin: ");
    terminal.press("half a pass");
    terminal.press(CTRL_C);
    // By the signal (2), as a shell tells it.
    terminal.sees("ended with 130");
    terminal.sees("as it was");
    assert_eq!(terminal.ends(), 0);
}
