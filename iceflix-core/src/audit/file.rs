//! A file of lines that is put aside when it is long enough.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// A file of whole lines, mode 0600, with the older ones beside it as `.1` (the latest), `.2`, …
pub(super) struct LogFile {
    path: PathBuf,
    longest: u64,
    old_files: u32,
    file: File,
    /// Bytes that are in it.
    size: u64,
    /// Its last line has no end: what comes next begins with one.
    torn: bool,
}

impl LogFile {
    /// Opens it, or makes it.
    pub fn open(path: &Path, longest: u64, old_files: u32) -> io::Result<Self> {
        let (file, size, torn) = open(path)?;
        Ok(Self {
            path: path.to_owned(),
            longest,
            old_files,
            file,
            size,
            torn,
        })
    }

    /// Adds a line. When this fails, a part of it may be there; it is no part of another line.
    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.was_replaced() {
            (self.file, self.size, self.torn) = open(&self.path)?;
        }
        let length = line.len() as u64 + 1;
        if self.size > 0 && self.size + length > self.longest {
            self.put_aside()?;
        }
        let mut bytes = Vec::with_capacity(line.len() + 2);
        if self.torn {
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
        // In one piece where the system takes it so: a reader then never sees half of it.
        self.torn = true;
        self.file.write_all(&bytes)?;
        self.torn = false;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Returns when it is all on disk.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Whether somebody else has put it aside or removed it: another program that looks after
    /// logs, or another service with the same state directory.
    fn was_replaced(&self) -> bool {
        let identity = |file: fs::Metadata| (file.dev(), file.ino());
        match (fs::metadata(&self.path), self.file.metadata()) {
            (Ok(there), Ok(ours)) => identity(there) != identity(ours),
            (Err(error), _) => error.kind() == io::ErrorKind::NotFound,
            (_, Err(_)) => false,
        }
    }

    fn put_aside(&mut self) -> io::Result<()> {
        let old = |n: u32| self.path.with_added_extension(n.to_string());
        for n in (1..self.old_files).rev() {
            match fs::rename(old(n), old(n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, old(1))?;
        (self.file, self.size, self.torn) = open(&self.path)?;
        Ok(())
    }
}

/// The file, its size, and whether its last line has no end.
fn open(path: &Path) -> io::Result<(File, u64, bool)> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    let size = file.metadata()?.len();
    let mut last = [b'\n'];
    if size > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    Ok((file, size, last != [b'\n']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_long_file_is_put_aside_and_the_oldest_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::open(&path, 100, 4).unwrap();
        // Four lines of 25 bytes a file, so that there have been seven files.
        for n in 0..28 {
            log.write(format!("{n:024}").as_bytes()).unwrap();
        }
        for (place, first) in [
            ("log", 24),
            ("log.1", 20),
            ("log.2", 16),
            ("log.3", 12),
            ("log.4", 8),
        ] {
            let path = dir.path().join(place);
            let numbers: Vec<u64> = lines(&path).iter().map(|n| n.parse().unwrap()).collect();
            assert_eq!(numbers, (first..first + 4).collect::<Vec<_>>(), "{place}");
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
        // A line that is longer than a file is long gets one of its own.
        log.write(&[b'x'; 300]).unwrap();
        log.write(b"short").unwrap();
        assert_eq!(lines(&path), ["short"]);
        // It goes on where it was after a restart.
        drop(log);
        let mut log = LogFile::open(&path, 100, 4).unwrap();
        log.write(&[b'y'; 94]).unwrap();
        assert_eq!(lines(&path), ["y".repeat(94)]);
    }

    #[test]
    fn a_line_that_was_cut_short_stays_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "{\"a\":1}\n{\"b\":").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let mut log = LogFile::open(&path, 1000, 4).unwrap();
        log.write(b"{\"c\":3}").unwrap();
        log.write(b"{\"d\":4}").unwrap();
        assert_eq!(
            lines(&path),
            ["{\"a\":1}", "{\"b\":", "{\"c\":3}", "{\"d\":4}"]
        );
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "others may have read it");
    }

    #[test]
    fn one_that_somebody_else_moves_or_removes_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::open(&path, 1000, 4).unwrap();
        log.write(b"1").unwrap();
        fs::rename(&path, dir.path().join("kept")).unwrap();
        log.write(b"2").unwrap();
        assert_eq!(lines(&path), ["2"]);
        assert_eq!(lines(&dir.path().join("kept")), ["1"]);
        fs::remove_file(&path).unwrap();
        log.write(b"3").unwrap();
        assert_eq!(lines(&path), ["3"]);
        // Two that write to one file lose nothing, even when one of them puts it aside.
        let mut other = LogFile::open(&path, 10, 4).unwrap();
        for n in 4..8 {
            other.write(n.to_string().as_bytes()).unwrap();
            log.write(n.to_string().as_bytes()).unwrap();
        }
        let mut all = lines(&path);
        for n in 1..=4 {
            let old = path.with_added_extension(n.to_string());
            all.extend(
                fs::exists(&old)
                    .unwrap()
                    .then(|| lines(&old))
                    .into_iter()
                    .flatten(),
            );
        }
        assert_eq!(all.len(), 9, "{all:?}");
    }
}
