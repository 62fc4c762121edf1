//! A file's identity, and its content's SHA-256.

use iceflix_core::api::MediaId;
use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};
use sha2::{Digest as _, Sha256};
use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How much is read at once, in bytes: large enough that system calls do not count.
const PIECE: usize = 1 << 20;

/// What tells a file's content from what it was before, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// Its size, in bytes.
    pub size: u64,
    /// When it was last written, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// The file system it is on. May change when a disk is plugged in again.
    pub dev: u64,
    /// Its number there.
    pub ino: u64,
}

impl Stamp {
    /// The stamp in a file's metadata.
    pub fn of(meta: &Metadata) -> Self {
        let ns = meta.mtime().saturating_mul(1_000_000_000);
        Self {
            size: meta.size(),
            mtime_ns: ns.saturating_add(meta.mtime_nsec()),
            dev: meta.dev(),
            ino: meta.ino(),
        }
    }

    /// Whether the file was last written at least `settle` ago. A time in the future says nothing.
    pub fn is_older_than(&self, settle: Duration, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let age = i128::try_from(now.as_nanos()).unwrap_or(i128::MAX) - i128::from(self.mtime_ns);
        u128::try_from(age).is_ok_and(|age| age >= settle.as_nanos())
    }
}

/// Opens a regular file to read, without ever waiting for a FIFO's writer or waking a device.
///
/// # Errors
///
/// The system's; and an error of its own when it is no regular file (any more).
pub fn open_regular(path: &Path) -> io::Result<(File, Stamp)> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY).bits())
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok((file, Stamp::of(&meta)))
}

/// How hashing ended.
#[derive(Debug)]
pub enum Hashed {
    /// The content's hash.
    Is(MediaId),
    /// The file is no longer, or did not stay, what the stamp says: look again later.
    Changed,
    /// It was no longer wanted.
    Cancelled,
    /// It cannot be read.
    Failed(io::Error),
}

/// Hashes a file that has this stamp, a piece at a time. `goes_on` is told the number of bytes of
/// each piece, and says whether to go on.
pub fn hash_file(path: &Path, stamp: &Stamp, mut goes_on: impl FnMut(u64) -> bool) -> Hashed {
    let (mut file, found) = match open_regular(path) {
        Ok(opened) => opened,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Hashed::Changed,
        Err(e) => return Hashed::Failed(e),
    };
    if found != *stamp {
        return Hashed::Changed;
    }
    // Only advice: reading ahead helps disks, and refusing it hurts nobody.
    let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL);
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE];
    let mut total = 0u64;
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => {
                hash.update(&piece[..n]);
                total += n as u64;
                if !goes_on(n as u64) {
                    return Hashed::Cancelled;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Hashed::Failed(e),
        }
        // A file that grows as fast as it is read would never end.
        if total > stamp.size {
            return Hashed::Changed;
        }
    }
    match file.metadata() {
        Ok(meta) if total == stamp.size && Stamp::of(&meta) == *stamp => {
            Hashed::Is(MediaId::from_bytes(hash.finalize().into()))
        }
        Ok(_) => Hashed::Changed,
        Err(e) => Hashed::Failed(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_id_is_the_sha256_of_the_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"abc").unwrap();
        let stamp = Stamp::of(&fs::metadata(&path).unwrap());
        let Hashed::Is(id) = hash_file(&path, &stamp, |_| true) else {
            panic!("not hashed");
        };
        assert_eq!(
            id.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_file_that_changes_meanwhile_is_not_hashed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, vec![1; 3 * PIECE]).unwrap();
        let stamp = Stamp::of(&fs::metadata(&path).unwrap());
        let grow = |_| {
            let mut file = OpenOptions::new().append(true).open(&path).unwrap();
            io::Write::write_all(&mut file, b"more").unwrap();
            true
        };
        assert!(matches!(hash_file(&path, &stamp, grow), Hashed::Changed));
        assert!(matches!(
            hash_file(&path, &stamp, |_| true),
            Hashed::Changed
        ));
        let stamp = Stamp::of(&fs::metadata(&path).unwrap());
        assert!(matches!(
            hash_file(&path, &stamp, |_| false),
            Hashed::Cancelled
        ));
        fs::remove_file(&path).unwrap();
        assert!(matches!(
            hash_file(&path, &stamp, |_| true),
            Hashed::Changed
        ));
    }

    #[test]
    fn a_fifo_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.mp4");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open_regular(&path).is_err());
    }

    #[test]
    fn a_time_in_the_future_does_not_settle_a_file() {
        let stamp = |mtime_ns| Stamp {
            size: 1,
            mtime_ns,
            dev: 0,
            ino: 0,
        };
        let now = UNIX_EPOCH + Duration::from_secs(100);
        let settle = Duration::from_secs(1);
        assert!(stamp(99_000_000_000).is_older_than(settle, now));
        assert!(!stamp(99_000_000_001).is_older_than(settle, now));
        assert!(!stamp(i64::MAX).is_older_than(settle, now));
        assert!(stamp(i64::MIN).is_older_than(settle, now));
    }
}
