//! Taking up a client's invitation: it gets to know a cluster.

use super::{
    Failure,
    services::write_toml,
    tell::{quote, say},
};
use crate::{
    cli::Global,
    config::{Environment, Target},
    error::Error,
};
use anyhow::Context;
use iceflix_core::{
    api::{Fingerprint, InstanceId},
    files,
};
use serde::Serialize;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// A client's configuration file.
#[derive(Serialize)]
pub struct ClientConfig<'a> {
    /// The cluster's name.
    pub cluster: &'a str,
    /// What it is known by.
    pub ca: String,
    /// Where its Mains are.
    pub mains: Vec<String>,
}

impl ClientConfig<'_> {
    /// Writes it to a file, with a comment before it.
    pub fn write(&self, path: &Path, comment: &str) -> anyhow::Result<()> {
        write_toml(path, comment, self)
    }
}

/// Writes down how the client finds and knows a cluster: to the file of `--config`, or to the person's
/// own. What is there of another cluster stays.
pub fn know(
    cluster: &InstanceId,
    mains: &[SocketAddr],
    fingerprint: Fingerprint,
    global: &Global,
    env: &Environment,
) -> Result<(), Failure> {
    let usage = |error: Error| Failure::Usage(error.to_string());
    let path: PathBuf = match &global.config {
        Some(file) => env.dir.join(file),
        None => env.client_config().map_err(usage)?,
    };
    let shown = quote(&path.display().to_string()).into_owned();
    if path.exists() {
        let known = Target::read(&path).map_err(usage)?;
        if known.ca != fingerprint {
            return Err(Failure::Usage(format!(
                "{shown} is of another cluster ({}, known by {}): remove that file, or have this one \
                 written elsewhere with --config FILE",
                known.cluster.as_deref().unwrap_or("without a name"),
                known.ca
            )));
        }
    }
    if let Some(dir) = path.parent() {
        files::private_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let config = ClientConfig {
        cluster: cluster.as_str(),
        ca: fingerprint.to_string(),
        mains: mains.iter().map(SocketAddr::to_string).collect(),
    };
    config.write(&path, "Where the cluster is, and what it is known by.")?;
    // Whoever types `iceflix login` next may be in a place where another file comes first.
    let usual = Target::file(&Global::default(), env);
    let option = match &usual {
        Some(usual) if *usual == path => String::new(),
        _ => format!(" --config {shown}"),
    };
    if let Some(other) = usual.filter(|usual| *usual != path) {
        say(&format!(
            "note: without --config, {} counts here, not this file",
            other.display()
        ));
    }
    say(&format!(
        "{shown} says now where the cluster {cluster} is. Next: iceflix login{option}"
    ));
    Ok(())
}
