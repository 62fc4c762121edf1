//! What processes hold, and what they leave behind on disk.

use super::{processes::supervisor, round::Round, world::World};
use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

/// How many files and threads more than before a process may have: those of connections that come
/// and go, and of what a library keeps once it was used.
const FILES: usize = 8;
const THREADS: usize = 4;

/// How long threads and connections may be kept that nobody uses any more.
const KEPT: Duration = Duration::from_secs(30);

/// How long it takes until those are gone that a start needed.
const STARTED: Duration = Duration::from_secs(12);

/// What a process holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    files: usize,
    threads: usize,
    memory_kb: usize,
}

impl Held {
    /// What a process holds now; `None` when it is gone.
    fn by(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Some(Self {
            files: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count(),
            threads: number("Threads:")?,
            memory_kb: number("VmRSS:")?,
        })
    }

    /// The most of each.
    fn or(self, other: Self) -> Self {
        Self {
            files: self.files.max(other.files),
            threads: self.threads.max(other.threads),
            memory_kb: self.memory_kb.max(other.memory_kb),
        }
    }

    /// Whether it is memory that is more than before by what cannot be chance.
    fn has_grown(self, before: Self) -> bool {
        self.memory_kb > before.memory_kb * 3 / 2 + 20_000
    }

    fn leaks(self, before: Self) -> bool {
        self.files > before.files + FILES || self.threads > before.threads + THREADS
    }
}

/// A process at some moment.
pub struct Process {
    /// What people call it.
    pub name: String,
    kind: String,
    pid: u32,
    /// What it holds.
    pub held: Held,
}

/// Every instance and every supervisor at some moment.
pub struct Processes(Vec<Process>);

impl Processes {
    /// As they are now.
    ///
    /// # Errors
    /// When some machine has no supervisor.
    pub fn now(world: &World) -> anyhow::Result<Self> {
        let view = world.admin.directory().borrow().clone();
        let instances = view.instances.iter();
        let instances = instances.map(|it| (it.instance.to_string(), it.kind.to_string(), it.pid));
        let mut all: Vec<_> = instances.collect();
        for machine in world.machines() {
            let name = format!("the supervisor of machine {}", machine.number());
            all.push((name, "supervisor".to_owned(), supervisor(machine)?));
        }
        let process = |(name, kind, pid)| {
            Some(Process {
                held: Held::by(pid)?,
                name,
                kind,
                pid,
            })
        };
        Ok(Self(all.into_iter().filter_map(process).collect()))
    }

    /// Those with more memory than one of their kind had at this other moment, by what cannot be chance,
    /// and what that one held.
    pub fn grown_since<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'a Process, Held)> {
        let all = self.beside(other);
        all.filter(|(now, before)| now.held.has_grown(*before))
    }

    /// Each, and what it may be compared with: itself at this earlier moment when it lived then,
    /// otherwise the most that one of its kind held. Of memory always that: who had nothing to do
    /// yet has little.
    fn beside<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = (&'a Process, Held)> {
        self.0.iter().map(|now| {
            let itself = before.0.iter().find(|it| it.pid == now.pid);
            let of_kind = before.0.iter().filter(|it| it.kind == now.kind);
            let most = of_kind.map(|it| it.held).reduce(Held::or);
            let most = most.unwrap_or_default();
            let held = Held {
                memory_kb: most.memory_kb,
                ..itself.map_or(most, |it| it.held)
            };
            (now, held)
        })
    }
}

/// What there is while nobody does anything.
pub struct Calm {
    processes: Processes,
    files: BTreeMap<String, usize>,
}

impl Calm {
    /// As it is before people come.
    ///
    /// # Errors
    /// When that cannot be told.
    pub async fn before(world: &World) -> anyhow::Result<Self> {
        tokio::time::sleep(STARTED).await;
        Self::now(world)
    }

    fn now(world: &World) -> anyhow::Result<Self> {
        let mut files = BTreeMap::new();
        for machine in world.machines() {
            count(&machine.state(), &machine.number().to_string(), &mut files)?;
        }
        Ok(Self {
            processes: Processes::now(world)?,
            files,
        })
    }

