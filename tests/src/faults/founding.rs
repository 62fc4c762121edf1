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

/// A film, and which machines have it.
pub struct Film {
    /// What it is called.
    pub name: &'static str,
    /// The machines.
    pub places: &'static [u32],
    /// The tone that tells it from the others.
    tone: u32,
}

/// The films of a cluster in which one node at a time is hit.
pub const FILMS: [Film; 2] = films(&[1, 2], &[2, 3]);

/// Those of one in which a node may be hit when another has only just been started again: a third
/// has them as well, which has been there for longer.
pub const FILMS_OF_STORMS: [Film; 2] = films(&[1, 2, 3], &[1, 2, 3]);

const fn films(blue: &'static [u32], red: &'static [u32]) -> [Film; 2] {
    [
        Film {
            name: "Blue Ice",
            places: blue,
            tone: 440,
        },
        Film {
            name: "Red Fire",
            places: red,
            tone: 660,
        },
    ]
}

/// Makes the films, so many seconds long, and lays them where they belong.
///
/// # Errors
/// When that fails.
pub fn lay_films(
    dir: &Path,
    machines: &[Machine],
    films: &[Film],
    seconds: u32,
) -> anyhow::Result<()> {
    for Film { name, places, tone } in films {
        let made = film(&dir.join(format!("{name}.mp4")), seconds, *tone);
        for place in *places {
            let films = machines[*place as usize - 1].home.join("films");
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
pub async fn found(admin: &Client, films: &[Film]) -> anyhow::Result<Vec<(&'static str, MediaId)>> {
    let end = Instant::now() + PATIENCE;
    loop {
        let tiles = admin.search(&Query::default(), None).await?.tiles;
        let tile = |film: &Film| {
            let everywhere = |providers| providers as usize == film.places.len();
            tiles
                .iter()
                .find(|tile| tile.name == film.name && everywhere(tile.providers))
        };
        let found: Option<Vec<_>> = films
            .iter()
            .map(|film| Some((film.name, tile(film)?.id)))
            .collect();
        match found {
            Some(found) => return Ok(found),
            None if Instant::now() > end => bail!("the films are not found: {tiles:?}"),
            None => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
