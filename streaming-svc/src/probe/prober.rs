//! The node's side: keeps a worker, asks it, and replaces it when it crashes or hangs.

use super::{Answer, ProbeCommand, Request};
use crate::facts::Facts;
use nix::sys::signal::Signal;
use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    thread,
    time::{Duration, Instant},
};
use tracing::{debug, warn};

/// The longest answer that is read, in bytes. Usual are hundreds.
const LONGEST: u64 = 1 << 20;

/// After so many files the worker is replaced, whatever it may have leaked.
const FILES: u32 = 1000;

/// How often it is asked whether to go on while waiting.
const PATIENCE: Duration = Duration::from_millis(100);

/// What is known of a file after the worker was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What was found, or why nothing was.
    pub facts: Facts,
    /// The facts follow from the file's content. Otherwise (a crash, a missing plugin) another
    /// look later may find more.
    pub lasting: bool,
}

impl Verdict {
    fn none(reason: &str) -> Self {
        Self {
            facts: Facts {
                container: None,
                duration_ns: None,
                tracks: Vec::new(),
                format: "unknown".to_owned(),
                unplayable: Some(reason.to_owned()),
            },
            lasting: false,
        }
    }
}

/// Looks into files by asking a worker process, which is started when it is needed, replaced when
/// it crashes or hangs, and killed when this is dropped. Blocks: use it on a thread of its own,
/// which must live as long (the system kills the worker when the thread that started it ends).
pub struct Prober {
    command: ProbeCommand,
    worker: Option<Worker>,
}

/// Why there is no answer.
enum NoAnswer {
    /// The worker ended, by itself or by the signal.
    Crashed(Option<i32>),
    Hung,
    Cancelled,
}

impl Prober {
    /// Starts nothing yet.
    pub fn new(command: ProbeCommand) -> Self {
        Self {
            command,
            worker: None,
        }
    }

    /// Ends the worker until the next file comes.
    pub fn rest(&mut self) {
        self.worker = None;
    }

    /// Looks into a file. `None` when `goes_on` said no meanwhile.
    pub fn examine(&mut self, path: &Path, goes_on: &dyn Fn() -> bool) -> Option<Verdict> {
        let usual = self.command.limit;
        let mut tried_again = false;
        loop {
            let worker = match self.ready() {
                Ok(worker) => worker,
                Err(e) => {
                    warn!(program = %self.command.program.display(), "films cannot be examined: {e}");
                    return Some(Verdict::none(
                        "it could not be examined: the examining process does not start",
                    ));
                }
            };
            let limit = if worker.files == 0 { usual * 4 } else { usual };
            match worker.ask(path, limit, goes_on) {
                Ok(Answer::Facts(facts)) => {
                    return Some(Verdict {
                        facts,
                        lasting: true,
                    });
                }
                Ok(Answer::Failed(reason)) => return Some(Verdict::none(&reason)),
                Err(NoAnswer::Cancelled) => {
                    self.worker = None;
                    return None;
                }
                Err(NoAnswer::Hung) => {
                    self.worker = None;
                    warn!(path = %path.display(), "reading the file did not end");
                    return Some(Verdict::none(
                        "its file made the reader hang; it may be damaged",
                    ));
                }
                Err(NoAnswer::Crashed(signal)) => {
                    self.worker = None;
                    if !goes_on() {
                        return None;
                    }
                    // Once may have been somebody else's doing.
                    if !tried_again {
                        tried_again = true;
                        continue;
                    }
                    let signal = signal.and_then(|n| Signal::try_from(n).ok());
                    warn!(path = %path.display(), ?signal, "reading the file crashed the reader");
                    return Some(Verdict::none(
                        "its file made the reader crash; it may be damaged",
                    ));
                }
            }
        }
    }

    fn ready(&mut self) -> io::Result<&mut Worker> {
        let kept = self.worker.take().filter(|worker| worker.files < FILES);
        let worker = match kept {
            Some(worker) => worker,
            None => Worker::start(&self.command)?,
        };
        Ok(self.worker.insert(worker))
    }
}

struct Worker {
    child: Child,
    input: ChildStdin,
    answers: Receiver<Answer>,
    files: u32,
}

