//! Where the cluster is: options, environment and files, in the order people expect.

use crate::address::parse_main;
use crate::cli::Global;
use crate::error::Error;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The keys that a client.toml may have.
const KEYS: [&str; 2] = ["cluster", "mains"];

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
}

impl Target {
    /// A cluster of which only Mains are known.
    pub fn of_mains(mains: Vec<String>) -> Self {
        Self {
            cluster: None,
            mains,
        }
    }

    /// Finds the cluster; not finding any is an error that says what to do.
    pub fn find(global: &Global, env: &Environment) -> Result<Self, Error> {
        Self::search(global, env)?.ok_or_else(|| {
            Error::Usage(
                "no cluster is known here: start one with `make run-cluster`, name a Main with \
                 --main HOST:PORT, or give the cluster's client.toml with --config"
                    .into(),
            )
        })
    }

    /// Finds the cluster: `--main`, else the first file of `--config`, `$ICEFLIX_CONFIG`,
    /// `./.iceflix/client.toml` and `$XDG_CONFIG_HOME/iceflix/client.toml`.
    pub fn search(global: &Global, env: &Environment) -> Result<Option<Self>, Error> {
        if !global.main.is_empty() {
            let cluster = match &global.config {
                Some(file) => read(&env.dir.join(file))?.cluster,
                None => None,
            };
            return Ok(Some(Self {
                cluster,
                mains: global.main.clone(),
            }));
        }
        // A file that was named must be there; the usual places may be empty.
        if let Some(file) = &global.config {
            return read(&env.dir.join(file)).map(Some);
        }
        if let Some(file) = env.var("ICEFLIX_CONFIG") {
            return read(&env.dir.join(file)).map(Some);
        }
        let usual = [
            Some(env.dir.join(".iceflix/client.toml")),
            env.xdg("XDG_CONFIG_HOME", ".config")
                .map(|dir| dir.join("client.toml")),
        ];
        let found = usual.into_iter().flatten().find(|file| file.exists());
        found.map(|file| read(&file)).transpose()
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

/// Reads a client.toml.
fn read(file: &Path) -> Result<Target, Error> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Error::Usage(format!(
            "cannot read the config {}: {error}",
            file.display()
        ))
    })?;
    parse(&text).map_err(|error| Error::Usage(format!("the config {}: {error}", file.display())))
}

/// Understands a client.toml's text.
fn parse(text: &str) -> Result<Target, String> {
    let table: toml::Table = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut target = Target::of_mains(Vec::new());
    for (key, value) in table {
        match key.as_str() {
            "cluster" => {
                let name = value.as_str().ok_or("`cluster` is a name in quotes")?;
                target.cluster = Some(name.to_owned());
            }
            "mains" => {
                let mains = value.as_array().ok_or(LIST)?;
                for main in mains {
                    let main = parse_main(main.as_str().ok_or(LIST)?);
                    target
                        .mains
                        .push(main.map_err(|error| format!("`mains`: {error}"))?);
                }
            }
            unknown => return Err(unknown_key(unknown)),
        }
    }
    if target.mains.is_empty() {
        return Err(format!("no Main is listed: {LIST}"));
    }
    Ok(target)
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
        std::fs::write(file, format!("mains = [\"127.0.0.1:{port}\"]")).unwrap();
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
        let target = parse("cluster = \"home\"\nmains = [\"a:1\", \"[::1]:2\"]").unwrap();
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
            assert!(parse(bad).is_err(), "{bad}");
        }
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
