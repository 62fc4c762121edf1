//! Configuration: the same keys in a file, in the environment and as flags.
//!
//! A flag wins over the environment, which wins over the file, which wins over the default. A key
//! `bus_listen` is `bus_listen = […]` in the file (TOML), `ICEFLIX_BUS_LISTEN` in the environment
//! (lists: separated by commas) and `--bus-listen` as a flag (lists: given several times).

use crate::api::{InstanceId, Kind};
use clap::{Arg, ArgAction, Command, parser::ValueSource};
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
};
use toml::{Table, Value};

/// What a key's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A text.
    Text,
    /// `true` or `false`.
    Flag,
    /// Several texts.
    List,
}

/// A key, for `--help` and for checking files.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name in the file.
    pub name: &'static str,
    /// What its value is.
    pub shape: Shape,
    /// What it does, in a sentence.
    pub help: &'static str,
}

/// The keys that every service has. See `configs/` for the commented files.
pub const COMMON_KEYS: [Key; 11] = [
    key(
        "cluster",
        Shape::Text,
        "The cluster this instance belongs to",
    ),
    key(
        "instance",
        Shape::Text,
        "This instance's name, unique in the cluster",
    ),
    key(
        "listen",
        Shape::Text,
        "Where to answer calls: ADDRESS:PORT, port 0 for any",
    ),
    key(
        "state_dir",
        Shape::Text,
        "The directory for what must survive a restart",
    ),
    key(
        "identity_dir",
        Shape::Text,
        "The directory with this instance's certificate",
    ),
    key(
        "bus_listen",
        Shape::List,
        "Where other nodes reach this one's bus: tls/ADDRESS:PORT",
    ),
    key(
        "bus_connect",
        Shape::List,
        "Nodes to connect to besides those found: tls/ADDRESS:PORT",
    ),
    key(
        "bus_scouting",
        Shape::Flag,
        "Whether to find other nodes by multicast",
    ),
    key(
        "bus_interface",
        Shape::Text,
        "The network interface for multicast, or auto",
    ),
    key(
        "log",
        Shape::Text,
        "What to log: error, warn, info, debug, or a tracing filter",
    ),
    key("log_format", Shape::Text, "How to log: text or json"),
];

/// Declares a key.
pub const fn key(name: &'static str, shape: Shape, help: &'static str) -> Key {
    Key { name, shape, help }
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON document a line.
    Json,
}

/// What every service is told.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Common {
    /// The cluster this instance belongs to: 1 to 64 of `a-z`, `0-9`, `-`.
    pub cluster: InstanceId,
    /// This instance's name, unique in the cluster; its certificate says it when this does not.
    pub instance: Option<InstanceId>,
    /// Where to answer calls.
    pub listen: SocketAddr,
    /// The directory for what must survive a restart.
    pub state_dir: PathBuf,
    /// The directory with this instance's certificate; `identity` in `state_dir` when not given.
    pub identity_dir: Option<PathBuf>,
    /// Where other nodes reach this one's bus.
    pub bus_listen: Vec<String>,
    /// Nodes to connect to besides those that are found.
    pub bus_connect: Vec<String>,
    /// Whether other nodes are found by multicast.
    pub bus_scouting: bool,
    /// The network interface for multicast, or `auto`.
    pub bus_interface: String,
    /// What to log.
    pub log: String,
    /// How to log.
    pub log_format: LogFormat,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            cluster: plain_name("iceflix"),
            instance: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            state_dir: PathBuf::from(".iceflix/state"),
            identity_dir: None,
            bus_listen: vec!["tls/127.0.0.1:0".into()],
            bus_connect: Vec::new(),
            bus_scouting: true,
            bus_interface: "auto".into(),
            log: "info".into(),
            log_format: LogFormat::Text,
        }
    }
}

/// A name that is valid by construction.
fn plain_name(name: &'static str) -> InstanceId {
    match name.parse() {
        Ok(name) => name,
        Err(_) => unreachable!("{name} is a plain name"),
    }
}

impl Common {
    /// Whether the bus can be reached from this machine only.
    pub fn stays_on_this_machine(&self) -> bool {
        let mut addresses = self.bus_listen.iter().filter_map(|text| endpoint(text));
        addresses.all(|address| address.ip().is_loopback())
    }

    /// Where this instance's certificate is.
    pub fn identity(&self) -> PathBuf {
        match &self.identity_dir {
            Some(dir) => dir.clone(),
            None => self.state_dir.join("identity"),
        }
    }
}

/// A service's configuration.
pub trait ServiceConfig: DeserializeOwned {
    /// Which service.
    const KIND: Kind;
    /// Its keys besides [`COMMON_KEYS`].
    const KEYS: &'static [Key];

    /// What every service is told.
    fn common(&self) -> &Common;

