//! Where the cluster is: options, environment and files, in the order people expect.

use crate::address::parse_main;
use crate::cli::Global;
use crate::error::Error;
use iceflix_core::api::Fingerprint;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The keys that a client.toml may have.
const KEYS: [&str; 3] = ["ca", "cluster", "mains"];

/// What the process was started with: kept apart, so that tests can have their own.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The environment's variables.
    pub vars: BTreeMap<OsString, OsString>,
    /// The working directory; relative paths start there.
    pub dir: PathBuf,
}

impl Environment {
    /// This process's own.
    pub fn of_process() -> Self {
        Self {
            vars: std::env::vars_os().collect(),
            dir: PathBuf::from("."),
        }
    }

    /// A variable, unless it is unset or empty.
    pub fn var(&self, name: &str) -> Option<&OsString> {
        self.vars
            .get(std::ffi::OsStr::new(name))
            .filter(|value| !value.is_empty())
    }

    /// A directory of the XDG base directory specification, for this program. Relative values
    /// are ignored, as the specification says.
    fn xdg(&self, variable: &str, below_home: &str) -> Option<PathBuf> {
        let absolute = |value: &OsString| Path::new(value).is_absolute();
        self.var(variable)
            .filter(|value| absolute(value))
            .map(PathBuf::from)
            .or_else(|| Some(Path::new(self.var("HOME")?).join(below_home)))
            .map(|dir| dir.join("iceflix"))
    }

    /// The file of this person's own that says where the cluster is.
    pub fn client_config(&self) -> Result<PathBuf, Error> {
        self.xdg("XDG_CONFIG_HOME", ".config")
            .map(|dir| dir.join("client.toml"))
            .ok_or_else(|| {
                Error::Usage("neither $XDG_CONFIG_HOME nor $HOME is set; set one of them".into())
            })
    }

    /// Where sessions and the prompt's history are kept.
    pub fn state_dir(&self) -> Result<PathBuf, Error> {
        self.xdg("XDG_STATE_HOME", ".local/state").ok_or_else(|| {
            Error::Usage("neither $XDG_STATE_HOME nor $HOME is set; set one of them".into())
        })
    }
}

/// A cluster as it was named: by a file or by addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The cluster's name, when a file said it.
    pub cluster: Option<String>,
    /// Where its Mains are: HOST:PORT, at least one.
    pub mains: Vec<String>,
    /// What the cluster is known by: without it no Main can be told from a stranger.
    pub ca: Fingerprint,
}

impl Target {
    /// Finds the cluster; not finding any is an error that says what to do.
    pub fn find(global: &Global, env: &Environment) -> Result<Self, Error> {
        Self::search(global, env)?.ok_or_else(|| {
            Error::Usage(
                "no cluster is known here: start one with `make run-cluster`, give the cluster's \
                 client.toml with --config, take up a line of `iceflix cluster invite --client` with \
                 `iceflix cluster join LINE`, or name a Main and the cluster's fingerprint with \
                 --main HOST:PORT --ca FINGERPRINT"
                    .into(),
            )
        })
    }

    /// Finds the cluster: `--main`, else the first file of `--config`, `$ICEFLIX_CONFIG`,
    /// `./.iceflix/client.toml` and `$XDG_CONFIG_HOME/iceflix/client.toml`.
    pub fn search(global: &Global, env: &Environment) -> Result<Option<Self>, Error> {
        if !global.main.is_empty() {
            let known = match global.ca {
                Some(_) if global.config.is_none() => None,
                _ => Self::in_a_file(global, env)?,
            };
            let ca = global.ca.or(known.as_ref().map(|known| known.ca));
            return Ok(Some(Self {
                ca: ca.ok_or_else(no_fingerprint)?,
                // Another cluster's name than the one meant would find that one's session.
                cluster: known
                    .filter(|known| Some(known.ca) == ca)
                    .and_then(|known| known.cluster),
                mains: global.main.clone(),
            }));
        }
        Ok(Self::in_a_file(global, env)?.map(|known| Self {
            ca: global.ca.unwrap_or(known.ca),
            ..known
        }))
    }

    /// The cluster of the first file there is.
    fn in_a_file(global: &Global, env: &Environment) -> Result<Option<Self>, Error> {
        Self::file(global, env)
            .map(|file| Self::read(&file))
            .transpose()
    }

