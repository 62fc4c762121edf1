//! The session between commands: a key pair and the current token, in a file of mode 0600.
//!
//! Commands that run at the same time share the file. It is replaced as a whole (a reader sees
//! the old one or the new one), and a fresh token is only put beside the session it belongs to:
//! a slow command cannot undo a login or a logout that happened meanwhile.

use crate::error::Error;
use iceflix_core::{
    api::{
        SessionId,
        auth::{Role, Token},
    },
    files,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a token lives. A cached one that claims to live longer met a changed clock.
pub const TOKEN_LIFE: Duration = Duration::from_secs(30);

/// A token with less than this left is not used for another call.
pub const TOKEN_MARGIN: Duration = Duration::from_secs(5);

/// A token, and until when it is good by this machine's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedToken {
    /// The token.
    pub token: Token,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: u64,
}

impl CachedToken {
    /// A token that was asked for at `asked`: it ends at the earliest 30 s later.
    pub fn new(token: Token, asked: SystemTime) -> Self {
        Self {
            token,
            expires_ms: millis(asked + TOKEN_LIFE),
        }
    }

    /// For how long it is good at `now`; nothing when it is over, or when the clock was set back
    /// and nobody can tell.
    pub fn left(&self, now: SystemTime) -> Duration {
        let left = Duration::from_millis(self.expires_ms.saturating_sub(millis(now)));
        match left <= TOKEN_LIFE {
            true => left,
            false => Duration::ZERO,
        }
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A login as it is kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The session's id.
    pub id: SessionId,
    /// Whose it is.
    pub user: String,
    /// What they may do.
    pub role: Role,
    /// The name of the cluster it belongs to, as its proofs need it.
    pub cluster: String,
    /// The cluster's Mains as they were known at login: finds the session when only `--main`
    /// says which cluster is meant.
    pub mains: Vec<SocketAddr>,
    /// The private key, in hexadecimal digits.
    pub key: String,
    /// The token of the moment.
    pub token: Option<CachedToken>,
}

// Neither key nor token shows when something is printed for debugging.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({} of {})", self.id, self.user)
    }
}

/// The file of one cluster's session.
#[derive(Debug, Clone)]
pub struct SessionFile {
    path: PathBuf,
}

impl SessionFile {
    /// The file for a cluster known by name, or only by its Mains. In the second case a session
    /// that was opened with one of these Mains is found again, whatever its file is called.
    pub fn locate(state_dir: &Path, cluster: Option<&str>, mains: &[SocketAddr]) -> Self {
        let dir = state_dir.join("sessions");
        let path = match cluster {
            Some(cluster) => dir.join(file_name("cluster", cluster)),
            None => known_by_main(&dir, mains).unwrap_or_else(|| {
                let mut mains: Vec<String> = mains.iter().map(SocketAddr::to_string).collect();
                mains.sort();
                dir.join(file_name("mains", &mains.join(" ")))
            }),
        };
        Self { path }
    }

    /// The session, if there is one. A damaged file counts as none: logging in mends it.
    pub fn load(&self) -> Result<Option<Session>, Error> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(self.doing("read"))(error)),
        };
        match serde_json::from_slice(&text) {
            Ok(session) => Ok(Some(session)),
            Err(error) => {
                tracing::warn!(file = %self.path.display(), %error, "the session file is damaged");
                Ok(None)
            }
        }
    }

    /// Keeps a session in place of whatever was there.
    pub fn save(&self, session: &Session) -> Result<(), Error> {
        let _lock = self.lock()?;
        self.replace(session)
    }

    /// Keeps a fresh token, if `session` is still the one that is logged in.
    pub fn keep_token(&self, session: SessionId, token: CachedToken) -> Result<(), Error> {
        let _lock = self.lock()?;
        match self.load()? {
            Some(mut current) if current.id == session => {
                current.token = Some(token);
                self.replace(&current)
            }
            _ => Ok(()),
        }
    }

    /// Forgets a session, unless another has taken its place.
    pub fn remove(&self, session: SessionId) -> Result<(), Error> {
        let _lock = self.lock()?;
        if self.load()?.is_none_or(|current| current.id != session) {
            return Ok(());
        }
        fs::remove_file(&self.path).map_err(Error::io(self.doing("remove")))
    }

    fn doing(&self, verb: &str) -> String {
        format!("{verb} the session file {}", self.path.display())
    }

    /// Keeps other commands from changing the file until the lock is dropped.
    fn lock(&self) -> Result<File, Error> {
        private_dir(self.dir())?;
        let path = self.path.with_extension("lock");
        let doing = || format!("lock {}", path.display());
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io(doing()))?;
        file.lock().map_err(Error::io(doing()))?;
        Ok(file)
    }

    fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    fn replace(&self, session: &Session) -> Result<(), Error> {
        let text = serde_json::to_vec(session)
            .map_err(|error| Error::Failed(format!("cannot write the session: {error}")))?;
        let write = || {
            let mut file = tempfile::Builder::new()
                .permissions(Permissions::from_mode(0o600))
                .tempfile_in(self.dir())?;
            file.write_all(&text)?;
            file.persist(&self.path)?;
            Ok(())
        };
        write().map_err(Error::io(self.doing("write")))
    }
}

/// Makes a directory that only its owner can enter, with its parents.
pub fn private_dir(dir: &Path) -> Result<(), Error> {
    files::private_dir(dir).map_err(Error::io(format!("make the directory {}", dir.display())))
}