    /// What is more than it was before.
    fn more_than(&self, before: &Self) -> Vec<String> {
        let processes = self.processes.beside(&before.processes);
        let processes = processes
            .filter(|(now, before)| now.held.leaks(*before))
            .map(|(now, before)| format!("{} holds {:?}, before {before:?}", now.name, now.held));
        let files = self.files.iter().filter_map(|(name, now)| {
            let before = before.files.get(name).copied().unwrap_or_default();
            (*now > before).then(|| format!("{now} files called {name}, before {before}"))
        });
        processes.chain(files).collect()
    }
}

/// When people have gone, nothing more may be held, and nothing else be on disk, than before they
/// came.
///
/// # Errors
/// When that cannot be told.
pub async fn nothing_left(round: &mut Round<'_>, before: &Calm) -> anyhow::Result<()> {
    let end = Instant::now() + KEPT;
    loop {
        let more = Calm::now(round.world)?.more_than(before);
        if !more.is_empty() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        }
        for what in more {
            round.fail(what);
        }
        return Ok(());
    }
}

/// Counts what is below a directory, by names without what makes each its own.
fn count(dir: &Path, named: &str, counts: &mut BTreeMap<String, usize>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Of logs there are so many and no more.
        if put_aside(&name) {
            continue;
        }
        let name = format!("{named}/{}", without_numbers(&name));
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => count(&entry.path(), &name, counts)?,
            // It may just have gone.
            _ => *counts.entry(name).or_default() += 1,
        }
    }
    Ok(())
}

/// A log that was long enough.
fn put_aside(name: &str) -> bool {
    let ends = name.rsplit_once('.');
    ends.is_some_and(|(log, number)| {
        let numbered = number.bytes().all(|byte| byte.is_ascii_digit());
        numbered && [".log", ".jsonl"].iter().any(|end| log.ends_with(end))
    })
}

/// A name with each number and each long word of hexadecimal digits replaced by `#`.
fn without_numbers(name: &str) -> String {
    let mut short = String::new();
    let words = name.split_inclusive(|letter: char| !letter.is_ascii_alphanumeric());
    for word in words {
        let digits = word.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
        let hexadecimal = digits.len() >= 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        match hexadecimal {
            true => short.push('#'),
            false => {
                for letter in digits.chars() {
                    match letter {
                        '0'..='9' if short.ends_with('#') => {}
                        '0'..='9' => short.push('#'),
                        _ => short.push(letter),
                    }
                }
            }
        }
        short.push_str(&word[digits.len()..]);
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_without_their_numbers() {
        let names = [
            ("auth.sqlite-wal", "auth.sqlite-wal"),
            ("catalog-12.toml", "catalog-#.toml"),
            (".tmp-0f3a99d1c2.new", ".tmp-#.new"),
            ("x264", "x#"),
        ];
        for (name, short) in names {
            assert_eq!(without_numbers(name), short);
        }
        assert!(put_aside("auth-1.log.1") && put_aside("audit.jsonl.4"));
        assert!(!put_aside("auth-1.log") && !put_aside("film.1"));
    }

    #[test]
    fn what_is_left_behind_is_said() {
        let held = |files| Held {
            files,
            threads: 20,
            memory_kb: 30_000,
        };
        let calm = |pid, files, left: &[(&str, usize)]| Calm {
            processes: Processes(vec![Process {
                name: "one".to_owned(),
                kind: "main".to_owned(),
                pid,
                held: held(files),
            }]),
            files: left
                .iter()
                .map(|(name, n)| ((*name).to_owned(), *n))
                .collect(),
        };
        let before = calm(7, 40, &[("1/a", 1), ("1/b", 2)]);
        assert!(calm(8, 48, &[("1/a", 1)]).more_than(&before).is_empty());
        let more = calm(8, 49, &[("1/a", 2), ("1/c", 1)]).more_than(&before);
        assert_eq!(more.len(), 3, "{more:?}");
    }
}
