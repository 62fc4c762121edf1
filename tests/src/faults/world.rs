//! The cluster that faults happen to: three machines with one of everything each (or two), people on
//! a fourth, and two films, each on two of the machines.

use super::{
    films::{Showing, seats},
    founding::{Film, at, complete, found, lay_films, small_disks, start},
    oracles::tile_at,
    people::People,
    processes::runs,
    rows,
    watch::{Life, Watch},
};
use crate::{lan::Lan, machine::Machine};
use anyhow::{Context as _, bail, ensure};
use client_cli::{client::Client, config::Target};
use iceflix_core::api::{Instance, Kind, MediaId, main::MainClient};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// The machines with services.
pub const MACHINES: u32 = 3;

/// The people's machine.
pub const PEOPLE: u32 = 4;

/// The machine whose disk can be full, slow or read-only, and whose clock can be wrong.
pub const ODD: u32 = 3;

/// How long the cluster may take to be whole.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// How long one Main may take to give its directory.
const DIRECTORY: Duration = Duration::from_millis(700);

/// What rows may be on their way for.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// The cluster.
pub struct World {
    /// What connects its machines.
    pub lan: Arc<Lan>,
    /// Those with services; machine 1 is the first.
    machines: Vec<Machine>,
    /// Who uses it.
    pub people: People,
    /// The administrator, at the people's machine.
    pub admin: Client,
    /// The films.
    pub films: Vec<(&'static str, MediaId)>,
    /// On which machines these are.
    laid: &'static [Film],
    /// What every Main says.
    pub watch: Watch,
    /// All instances, by name.
    pub instances: BTreeMap<(Kind, String), SocketAddr>,
    password: String,
    per_machine: String,
}

/// What a cluster is to be.
pub struct Plan {
    /// How many instances of main, auth and catalog there are on each machine.
    pub per_machine: u32,
    /// The films.
    pub films: &'static [Film],
    /// How long these are, in seconds: longer than any fault.
    pub seconds: u32,
}

impl World {
    /// Starts it on a LAN of four machines, and waits until it is whole.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(lan: Arc<Lan>, dir: &Path, plan: &Plan) -> anyhow::Result<Self> {
        let machine = |number| Machine::new(Some(Arc::clone(&lan)), number, dir);
        let machines: Vec<Machine> = (1..=MACHINES).map(machine).collect();
        let person = machine(PEOPLE);
        small_disks(&machines[ODD as usize - 1])?;
        lay_films(dir, &machines, plan.films, plan.seconds)?;
        let per_machine = plan.per_machine.to_string();
        let first = &machines[0];
        start(first, &per_machine, None, &[])?;
        for other in &machines[1..] {
            let line = first.invites(&["--role", "main,auth,catalog,streaming"]);
            start(other, &per_machine, Some(&line), &[])?;
        }
        let known = first.invites(&["--client"]);
        let joined = person.types(&["cluster", "join", &known]);
        ensure!(joined.code == 0, "{joined:?}");
        let mut target = Target::read(&person.home.join("config/iceflix/client.toml"))?;
        let password = std::fs::read_to_string(first.state().join("admin.password"))?;
        let password = password.trim().to_owned();
        let state = person.home.join("people");
        let admin = Client::connect(&target, &state.join("admin")).await?;
        let instances = MACHINES * (3 * plan.per_machine + 1);
        let view = complete(&admin, instances as usize).await?;
        // People who were told of every Main.
        let mains = at(&view, Kind::Main);
        target.mains = mains.iter().map(SocketAddr::to_string).collect();
        admin.login("admin", &password).await?;
        let films = found(&admin, plan.films).await?;
        let instances = view.instances.iter();
        let instances = instances.map(|it| ((it.kind, it.instance.to_string()), it.endpoint));
        let world = Self {
            lan,
            machines,
            people: People { target, dir: state },
            films,
            laid: plan.films,
            watch: Watch::start(&admin, &mains),
            admin,
            instances: instances.collect(),
            password,
            per_machine,
        };
        world.whole(PATIENCE).await?;
        Ok(world)
    }

    /// Keeps what was logged on the machine whose disk is in memory, and goes with this process.
    pub fn keep_logs(&self) -> anyhow::Result<()> {
        let odd = self.machine(ODD);
        let kept = odd.home.join("log");
        std::fs::create_dir_all(&kept)?;
        for log in std::fs::read_dir(odd.state().join("log"))? {
            let log = log?;
            std::fs::copy(log.path(), kept.join(log.file_name()))?;
        }
        Ok(())
    }

    /// A machine with services.
    pub fn machine(&self, number: u32) -> &Machine {
        &self.machines[number as usize - 1]
    }

    /// All machines with services.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// The administrator's password.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// A machine's address.
    pub fn address(&self, number: u32) -> anyhow::Result<IpAddr> {
        Ok(self.machine(number).address().parse()?)
    }