impl Worker {
    fn start(command: &ProbeCommand) -> io::Result<Self> {
        let mut starting = Command::new(&command.program);
        starting
            .args(&command.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // GStreamer's complaints about a file are not the node's.
            .stderr(Stdio::null())
            // A Ctrl-C is for the node, which ends its worker.
            .process_group(0);
        if let Some(name) = &command.arg0 {
            starting.arg0(name);
        }
        let mut child = starting.spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            // Both were asked for above.
            return Err(io::Error::other("the worker has no pipes"));
        };
        let (sender, answers) = mpsc::sync_channel(1);
        // Made before the thread, so that the child is not left alone when there is none.
        let worker = Self {
            child,
            input,
            answers,
            files: 0,
        };
        thread::Builder::new()
            .name("probe-answers".to_owned())
            .spawn(move || read_answers(output, &sender))?;
        Ok(worker)
    }

    fn ask(
        &mut self,
        path: &Path,
        limit: Duration,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Answer, NoAnswer> {
        let path = hex::encode(path.as_os_str().as_bytes());
        let mut line = serde_json::json!(Request { path }).to_string();
        line.push('\n');
        if self.input.write_all(line.as_bytes()).is_err() {
            return Err(NoAnswer::Crashed(self.ended()));
        }
        let until = Instant::now() + limit;
        loop {
            if !goes_on() {
                return Err(NoAnswer::Cancelled);
            }
            match self.answers.recv_timeout(PATIENCE) {
                Ok(answer) => {
                    self.files += 1;
                    return Ok(answer);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(NoAnswer::Crashed(self.ended()));
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until => {
                    return Err(NoAnswer::Hung);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Ends the worker, and tells the signal that had ended it before, if one had.
    fn ended(&mut self) -> Option<i32> {
        // It closed its pipe, so it is ending; but it may also only have closed it.
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.signal();
            }
            thread::sleep(Duration::from_millis(1));
        }
        None
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Fails when it has ended already.
        let _ = self.child.kill();
        if let Err(e) = self.child.wait() {
            debug!("waiting for the probe worker failed: {e}");
        }
    }
}

/// Hands on each answer until the worker ends. Lines that are none (a library printed something)
/// are left out.
fn read_answers(output: ChildStdout, answers: &SyncSender<Answer>) {
    let mut output = BufReader::new(output);
    loop {
        let mut line = Vec::new();
        match (&mut output).take(LONGEST).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if let Ok(answer) = serde_json::from_slice(&line)
            && answers.send(answer).is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker in shell: crashes for `crash`, hangs for `hang`, and knows everything else.
    fn double() -> Prober {
        let script = r#"while read -r line; do case "$line" in
            *6372617368*) kill -9 $$;;
            *68616e67*) exec sleep 60;;
            *) echo "not an answer"
               echo '{"facts":{"container":null,"duration_ns":null,"tracks":[],"format":"X","unplayable":null}}';;
            esac; done"#;
        Prober::new(ProbeCommand {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            arg0: Some("iceflix-probe".to_owned()),
            limit: Duration::from_millis(500),
        })
    }

    #[test]
    fn a_crash_or_a_hang_costs_one_file() {
        let mut prober = double();
        let mut ask = |path: &str| prober.examine(Path::new(path), &|| true).unwrap();
        assert_eq!(ask("/good").facts.format, "X");
        let crashed = ask("/crash");
        assert!(crashed.facts.unplayable.unwrap().contains("crash"));
        assert!(!crashed.lasting);
        assert!(ask("/good").lasting);
        let hung = ask("/hang");
        assert!(hung.facts.unplayable.unwrap().contains("hang"));
        assert!(ask("/good").lasting);
    }

    #[test]
    fn a_worker_that_does_not_start_says_so() {
        let mut prober = Prober::new(ProbeCommand {
            program: "/nonexistent/program".into(),
            ..ProbeCommand::default()
        });
        let verdict = prober.examine(Path::new("/a"), &|| true).unwrap();
        assert!(verdict.facts.unplayable.unwrap().contains("not start"));
        assert!(!verdict.lasting);
    }

    #[test]
    fn stopping_does_not_wait_and_leaves_no_process() {
        let mut prober = double();
        assert!(prober.examine(Path::new("/good"), &|| true).is_some());
        let pid = prober.worker.as_ref().unwrap().child.id();
        assert!(prober.examine(Path::new("/hang"), &|| false).is_none());
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
