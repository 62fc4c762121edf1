//! Which files under the media directories count.
//!
//! Only regular files with a film's extension do. Symbolic links are followed as long as they stay
//! inside their media directory; directories are told apart by device and number, so that a loop
//! ends. Nothing is opened here, so that no FIFO is waited for.

use super::{
    hash::Stamp,
    name::{is_film, is_hidden},
};
use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

/// How deep directories may be nested; file systems do not go much further.
const DEEPEST: usize = 128;

/// What is under the media directories.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// The files that count, by their real path.
    pub files: BTreeMap<PathBuf, Stamp>,
    /// What cannot be used, and why.
    pub problems: BTreeMap<PathBuf, String>,
}

/// Looks through all media directories. `goes_on` is asked for each directory.
pub(super) fn walk(media: &[PathBuf], goes_on: impl Fn() -> bool) -> Walk {
    let mut walk = Walk::default();
    for root in media {
        walk.root(root, &goes_on);
    }
    walk
}

/// A media directory that is there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Root {
    /// Its real path.
    pub path: PathBuf,
    /// Its device and number: one that was removed and made again, or on which a disk was
    /// mounted, is another.
    pub number: (u64, u64),
    /// It may be read, which may come later.
    pub readable: bool,
}

/// The media directories that are there.
pub(super) fn roots(media: &[PathBuf]) -> Vec<Root> {
    let found = media.iter().filter_map(|root| {
        let path = fs::canonicalize(root).ok()?;
        let meta = fs::metadata(&path).ok().filter(fs::Metadata::is_dir)?;
        let number = (meta.dev(), meta.ino());
        let readable = fs::read_dir(&path).is_ok();
        Some(Root {
            path,
            number,
            readable,
        })
    });
    found.collect()
}

impl Walk {
    fn problem(&mut self, path: &Path, reason: impl Into<String>) {
        self.problems.insert(path.to_owned(), reason.into());
    }

    fn root(&mut self, given: &Path, goes_on: &impl Fn() -> bool) {
        let real = match fs::canonicalize(given) {
            Ok(real) => real,
            Err(e) => {
                return self.problem(given, format!("{}; it is looked for again", said(&e)));
            }
        };
        match fs::metadata(&real) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => {
                return self.problem(given, "it is not a directory; give one that holds films");
            }
            Err(e) => return self.problem(given, said(&e)),
        }
        let before = self.files.len();
        self.below(&real, goes_on);
        if self.files.len() == before && !self.problems.contains_key(&real) {
            let known = self.files.keys().any(|path| path.starts_with(&real));
            if !known {
                self.problem(
                    given,
                    "there is no film in it; put some in, they are noticed",
                );
            }
        }
    }

    /// Looks through a directory and all below it, without recursion.
    fn below(&mut self, root: &Path, goes_on: &impl Fn() -> bool) {
        let mut visited = HashSet::new();
        let mut stack = vec![(root.to_owned(), 0)];
        while let Some((dir, depth)) = stack.pop() {
            if !goes_on() {
                return;
            }
            match fs::metadata(&dir) {
                Ok(meta) if !visited.insert((meta.dev(), meta.ino())) => continue,
                Ok(_) => {}
                Err(e) => {
                    self.problem(&dir, said(&e));
                    continue;
                }
            }
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(e) => {
                    self.problem(&dir, said(&e));
                    continue;
                }
            };
            for entry in entries {
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(e) => {
                        self.problem(&dir, said(&e));
                        break;
                    }
                };
                if is_hidden(&entry.file_name()) {
                    continue;
                }
                if let Some(dir) = self.entry(root, entry.path()) {
                    if depth < DEEPEST {
                        stack.push((dir, depth + 1));
                    } else {
                        self.problem(&dir, "directories are nested too deep here");
                    }
                }
            }
        }
    }

    /// Looks at one entry of a directory. Answers the directory to go on with, if it is one.
    fn entry(&mut self, root: &Path, path: PathBuf) -> Option<PathBuf> {
        let film = path.file_name().is_some_and(is_film);
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            // It went away since the directory was read.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => {
                self.problem(&path, said(&e));
                return None;
            }
        };
        let (path, meta) = if meta.is_symlink() {
            let target = fs::canonicalize(&path).and_then(|real| {
                let meta = fs::symlink_metadata(&real)?;
                Ok((real, meta))
            });
            match target {
                Ok((real, _)) if !real.starts_with(root) => {
                    self.problem(
                        &path,
                        "it is a link out of its media directory, which is not followed; \
                         add the directory it leads to instead",
                    );
                    return None;
                }
                Ok(target) => target,
                Err(e) => {
                    self.problem(&path, format!("it is a link that leads nowhere ({e})"));
                    return None;
                }
            }
        } else {
            (path, meta)
        };
        let kind = meta.file_type();
        if kind.is_dir() {
            return Some(path);
        }
        if !film {
            return None;
        }
        let odd = if kind.is_fifo() {
            "it is a FIFO, not a file"
        } else if kind.is_socket() {
            "it is a socket, not a file"
        } else if !kind.is_file() {
            "it is a device, not a file"
        } else if meta.len() == 0 {
            "the file is empty; copy it again"
        } else {
            self.files.insert(path, Stamp::of(&meta));
            return None;
        };
        self.problem(&path, odd);
        None
    }
}