    /// The films as they are to play while these machines' nodes are hit.
    pub fn showings(&self, hits: &[u32]) -> anyhow::Result<Vec<Showing>> {
        let places: Vec<&[u32]> = self.laid.iter().map(|film| film.places).collect();
        let films = self.films.iter().zip(seats(&places, hits));
        let showing = |((name, id), (machine, hit)): (&(&'static str, MediaId), (u32, bool))| {
            Ok(Showing {
                name,
                id: *id,
                at: self.address(machine)?,
                hit,
            })
        };
        films.map(showing).collect()
    }

    /// Starts a machine's services again, with these additions to their environment.
    ///
    /// # Errors
    /// When they do not become healthy.
    pub fn start_machine(&self, number: u32, env: &[(&str, String)]) -> anyhow::Result<()> {
        start(self.machine(number), &self.per_machine, None, env)
    }

    /// Stops a machine's services as its owner does.
    ///
    /// # Errors
    /// When that fails.
    pub fn stop_machine(&self, number: u32) -> anyhow::Result<()> {
        let told = self.machine(number).types(&["cluster", "stop"]);
        ensure!(told.code == 0, "{told:?}");
        Ok(())
    }

    /// The instances at a machine, as the directory that the administrator follows has them now.
    pub fn at_machine(&self, number: u32) -> anyhow::Result<Vec<Instance>> {
        let address = self.address(number)?;
        let view = self.admin.directory().borrow().clone();
        let mut all = view.instances.clone();
        all.retain(|it| it.endpoint.ip() == address);
        Ok(all)
    }

    /// A machine's instance of a kind (the first, when it has several).
    ///
    /// # Errors
    /// When the directory has none.
    pub fn instance(&self, number: u32, kind: Kind) -> anyhow::Result<Instance> {
        let all = self.at_machine(number)?.into_iter();
        let found = all
            .filter(|it| it.kind == kind)
            .min_by_key(|it| it.endpoint);
        found.with_context(|| format!("no {kind} is at machine {number}"))
    }

    /// Every instance that is alive, as the administrator's directory has it.
    pub fn lives(&self) -> BTreeSet<Life> {
        super::watch::lives(&self.admin.directory().borrow())
    }

    /// The Mains at machines other than these.
    pub fn mains(&self, but: &[u32]) -> Vec<SocketAddr> {
        let mains = self
            .instances
            .iter()
            .filter(|((kind, _), _)| *kind == Kind::Main);
        let away = |at: &&SocketAddr| {
            !but.iter().any(|number| {
                self.address(*number)
                    .is_ok_and(|address| address == at.ip())
            })
        };
        mains
            .map(|(_, endpoint)| endpoint)
            .filter(away)
            .copied()
            .collect()
    }

    /// The databases of a kind, of all machines.
    pub fn databases(&self, kind: Kind) -> Vec<PathBuf> {
        let states = self.machines.iter().map(Machine::state);
        states
            .flat_map(|state| rows::databases(&state, kind))
            .collect()
    }

    /// Waits until every Main's directory is the same and complete and every instance has the rows
    /// that are older than a second. What is wanting, when `patience` passes first.
    ///
    /// # Errors
    /// See there.
    pub async fn whole(&self, patience: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + patience;
        loop {
            let wanting = match self.directories().await {
                Ok(()) => self.rows(Some(SystemTime::now() - ON_ITS_WAY)),
                wanting => wanting,
            };
            match wanting {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Waits until every catalogue shows each film with all nodes that have it.
    ///
    /// # Errors
    /// When some does not by then.
    pub async fn all_provided(&self, patience: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + patience;
        let catalogues = self.instances.iter();
        let catalogues = catalogues.filter(|((kind, _), _)| *kind == Kind::Catalog);
        for ((_, catalogue), at) in catalogues {
            for ((name, id), film) in self.films.iter().zip(self.laid) {
                loop {
                    let shown = tile_at(&self.admin, *at, *id).await;
                    let providers = shown.map(|tile| tile.providers as usize);
                    match providers {
                        Ok(providers) if providers == film.places.len() => break,
                        shown if Instant::now() > end => {
                            bail!("at {catalogue} {name} has not all its nodes: {shown:?}")
                        }
                        _ => tokio::time::sleep(Duration::from_millis(50)).await,
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether every Main's directory is the same and complete.
    async fn directories(&self) -> anyhow::Result<()> {
        let ask = |main| {
            self.admin
                .caller()
                .call_at(main, DIRECTORY, |stub: MainClient, context| async move {
                    stub.directory(context, None).await
                })
        };
        let mains = self.mains(&[]);
        let asked = futures::future::join_all(mains.iter().map(|main| ask(*main))).await;
        let mut first = None;
        for (main, answer) in mains.iter().zip(asked) {
            let live = answer?
                .with_context(|| format!("{main} gave no directory"))?
                .instances;
            let known = live
                .iter()
                .map(|it| ((it.kind, it.instance.to_string()), it.endpoint));
            let known: BTreeMap<_, _> = known.collect();
            if known != self.instances {
                let missing = self
                    .instances
                    .keys()
                    .filter(|key| !known.contains_key(*key));
                bail!("{main} does not list {:?}", missing.collect::<Vec<_>>());
            }
            if let Some(gone) = live.iter().find(|it| it.draining || !runs(it.pid)) {
                bail!("{main} lists {gone:?}");
            }
            let pids: Vec<u32> = live.iter().map(|it| it.pid).collect();
            ensure!(
                *first.get_or_insert(pids.clone()) == pids,
                "{main} lists others"
            );
        }
        Ok(())
    }

    /// Whether all instances of a kind have the same rows; of those older than some time, when one
    /// is given.
    ///
    /// # Errors
    /// Which rows they do not have, or why that cannot be told.
    pub fn rows(&self, before: Option<SystemTime>) -> anyhow::Result<()> {
        for kind in rows::KINDS {
            let all = self.databases(kind);
            let all: Vec<rows::Rows> = all
                .iter()
                .map(|file| rows::read(file))
                .collect::<anyhow::Result<_>>()?;
            let wanted = self.instances.keys().filter(|(of, _)| *of == kind).count();
            ensure!(
                all.len() == wanted,
                "{} {kind} databases of {wanted}",
                all.len()
            );
            let differing = rows::differing(&all, before);
            let some: Vec<&String> = differing.iter().take(3).collect();
            ensure!(
                some.is_empty(),
                "{} rows of {kind} differ: {some:?}",
                differing.len()
            );
        }
        Ok(())
    }
}