    /// What the types cannot say.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what to do.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// A configuration that cannot be used, in a sentence for whoever wrote it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The command line; clap says it best (and `--help` is one too).
    #[error(transparent)]
    Arguments(#[from] clap::Error),
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path} is not valid TOML: {reason}")]
    Toml {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// A key that there is not.
    #[error("{path}: there is no key `{key}`{}", did_you_mean(.nearest))]
    UnknownKey {
        /// Which file.
        path: PathBuf,
        /// The key.
        key: String,
        /// One that exists and is written much alike.
        nearest: Option<&'static str>,
    },
    /// A value that does not fit.
    #[error("the configuration is not usable: {0}")]
    Value(String),
}

fn did_you_mean(nearest: &Option<&'static str>) -> String {
    match nearest {
        Some(name) => format!("; did you mean `{name}`?"),
        None => String::from("; `--help` lists them"),
    }
}

/// The known name that is written most alike, if any is near.
pub fn nearest_name<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        // 0.8: a swapped, missing or doubled letter stays above it, another word below.
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

fn all_keys<C: ServiceConfig>() -> impl Iterator<Item = Key> {
    COMMON_KEYS.into_iter().chain(C::KEYS.iter().copied())
}

fn command<C: ServiceConfig>() -> Command {
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("The configuration file (TOML)");
    let mut command = Command::new(format!("iceflix-{}", C::KIND))
        .version(env!("CARGO_PKG_VERSION"))
        .about(format!("The {} service of an IceFlix cluster", C::KIND))
        .arg(file);
    for key in all_keys::<C>() {
        let many = key.shape == Shape::List;
        let arg = Arg::new(key.name)
            .long(key.name.replace('_', "-"))
            .env(format!("ICEFLIX_{}", key.name.to_uppercase()))
            .value_name("VALUE")
            .help(key.help)
            .action(if many {
                ArgAction::Append
            } else {
                ArgAction::Set
            });
        command = command.arg(arg);
    }
    command
}

/// Loads a service's configuration from its command line (which may name a file) and environment.
///
/// # Errors
/// Names what is wrong, and where. `--help` and `--version` come out as errors of clap's too.
pub fn load<C: ServiceConfig>(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<C, ConfigError> {
    let matches = command::<C>().try_get_matches_from(arguments)?;
    let mut table = match matches.get_one::<PathBuf>("config") {
        Some(path) => read::<C>(path)?,
        None => Table::new(),
    };
    for key in all_keys::<C>() {
        let Some(values) = matches.get_many::<String>(key.name) else {
            continue;
        };
        let values: Vec<&str> = match matches.value_source(key.name) {
            Some(ValueSource::EnvVariable) if key.shape == Shape::List => {
                values.flat_map(|value| list(value)).collect()
            }
            _ => values.map(String::as_str).collect(),
        };
        let value = match (key.shape, values.first()) {
            (Shape::List, _) => Value::Array(values.into_iter().map(Value::from).collect()),
            (Shape::Flag, Some(text)) => Value::from(text.parse::<bool>().map_err(|_| {
                ConfigError::Value(format!("`{}` is true or false, not {text:?}", key.name))
            })?),
            (_, Some(text)) => Value::from(*text),
            (_, None) => continue,
        };
        table.insert(key.name.to_owned(), value);
    }
    from_table(table)
}

/// The texts of a list as the environment has it. White space around them is not meant, nor is
/// what is empty: so an empty variable is an empty list.
fn list(value: &str) -> impl Iterator<Item = &str> {
    value
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty())
}

/// Makes a configuration of its keys and values, as a file would.
///
/// # Errors
/// When a value does not fit.
pub fn from_table<C: ServiceConfig>(table: Table) -> Result<C, ConfigError> {
    let config: C = table
        .try_into()
        .map_err(|error: toml::de::Error| ConfigError::Value(error.message().to_owned()))?;
    config.check().map_err(ConfigError::Value)?;
    let common = config.common();
    for (key, endpoints) in [
        ("bus_listen", &common.bus_listen),
        ("bus_connect", &common.bus_connect),
    ] {
        for text in endpoints {
            check_endpoint(text, key).map_err(ConfigError::Value)?;
        }
    }
    Ok(config)
}

/// Checks an address of the bus: `tls/ADDRESS:PORT`.
fn check_endpoint(text: &str, key: &str) -> Result<(), String> {
    match endpoint(text) {
        Some(_) => Ok(()),
        None => Err(format!(
            "`{key}`: {text:?} is not of the form tls/ADDRESS:PORT"
        )),
    }
}

fn endpoint(text: &str) -> Option<SocketAddr> {
    text.strip_prefix("tls/")?.parse().ok()
}

fn read<C: ServiceConfig>(path: &Path) -> Result<Table, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let table: Table = text
        .parse()
        .map_err(|error: toml::de::Error| ConfigError::Toml {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    for key in table.keys() {
        if !all_keys::<C>().any(|known| known.name == key) {
            return Err(ConfigError::UnknownKey {
                path: path.to_owned(),
                key: key.clone(),
                nearest: nearest_name(key, all_keys::<C>().map(|known| known.name)),
            });
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests;