    /// The file that counts. One that was named must be there; the usual places may be empty.
    pub fn file(global: &Global, env: &Environment) -> Option<PathBuf> {
        if let Some(file) = &global.config {
            return Some(env.dir.join(file));
        }
        if let Some(file) = env.var("ICEFLIX_CONFIG") {
            return Some(env.dir.join(file));
        }
        let usual = [
            Some(env.dir.join(".iceflix/client.toml")),
            env.client_config().ok(),
        ];
        usual.into_iter().flatten().find(|file| file.exists())
    }

    /// Reads a client.toml.
    pub fn read(file: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(file).map_err(|error| {
            Error::Usage(format!(
                "cannot read the config {}: {error}",
                file.display()
            ))
        })?;
        parse(&text)
            .map_err(|error| Error::Usage(format!("the config {}: {error}", file.display())))
    }

    /// The Mains' addresses. Names that do not resolve are passed over while others do.
    pub async fn resolve(&self) -> Result<Vec<SocketAddr>, Error> {
        let mut addresses = Vec::new();
        let mut failures = Vec::new();
        for main in &self.mains {
            match tokio::net::lookup_host(main).await {
                Ok(found) => addresses.extend(found),
                Err(error) => failures.push(format!("{main}: {error}")),
            }
        }
        addresses.sort();
        addresses.dedup();
        if addresses.is_empty() {
            return Err(Error::Unavailable(format!(
                "no address of a Main could be found: {}",
                failures.join("; ")
            )));
        }
        Ok(addresses)
    }
}

/// Understands a client.toml's text.
fn parse(text: &str) -> Result<Target, String> {
    let table: toml::Table = toml::from_str(text).map_err(|error| error.to_string())?;
    let (mut cluster, mut mains, mut ca) = (None, Vec::new(), None);
    for (key, value) in table {
        match key.as_str() {
            "cluster" => {
                let name = value.as_str().ok_or("`cluster` is a name in quotes")?;
                cluster = Some(name.to_owned());
            }
            "mains" => {
                for main in value.as_array().ok_or(LIST)? {
                    let main = parse_main(main.as_str().ok_or(LIST)?);
                    mains.push(main.map_err(|error| format!("`mains`: {error}"))?);
                }
            }
            "ca" => {
                let text = value.as_str().ok_or("`ca` is a fingerprint in quotes")?;
                let known = text.parse().map_err(|error| format!("`ca`: {error}"))?;
                ca = Some(known);
            }
            unknown => return Err(unknown_key(unknown)),
        }
    }
    if mains.is_empty() {
        return Err(format!("no Main is listed: {LIST}"));
    }
    Ok(Target {
        cluster,
        mains,
        ca: ca.ok_or("there is no `ca`, the fingerprint by which the cluster is known")?,
    })
}

/// What a Main without a fingerprint is answered with.
pub fn no_fingerprint() -> Error {
    Error::Usage(
        "whose Main is that? Give the cluster's fingerprint with --ca, or its client.toml with \
         --config; `iceflix cluster join LINE` writes one, from a line that `iceflix cluster invite \
         --client` prints on a machine of the cluster"
            .into(),
    )
}

const LIST: &str = "`mains` is a list like [\"127.0.0.1:7000\"]";