/// A file name that any cluster's name can be turned into.
fn file_name(kind: &str, what: &str) -> String {
    let digest = Sha256::digest(format!("{kind}\n{what}"));
    format!("{}.json", hex::encode(&digest[..12]))
}

/// The newest session that was opened with one of these Mains.
fn known_by_main(dir: &Path, mains: &[SocketAddr]) -> Option<PathBuf> {
    let files = fs::read_dir(dir).ok()?.filter_map(Result::ok);
    files
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .filter(|path| {
            let session = SessionFile { path: path.clone() }.load();
            session.is_ok_and(|session| {
                session.is_some_and(|s| s.mains.iter().any(|main| mains.contains(main)))
            })
        })
        .max_by_key(|path| fs::metadata(path).and_then(|data| data.modified()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(user: &str) -> Session {
        Session {
            id: SessionId::random(),
            user: user.into(),
            role: Role::User,
            cluster: "c".into(),
            mains: vec!["127.0.0.1:7000".parse().unwrap()],
            key: "00".repeat(32),
            token: None,
        }
    }

    fn cached(name: &str) -> CachedToken {
        CachedToken::new(Token(name.into()), SystemTime::now())
    }

    #[test]
    fn a_session_reads_back_from_a_private_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = SessionFile::locate(dir.path(), Some("c"), &[]);
        assert_eq!(file.load().unwrap(), None);
        let ann = session("ann");
        file.save(&ann).unwrap();
        assert_eq!(file.load().unwrap(), Some(ann.clone()));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file.path), 0o600);
        assert_eq!(mode(file.dir()), 0o700);
        file.remove(ann.id).unwrap();
        assert_eq!(file.load().unwrap(), None);
        file.remove(ann.id).unwrap();
    }

    #[test]
    fn clusters_are_kept_apart() {
        let dir = tempfile::tempdir().unwrap();
        let one = SessionFile::locate(dir.path(), Some("one"), &[]);
        let two = SessionFile::locate(dir.path(), Some("two"), &[]);
        one.save(&session("ann")).unwrap();
        assert_eq!(two.load().unwrap(), None);
        let mains = ["127.0.0.1:1".parse().unwrap()];
        assert_eq!(
            SessionFile::locate(dir.path(), None, &mains)
                .load()
                .unwrap(),
            None
        );
    }

    #[test]
    fn a_main_alone_finds_its_clusters_session() {
        let dir = tempfile::tempdir().unwrap();
        let ann = session("ann");
        SessionFile::locate(dir.path(), Some("c"), &[])
            .save(&ann)
            .unwrap();
        let found = SessionFile::locate(dir.path(), None, &ann.mains);
        assert_eq!(found.load().unwrap(), Some(ann));
    }

    #[test]
    fn late_tokens_and_logouts_touch_only_their_own_session() {
        let dir = tempfile::tempdir().unwrap();
        let file = SessionFile::locate(dir.path(), Some("c"), &[]);
        let (old, new) = (session("ann"), session("bob"));
        file.keep_token(old.id, cached("late")).unwrap();
        assert_eq!(file.load().unwrap(), None, "a logout is not undone");
        file.save(&new).unwrap();
        file.keep_token(old.id, cached("late")).unwrap();
        file.remove(old.id).unwrap();
        assert_eq!(file.load().unwrap(), Some(new.clone()));
        file.keep_token(new.id, cached("fresh")).unwrap();
        assert_eq!(
            file.load().unwrap().unwrap().token.unwrap().token.0,
            "fresh"
        );
    }

    #[test]
    fn commands_at_the_same_time_never_see_half_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = SessionFile::locate(dir.path(), Some("c"), &[]);
        let ann = session("ann");
        file.save(&ann).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (file, ann) = (&file, &ann);
                scope.spawn(move || {
                    for round in 0..50 {
                        file.keep_token(ann.id, cached(&format!("{thread}-{round}")))
                            .unwrap();
                        assert_eq!(file.load().unwrap().unwrap().id, ann.id);
                    }
                });
            }
        });
        let names = fs::read_dir(file.dir()).unwrap().count();
        assert_eq!(names, 2, "only the session and its lock are left");
    }

    #[test]
    fn a_damaged_file_is_no_session_and_can_be_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = SessionFile::locate(dir.path(), Some("c"), &[]);
        file.save(&session("ann")).unwrap();
        fs::write(&file.path, "{").unwrap();
        assert_eq!(file.load().unwrap(), None);
        let bob = session("bob");
        file.save(&bob).unwrap();
        assert_eq!(file.load().unwrap(), Some(bob));
    }

    #[test]
    fn a_token_is_good_for_30_seconds_by_a_sane_clock() {
        let now = SystemTime::now();
        let token = CachedToken::new(Token("t".into()), now);
        assert!(token.left(now) > TOKEN_LIFE - Duration::from_millis(5));
        assert_eq!(token.left(now + TOKEN_LIFE), Duration::ZERO);
        assert_eq!(token.left(now - Duration::from_secs(60)), Duration::ZERO);
    }

    #[test]
    fn secrets_do_not_show() {
        let mut ann = session("ann");
        ann.token = Some(cached("secret-token"));
        let shown = format!("{ann:?} {:?}", ann.token);
        assert!(!shown.contains("secret-token") && !shown.contains(&ann.key));
    }
}