/// What the system said, for people.
pub(super) fn said(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::NotFound => "it does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "it may not be read; change its permissions, or the user this runs as".to_owned()
        }
        io::ErrorKind::NotADirectory => "a part of its path is not a directory".to_owned(),
        _ => format!("it cannot be read: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::{sys::stat::Mode, unistd::mkfifo};
    use std::{
        ffi::OsStr,
        os::unix::{ffi::OsStrExt as _, fs::symlink, net::UnixListener},
    };

    fn looked(media: &[&Path]) -> Walk {
        let media: Vec<_> = media.iter().map(|p| p.to_path_buf()).collect();
        walk(&media, || true)
    }

    fn names(walk: &Walk) -> Vec<&OsStr> {
        walk.files.keys().filter_map(|p| p.file_name()).collect()
    }

    #[test]
    fn films_are_told_by_their_extension() {
        for yes in ["a.mp4", "a.MKV", "a.b.WebM", "a.avi", "a.3gp"] {
            assert!(is_film(yes.as_ref()), "{yes}");
        }
        for no in [
            ".a.mp4",
            "a.mp4.part",
            "a.crdownload",
            "mp4",
            "a.txt",
            "",
            ".mp4",
        ] {
            assert!(!is_film(no.as_ref()), "{no}");
        }
        assert!(is_film(OsStr::from_bytes(b"caf\xe9.mp4")));
    }

    #[test]
    fn only_regular_films_count() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("deep/.hidden")).unwrap();
        fs::write(at("deep/a.mp4"), "a").unwrap();
        fs::write(at("deep/.hidden/b.mp4"), "b").unwrap();
        fs::write(at("notes.txt"), "n").unwrap();
        fs::write(at("empty.mkv"), "").unwrap();
        fs::create_dir(at("folder.mp4")).unwrap();
        mkfifo(&at("fifo.mp4"), Mode::S_IRWXU).unwrap();
        let _socket = UnixListener::bind(at("socket.mp4")).unwrap();
        fs::write(dir.path().join(OsStr::from_bytes(b"caf\xe9.mp4")), "c").unwrap();

        let walk = looked(&[dir.path()]);
        let expected = [OsStr::from_bytes(b"caf\xe9.mp4"), OsStr::new("a.mp4")];
        assert_eq!(names(&walk), expected);
        let reason = |name: &str| walk.problems[&fs::canonicalize(at(name)).unwrap()].as_str();
        assert!(reason("empty.mkv").contains("empty"));
        assert!(reason("fifo.mp4").contains("FIFO"));
        assert!(reason("socket.mp4").contains("socket"));
        assert_eq!(walk.problems.len(), 3);
    }

    #[test]
    fn links_stay_inside_and_loops_end() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("films");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::write(root.join("sub/a.mp4"), "a").unwrap();
        fs::write(dir.path().join("secret.mp4"), "s").unwrap();
        symlink(&root, root.join("sub/up")).unwrap();
        symlink("me.mp4", root.join("me.mp4")).unwrap();
        symlink("nowhere.mp4", root.join("dangling.mp4")).unwrap();
        symlink("../secret.mp4", root.join("out.mp4")).unwrap();
        symlink("/", root.join("slash")).unwrap();
        symlink("sub/a.mp4", root.join("in.mp4")).unwrap();

        let walk = looked(&[&root]);
        assert_eq!(names(&walk), ["a.mp4"]);
        let real = fs::canonicalize(&root).unwrap();
        assert!(walk.problems[&real.join("out.mp4")].contains("link out of"));
        assert!(walk.problems[&real.join("slash")].contains("link out of"));
        assert!(walk.problems[&real.join("me.mp4")].contains("leads nowhere"));
        assert!(walk.problems[&real.join("dangling.mp4")].contains("leads nowhere"));
        assert_eq!(walk.problems.len(), 4);
    }

    #[test]
    fn directories_that_cannot_be_used_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "f").unwrap();
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        let missing = dir.path().join("missing");
        let under = file.join("films");

        let walk = looked(&[&file, &empty, &missing, &under]);
        assert!(walk.files.is_empty());
        assert!(walk.problems[&file].contains("not a directory"));
        assert!(walk.problems[&empty].contains("no film"));
        assert!(walk.problems[&missing].contains("does not exist"));
        assert!(walk.problems[&under].contains("not a directory"));
        let real = fs::canonicalize(&empty).unwrap();
        let found = roots(&[file, empty, missing, under]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, real);
    }

    #[test]
    fn a_directory_given_twice_is_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/a.mp4"), "a").unwrap();
        let walk = looked(&[dir.path(), &dir.path().join("sub"), dir.path()]);
        assert_eq!(names(&walk), ["a.mp4"]);
        assert!(walk.problems.is_empty());
    }
}