/// Names a key that does not exist, and the one that was probably meant.
fn unknown_key(key: &str) -> String {
    let nearest = KEYS
        .into_iter()
        .max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)))
        .unwrap_or(KEYS[0]);
    format!("unknown key `{key}`; did you mean `{nearest}`?")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn env(dir: &Path, vars: &[(&str, &Path)]) -> Environment {
        Environment {
            vars: vars
                .iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            dir: dir.to_owned(),
        }
    }

    fn write(file: &Path, port: u16) {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let text = format!("mains = [\"127.0.0.1:{port}\"]\nca = \"{CA}\"");
        std::fs::write(file, text).unwrap();
    }

    #[test]
    fn the_places_are_searched_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let port = |global: &Global, env: &Environment| {
            let target = Target::find(global, env).unwrap();
            target.mains[0].rsplit_once(':').unwrap().1.to_owned()
        };
        let mut global = Global::default();

        let nothing = env(dir, &[("HOME", dir)]);
        let error = Target::find(&global, &nothing).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("make run-cluster"), "{error}");
        assert!(error.to_string().contains("--main"), "{error}");
        assert!(error.to_string().contains("--ca"), "{error}");

        write(&dir.join(".config/iceflix/client.toml"), 1);
        assert_eq!(port(&global, &nothing), "1");
        write(&dir.join("xdg/iceflix/client.toml"), 2);
        let xdg = dir.join("xdg");
        let mut vars = vec![("HOME", dir), ("XDG_CONFIG_HOME", xdg.as_path())];
        assert_eq!(port(&global, &env(dir, &vars)), "2");
        write(&dir.join(".iceflix/client.toml"), 3);
        assert_eq!(port(&global, &env(dir, &vars)), "3");
        let named = dir.join("named.toml");
        write(&named, 4);
        vars.push(("ICEFLIX_CONFIG", &named));
        assert_eq!(port(&global, &env(dir, &vars)), "4");
        write(&dir.join("option.toml"), 5);
        global.config = Some("option.toml".into());
        assert_eq!(port(&global, &env(dir, &vars)), "5");
        global.main = vec!["127.0.0.1:6".into()];
        assert_eq!(port(&global, &env(dir, &vars)), "6");
    }

    #[test]
    fn a_named_file_must_be_there_and_an_empty_variable_names_none() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join(".iceflix/client.toml"), 3);
        let missing = env(dir.path(), &[("ICEFLIX_CONFIG", Path::new("absent.toml"))]);
        let error = Target::find(&Global::default(), &missing).unwrap_err();
        assert!(error.to_string().contains("absent.toml"), "{error}");
        let empty = env(dir.path(), &[("ICEFLIX_CONFIG", Path::new(""))]);
        assert!(Target::find(&Global::default(), &empty).is_ok());
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest() {
        let error = parse("mians = [\"a:1\"]").unwrap_err();
        assert_eq!(error, "unknown key `mians`; did you mean `mains`?");
        let error = parse("cluster_name = \"x\"").unwrap_err();
        assert!(error.ends_with("did you mean `cluster`?"), "{error}");
    }

    #[test]
    fn configs_are_read_and_bad_ones_refused() {
        let text = format!("ca = \"{CA}\"\ncluster = \"home\"\nmains = [\"a:1\", \"[::1]:2\"]");
        let target = parse(&text).unwrap();
        assert_eq!(target.ca.to_string(), CA);
        assert_eq!(target.cluster.as_deref(), Some("home"));
        assert_eq!(target.mains, ["a:1", "[::1]:2"]);
        for bad in [
            "",
            "mains = []",
            "mains = \"a:1\"",
            "mains = [1]",
            "mains = [\"a\"]",
            "cluster = 1\nmains = [\"a:1\"]",
            "mains = [",
        ] {
            let known = format!("{bad}\nca = \"{CA}\"");
            assert!(parse(&known).is_err(), "{bad}");
        }
        let error = parse("mains = [\"a:1\"]").unwrap_err();
        assert!(error.contains("`ca`"), "{error}");
        assert!(parse("mains = [\"a:1\"]\nca = \"12\"").is_err());
    }

    #[test]
    fn a_main_alone_is_not_known_by_its_address() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let nowhere = env(dir, &[("HOME", dir)]);
        let mut global = Global {
            main: vec!["127.0.0.1:6".into()],
            ..Global::default()
        };
        let error = Target::find(&global, &nowhere).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("--ca"), "{error}");
        // The cluster that is known here, by another door.
        write(&dir.join(".iceflix/client.toml"), 3);
        let target = Target::find(&global, &nowhere).unwrap();
        assert_eq!(
            (target.mains, target.ca),
            (global.main.clone(), CA.parse().unwrap())
        );
        let other: Fingerprint = "00".repeat(32).parse().unwrap();
        global.ca = Some(other);
        assert_eq!(Target::find(&global, &nowhere).unwrap().ca, other);
    }

    #[test]
    fn state_is_kept_where_xdg_says() {
        let at = |vars: &[(&str, &Path)]| env(Path::new("/"), vars).state_dir();
        let home = ("HOME", Path::new("/h"));
        assert_eq!(at(&[home]).unwrap(), Path::new("/h/.local/state/iceflix"));
        let xdg = ("XDG_STATE_HOME", Path::new("/s"));
        assert_eq!(at(&[home, xdg]).unwrap(), Path::new("/s/iceflix"));
        let relative = ("XDG_STATE_HOME", Path::new("s"));
        assert_eq!(
            at(&[home, relative]).unwrap(),
            Path::new("/h/.local/state/iceflix")
        );
        assert!(at(&[]).is_err());
    }
}
