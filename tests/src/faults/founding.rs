//! What it takes to start a cluster.

use super::world::PATIENCE;
use crate::{cluster::film, machine::Machine, person::told};
use anyhow::{Context as _, bail, ensure};
use client_cli::client::Client;
use iceflix_core::api::{Kind, MediaId, catalog::Query, main::DirectoryView};
use std::{
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

/// The films: name, machines, and the tone that tells one from the other.
const FILMS: [(&str, [u32; 2], u32); 2] = [("Blue Ice", [1, 2], 440), ("Red Fire", [2, 3], 660)];

/// How long a film is, in seconds: longer than any fault but the storm, which plays it again.
const FILM: u32 = 240;

/// Makes the films, and lays them where they belong.
///
/// # Errors
/// When that fails.
pub fn lay_films(dir: &Path, machines: &[Machine]) -> anyhow::Result<()> {
    for (name, places, tone) in FILMS {
        let made = film(&dir.join(format!("{name}.mp4")), FILM, tone);
        for place in places {
            let films = machines[place as usize - 1].home.join("films");
            std::fs::create_dir_all(&films)?;
            std::fs::copy(&made, films.join(format!("{name}.mp4")))?;
        }
    }
    Ok(())
}

/// Starts a machine's part; with an invitation it joins the cluster. Returns when it is healthy.
///
/// # Errors
/// When it does not become so.
pub fn start(
    machine: &Machine,
    instances: &str,
    invitation: Option<&str>,
    env: &[(&str, String)],
) -> anyhow::Result<()> {
    let words = ["cluster", "run", "--detach", "--instances", instances];
    let address = machine.address();
    let mut command = machine.command(&words);
    command.args(["--host", &address, "--media", "films"]);
    command.envs(env.iter().map(|(name, value)| (*name, value)));
    if let Some(line) = invitation {
        command.env("ICEFLIX_JOIN", line);
    }
    let told = told(command.spawn()?);
    ensure!(told.code == 0, "machine {}: {told:?}", machine.number());
    Ok(())
}

/// Puts a machine's state, and its (first) catalogue's, on small file systems of their own.
pub fn small_disks(machine: &Machine) -> anyhow::Result<()> {
    let state = machine.state();
    for (dir, megabytes) in [(state.clone(), 64), (state.join("catalog-1"), 16)] {
        std::fs::create_dir(&dir)?;
        mount(&dir, &format!("size={megabytes}m,mode=700"))?;
    }
    Ok(())
}

/// Mounts a file system in memory.
///
/// # Errors
/// When the right to do so is missing.
pub fn mount(dir: &Path, options: &str) -> anyhow::Result<()> {
    let mut command = Command::new("mount");
    command
        .args(["-t", "tmpfs", "-o", options, "none"])
        .arg(dir);
    let told = command.output()?;
    let said = String::from_utf8_lossy(&told.stderr);
    ensure!(
        told.status.success(),
        "cannot mount {}: {said}",
        dir.display()
    );
    Ok(())
}

/// Where the instances of a kind answer.
pub fn at(view: &DirectoryView, kind: Kind) -> Vec<SocketAddr> {
    let of_kind = view.instances.iter().filter(|it| it.kind == kind);
    of_kind.map(|it| it.endpoint).collect()
}

/// The directory when so many instances are in it.
pub async fn complete(client: &Client, instances: usize) -> anyhow::Result<Arc<DirectoryView>> {
    let mut directory = client.directory();
    let complete = directory.wait_for(|view| view.instances.len() == instances);
    let view = tokio::time::timeout(PATIENCE, complete).await;
    let view = view.with_context(|| format!("{instances} instances are not announced"))?;
    Ok(Arc::clone(&*view?))
}

/// The films, when all are found with all their providers.
pub async fn found(admin: &Client) -> anyhow::Result<Vec<(&'static str, MediaId)>> {
    let end = Instant::now() + PATIENCE;
    loop {
        let tiles = admin.search(&Query::default(), None).await?.tiles;
        let tile = |name: &str| {
            tiles
                .iter()
                .find(|tile| tile.name == name && tile.providers == 2)
        };
        let films: Option<Vec<_>> = FILMS
            .iter()
            .map(|(name, ..)| Some((*name, tile(name)?.id)))
            .collect();
        match films {
            Some(films) => return Ok(films),
            None if Instant::now() > end => bail!("the films are not found: {tiles:?}"),
            None => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
