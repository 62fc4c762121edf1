//! The state directory: what is in it and how it is written.

mod belonging;

pub use belonging::Belonging;

use super::{plan::Record, process::Process};
use anyhow::{Context, Result, bail};
use iceflix_core::files;
use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

/// A log file that is longer is set aside at the next start, in bytes.
const LOG_LIMIT: u64 = 16 << 20;

/// How often, and how quickly in turn, a lock is tried that is held for a moment only.
const TRIES: u32 = 10;
const TRY_EVERY: Duration = Duration::from_millis(20);

/// The letters of a password: none that look alike. 32 of them, so each is worth 5 bits.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// A state directory, by its absolute path.
#[derive(Debug, Clone)]
pub struct State {
    dir: PathBuf,
}

/// The right to run the cluster of a state directory; given up when the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl State {
    /// The state directory `dir`, which need not exist.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file or directory in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The log of an instance or of the supervisor.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join("log").join(format!("{name}.log"))
    }

    /// Where the admin's first password is.
    pub fn password(&self) -> PathBuf {
        self.file("admin.password")
    }

    /// Where the certificate of an instance is.
    pub fn identity(&self, name: &str) -> PathBuf {
        self.file(name).join("identity")
    }

    /// The configuration with which an instance was started last.
    fn config(&self, name: &str) -> Result<toml::Table> {
        let path = self.file(&format!("{name}.toml"));
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Where an instance answered when it was started last.
    pub fn listens(&self, name: &str) -> Result<SocketAddr> {
        let config = self.config(name)?;
        let listen = config.get("listen").and_then(toml::Value::as_str);
        let listen = listen.with_context(|| format!("{name}.toml has no `listen`"))?;
        Ok(listen.parse()?)
    }

    /// The record of a cluster that was started here.
    pub fn existing(&self) -> Result<Record> {
        self.known_record()?.with_context(|| {
            format!(
                "no cluster was started in {}; name its state directory with --state",
                self.dir.display()
            )
        })
    }

    /// Where the cluster's authority is, on a machine that has it.
    pub fn authority(&self) -> PathBuf {
        self.file("ca")
    }

    /// What a machine keeps from before it takes up an invitation until it has its certificates.
    pub fn joining(&self) -> PathBuf {
        self.file("joining.toml")
    }

    /// What a client needs to know.
    pub fn client_config(&self) -> PathBuf {
        self.file("client.toml")
    }

    fn lock_file(&self) -> PathBuf {
        self.file("supervisor.lock")
    }

    /// Makes the directory, for its owner's eyes only. One that is there already and holds other
    /// things keeps its permissions; what is secret in it has its own.
    pub fn create(&self) -> Result<()> {
        let known = self.file("cluster.toml").exists() || fs::read_dir(&self.dir).is_err();
        private_dir(&self.dir)?;
        let empty = fs::read_dir(&self.dir)
            .with_context(|| format!("cannot read {}", self.dir.display()))?
            .next()
            .is_none();
        if known || empty {
            fs::set_permissions(&self.dir, Permissions::from_mode(0o700))
                .with_context(|| format!("cannot make {} private", self.dir.display()))?;
        }
        private_dir(&self.file("log"))
    }

    /// Takes the right to run this cluster and writes down who has it. `None` when another has it.
    pub fn lock(&self) -> Result<Option<Lock>> {
        let path = self.lock_file();
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let mut tries = TRIES;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                // Perhaps somebody only looks whether it is held.
                Err(TryLockError::WouldBlock) if tries > 0 => {
                    tries -= 1;
                    std::thread::sleep(TRY_EVERY);
                }
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
        file.set_len(0)?;
        file.write_all(Process::own()?.to_text().as_bytes())?;
        Ok(Some(Lock { _file: file }))
    }

    /// The supervisor that runs this cluster now, if one does.
    pub fn supervisor(&self) -> Result<Option<Process>> {
        let path = self.lock_file();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        for _ in 0..TRIES {
            match file.try_lock_shared() {
                Ok(()) => return Ok(None),
                Err(TryLockError::WouldBlock) => {
                    let holder = Process::from_text(&fs::read_to_string(&path)?);
                    if let Some(process) = holder.filter(|process| process.runs()) {
                        return Ok(Some(process));
                    }
                    // It has the lock and has not written its number yet.
                    std::thread::sleep(TRY_EVERY);
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
        bail!("{} is held by an unknown process", path.display())
    }

    /// The record that an earlier start left.
    pub fn known_record(&self) -> Result<Option<Record>> {
        let path = self.file("cluster.toml");
        match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map(Some).with_context(|| {
                format!(
                    "{} is damaged; mend it, or delete it: the instances then get new names and ports, \
                     HOST has to be given again, and a machine that had joined takes a new invitation",
                    path.display()
                )
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// The record of the instances; without one a new one of the cluster whose authority is here, or
    /// of a new cluster of that name (random when `None`).
    pub fn record(&self, cluster: Option<&str>) -> Result<Record> {
        let record = match self.known_record()? {
            Some(record) => record,
            None => Record::new(self.name_without_record(cluster)?),
        };
        if let Some(wanted) = cluster.filter(|wanted| *wanted != record.cluster) {
            bail!("{}", self.other_cluster(&record.cluster, wanted));
        }
        Ok(record)
    }

    /// What to say to whom wants another cluster here than there is.
    pub fn other_cluster(&self, cluster: &str, wanted: &str) -> String {
        format!(
            "{} belongs to the cluster {cluster:?}, not {wanted:?}; choose another STATE for another cluster",
            self.dir.display(),
        )
    }

    /// Makes the admin's first password if there is none yet.
    pub fn make_password(&self) -> Result<()> {
        let path = self.password();
        match path.try_exists() {
            Ok(true) => Ok(()),
            Ok(false) => write_private(&path, &format!("{}\n", new_password())),
            Err(error) => Err(error).with_context(|| format!("cannot look at {}", path.display())),
        }
    }

    /// Sets a log that has become long aside, as `NAME.log.1`.
    pub fn rotate_log(&self, name: &str) -> Result<()> {
        let path = self.log(name);
        let long = fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_LIMIT);
        if long {
            let mut old = OsString::from(&path);
            old.push(".1");
            fs::rename(&path, old)
                .with_context(|| format!("cannot set {} aside", path.display()))?;
        }
        Ok(())
    }

    /// The last `lines` lines of a log.
    pub fn log_end(&self, name: &str, lines: usize) -> Vec<String> {
        let bytes = fs::read(self.log(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<&str> = text.lines().collect();
        let from = all.len().saturating_sub(lines);
        all.into_iter().skip(from).map(str::to_owned).collect()
    }
}

/// Makes a directory and what is missing above it, the new ones for their owner only.
pub fn private_dir(path: &Path) -> Result<()> {
    files::private_dir(path)
        .with_context(|| format!("cannot make the directory {}", path.display()))
}

/// Opens a log to append to.
pub fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// Writes a file of mode 0600, whole or not at all.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    files::write_private(path, text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

/// 140 random bits in seven groups of four letters.
fn new_password() -> String {
    let random: [u8; 28] = rand::random();
    let groups: Vec<String> = random
        .chunks(4)
        .map(|group| {
            let letter = |byte: &u8| char::from(LETTERS[usize::from(byte % 32)]);
            group.iter().map(letter).collect()
        })
        .collect();
    groups.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use iceflix_core::{
        api::Kind,
        trust::{Authority, authority::CERTIFICATE_LIFETIME},
    };
    use std::os::unix::fs::MetadataExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    fn state() -> (tempfile::TempDir, State) {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(dir.path().join("a/state"));
        state.create().unwrap();
        (dir, state)
    }

    #[test]
    fn what_is_made_is_private() {
        let (_dir, state) = state();
        assert_eq!(mode(state.dir()), 0o700);
        state.make_password().unwrap();
        assert_eq!(mode(&state.password()), 0o600);
        let password = fs::read_to_string(state.password()).unwrap();
        assert_eq!(password.trim_end().len(), 7 * 5 - 1);
        state.make_password().unwrap();
        assert_eq!(fs::read_to_string(state.password()).unwrap(), password);
        assert_ne!(new_password(), new_password());
    }

    #[test]
    fn permissions_of_foreign_directories_stay() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.path().join("film.mp4"), "").unwrap();
        State::new(dir.path().to_owned()).create().unwrap();
        assert_eq!(mode(dir.path()), 0o755);

        let empty = tempfile::tempdir().unwrap();
        fs::set_permissions(empty.path(), Permissions::from_mode(0o755)).unwrap();
        State::new(empty.path().to_owned()).create().unwrap();
        assert_eq!(mode(empty.path()), 0o700);
    }

    #[test]
    fn one_supervisor_at_a_time() {
        let (_dir, state) = state();
        assert_eq!(state.supervisor().unwrap(), None);
        let lock = state.lock().unwrap().unwrap();
        assert!(state.lock().unwrap().is_none());
        assert_eq!(state.supervisor().unwrap(), Some(Process::own().unwrap()));
        drop(lock);
        assert_eq!(state.supervisor().unwrap(), None);
        assert!(state.lock().unwrap().is_some());
    }

    #[test]
    fn a_state_keeps_its_cluster() {
        let (_dir, state) = state();
        let record = state.record(None).unwrap();
        assert!(record.cluster.starts_with("iceflix-"));
        write_private(
            &state.file("cluster.toml"),
            &toml::to_string(&record).unwrap(),
        )
        .unwrap();
        assert_eq!(state.record(None).unwrap(), record);
        assert_eq!(state.record(Some(&record.cluster)).unwrap(), record);
        let error = state.record(Some("other")).unwrap_err().to_string();
        assert!(error.contains("another STATE"), "{error}");
        fs::write(state.file("cluster.toml"), "cluster = 7").unwrap();
        let error = state.record(None).unwrap_err().to_string();
        assert!(error.contains("is damaged"), "{error}");
    }

    #[test]
    fn certificates_keep_the_cluster_when_the_record_is_lost() {
        let authority = Authority::create("home").unwrap();
        let lifetime = CERTIFICATE_LIFETIME;
        let equip = |state: &State, kind: Kind| {
            let name = format!("{kind}-1");
            let identity = state.identity(&name);
            let made = authority.equip(&identity, kind, &name.parse().unwrap(), lifetime);
            made.unwrap();
        };
        // The first machine's: its name is in its authority.
        let (_dir, first) = state();
        authority.save(&first.authority()).unwrap();
        equip(&first, Kind::Auth);
        let config = "admin_password_file = \"x\"";
        fs::write(first.file("auth-1.toml"), config).unwrap();
        assert_eq!(first.record(None).unwrap().cluster, "home");
        let error = first.record(Some("other")).unwrap_err().to_string();
        assert!(error.contains("another STATE"), "{error}");

        // One that was let in, also with an authenticator: it makes no cluster of its own.
        let (_dir, node) = state();
        equip(&node, Kind::Streaming);
        let (_dir, auth) = state();
        authority.save(&auth.authority()).unwrap();
        equip(&auth, Kind::Auth);
        fs::write(auth.file("auth-1.toml"), "cluster = \"home\"").unwrap();
        for joined in [node, auth] {
            for wanted in [None, Some("home")] {
                let error = joined.record(wanted).unwrap_err().to_string();
                assert!(
                    error.contains("\"home\"") && error.contains("JOIN=LINE"),
                    "{error}"
                );
            }
        }

        // And one that had begun to join.
        let (_dir, state) = state();
        fs::write(state.joining(), "").unwrap();
        let error = state.record(None).unwrap_err().to_string();
        assert!(
            error.contains("JOIN=LINE") && error.contains("joining.toml"),
            "{error}"
        );
    }

    #[test]
    fn long_logs_are_set_aside_and_ends_are_shown() {
        let (_dir, state) = state();
        fs::write(state.log("auth-1"), "one\ntwo\nthree\n").unwrap();
        assert_eq!(state.log_end("auth-1", 2), ["two", "three"]);
        assert!(state.log_end("auth-2", 2).is_empty());
        state.rotate_log("auth-1").unwrap();
        assert!(state.log("auth-1").exists());
        let file = File::options()
            .append(true)
            .open(state.log("auth-1"))
            .unwrap();
        file.set_len(LOG_LIMIT + 1).unwrap();
        state.rotate_log("auth-1").unwrap();
        assert!(!state.log("auth-1").exists());
        assert!(state.file("log/auth-1.log.1").exists());
    }
}
