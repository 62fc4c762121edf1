//! The services of a cluster: which they are, and the files that tell them and clients what to do.

use super::{
    Failure,
    client::ClientConfig,
    plan,
    plan::{Entry, Record},
    ports::{self, Ports},
    settings::Settings,
    state::{private_dir, write_private},
};
use anyhow::{Context, anyhow};
use iceflix_core::api::Kind;
use serde::Serialize;
use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// A service to run.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its place in the plan.
    pub entry: Entry,
    /// `auth-1`: what its files are called.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    /// Its certificate.
    pub identity: PathBuf,
    /// Where its output goes.
    pub log: PathBuf,
}

/// A service's configuration file.
#[derive(Serialize)]
struct ServiceConfig<'a> {
    cluster: &'a str,
    instance: &'a str,
    listen: String,
    state_dir: PathBuf,
    bus_listen: Vec<String>,
    bus_connect: Vec<String>,
    bus_scouting: bool,
    log: &'a str,
    log_format: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    admin_password_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    media: Option<Vec<PathBuf>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtsp_listen: Option<String>,
}

impl Settings {
    /// Decides which instances run and writes the files of all. The state must be locked.
    pub fn prepare(&self) -> Result<(Record, Vec<Service>), Failure> {
        let mut record = self.state.record(self.cluster.as_deref())?;
        self.keep_host(&mut record);
        let mut source = Ports::new(self.host, &record);
        let chosen = plan::choose(&mut record, self.instances, &self.media, &mut source)
            .with_context(|| format!("cannot find free ports on {}", self.host))?;
        let services: Vec<Service> = chosen
            .into_iter()
            .map(|entry| self.service(entry))
            .collect();
        self.check_programs(&services)?;
        self.write_record(&record)?;
        self.check_ports(&services)?;
        let ca = self.certify(&record, &services)?;
        // On the others the users come from the authenticators that there are.
        if record.joined.is_none() {
            self.state.make_password()?;
        }
        for service in &services {
            self.write_config(&record, service, &services)?;
            self.state.rotate_log(&service.name)?;
        }
        let client = ClientConfig {
            cluster: &record.cluster,
            ca: ca.to_string(),
            mains: {
                let mut mains = self.mains(&services);
                mains.extend(&self.known_mains);
                mains.dedup();
                mains.iter().map(SocketAddr::to_string).collect()
            },
        };
        client.write(
            &self.state.client_config(),
            "Where clients find the cluster. Written anew at each start.",
        )?;
        Ok((record, services))
    }

    /// Where the Mains among the services answer; on a machine without one, those it knows of.
    pub fn mains(&self, services: &[Service]) -> Vec<SocketAddr> {
        let own: Vec<SocketAddr> = services
            .iter()
            .filter(|service| service.entry.kind == Kind::Main)
            .map(|service| self.at(service.entry.port))
            .collect();
        match own.is_empty() {
            false => own,
            true => self.known_mains.clone(),
        }
    }

    /// Writes down what the cluster is made of here.
    pub(super) fn write_record(&self, record: &Record) -> anyhow::Result<()> {
        write_toml(
            &self.state.file("cluster.toml"),
            "The cluster's name, its instances and their ports, kept from one start to the next.\n\
             # Change a port here if another program has taken it.",
            record,
        )
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.host, port)
    }

    pub(super) fn service(&self, entry: Entry) -> Service {
        let name = entry.name();
        Service {
            program: self.bin_dir.join(format!("iceflix-{}", entry.kind)),
            config: self.state.file(&format!("{name}.toml")),
            identity: self.state.identity(&name),
            log: self.state.log(&name),
            name,
            entry,
        }
    }

    fn check_programs(&self, services: &[Service]) -> Result<(), Failure> {
        match services.iter().find(|service| !service.program.is_file()) {
            None => Ok(()),
            Some(service) => Err(anyhow!(
                "{} is missing; build it with: make build",
                service.program.display()
            )
            .into()),
        }
    }

    fn check_ports(&self, services: &[Service]) -> Result<(), Failure> {
        let mut seen = HashSet::new();
        for service in services {
            let entry = &service.entry;
            for port in [Some(entry.port), Some(entry.bus_port), entry.rtsp_port] {
                let Some(port) = port else { continue };
                let twice = !seen.insert(port);
                let problem = match ports::check(self.at(port)) {
                    Ok(()) if twice => "two instances have it".to_owned(),
                    Ok(()) => continue,
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                        "another program uses it".to_owned()
                    }
                    Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                        return Err(anyhow!(
                            "this machine has no address {}; give the one by which others reach it with \
                             HOST=ADDRESS",
                            self.host
                        )
                        .into());
                    }
                    Err(error) => error.to_string(),
                };
                return Err(anyhow!(
                    "{} cannot listen on {}: {problem}. End that program, or change the port of {} in {}",
                    service.name,
                    self.at(port),
                    service.name,
                    self.state.file("cluster.toml").display(),
                )
                .into());
            }
        }
        Ok(())
    }

    fn write_config(
        &self,
        record: &Record,
        service: &Service,
        all: &[Service],
    ) -> anyhow::Result<()> {
        let entry = &service.entry;
        let state_dir = self.state.file(&service.name);
        private_dir(&state_dir)?;
        let bus = |entry: &Entry| format!("tls/{}", self.at(entry.bus_port));
        let others = all.iter().filter(|other| other.name != service.name);
        let beyond = record.joined.iter().flat_map(|joined| joined.bus.clone());
        let first = record.joined.is_none();
        let config = ServiceConfig {
            cluster: &record.cluster,
            instance: &entry.instance,
            listen: self.at(entry.port).to_string(),
            state_dir,
            bus_listen: vec![bus(entry)],
            bus_connect: others
                .map(|other| bus(&other.entry))
                .chain(beyond)
                .collect(),
            bus_scouting: true,
            log: "info",
            log_format: "text",
            admin_password_file: (entry.kind == Kind::Auth && first).then(|| self.state.password()),
            media: entry.media.clone().map(|dir| vec![dir]),
            rtsp_listen: entry.rtsp_port.map(|port| self.at(port).to_string()),
        };
        write_toml(
            &service.config,
            "Written anew at each start of the cluster, from cluster.toml and the command line.",
            &config,
        )
    }
}

pub(super) fn write_toml(path: &Path, comment: &str, value: &impl Serialize) -> anyhow::Result<()> {
    let text = toml::to_string(value)
        .with_context(|| format!("cannot put {} into words", path.display()))?;
    write_private(path, &format!("# {comment}\n\n{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{RunArgs, state::State};
    use clap::Parser;
    use iceflix_core::trust::Credential;
    use std::net::Ipv4Addr;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: RunArgs,
    }

    fn settings(dir: &Path) -> Settings {
        for kind in Kind::ALL {
            std::fs::write(dir.join(format!("iceflix-{kind}")), "").unwrap();
        }
        let state = State::new(dir.join("state"));
        state.create().unwrap();
        Settings {
            state,
            instances: 2,
            media: vec!["/films/a b".into()],
            host: Ipv4Addr::LOCALHOST.into(),
            host_given: false,
            cluster: None,
            known_mains: Vec::new(),
            bin_dir: dir.to_owned(),
        }
    }

    #[test]
    fn every_instance_gets_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let (record, services) = settings.prepare().unwrap();
        let read = |name: &str| -> toml::Table {
            let text = std::fs::read_to_string(settings.state.file(name)).unwrap();
            toml::from_str(&text).unwrap()
        };
        let auth = read("auth-2.toml");
        assert_eq!(auth["cluster"].as_str(), Some(record.cluster.as_str()));
        assert_eq!(
            auth["instance"].as_str(),
            Some(services[3].entry.instance.as_str())
        );
        assert_eq!(
            auth["admin_password_file"].as_str(),
            settings.state.password().to_str()
        );
        assert_eq!(auth["bus_connect"].as_array().unwrap().len(), 6);
        assert!(!auth.contains_key("media"));
        let streaming = read("streaming-1.toml");
        assert_eq!(
            streaming["media"].as_array().unwrap()[0].as_str(),
            Some("/films/a b")
        );
        assert!(
            streaming["rtsp_listen"]
                .as_str()
                .unwrap()
                .starts_with("127.0.0.1:")
        );
        assert!(!streaming.contains_key("admin_password_file"));
        let mains = settings.mains(&services);
        let client = read("client.toml");
        let listed: Vec<_> = client["mains"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m.as_str())
            .collect();
        assert_eq!(
            listed,
            mains
                .iter()
                .map(SocketAddr::to_string)
                .collect::<Vec<_>>()
                .iter()
                .map(|m| Some(m.as_str()))
                .collect::<Vec<_>>()
        );
        assert_eq!(
            read("main-1.toml")["listen"].as_str(),
            Some(mains[0].to_string().as_str())
        );

        let (again, same) = settings.prepare().unwrap();
        assert_eq!(again, record);
        assert_eq!(same.len(), services.len());
    }

    #[test]
    fn a_port_taken_meanwhile_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let (_, services) = settings.prepare().unwrap();
        let port = services[2].entry.port;
        let _other = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        let Err(Failure::Failed(error)) = settings.prepare() else {
            panic!("the port is in use");
        };
        let text = error.to_string();
        for part in [
            "auth-1",
            &port.to_string(),
            "cluster.toml",
            "another program",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_lost_record_costs_names_and_ports_and_not_the_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let (first, _) = settings.prepare().unwrap();
        let known = std::fs::read_to_string(settings.state.client_config()).unwrap();
        let ca = |text: &str| toml::from_str::<toml::Table>(text).unwrap()["ca"].clone();
        std::fs::remove_file(settings.state.file("cluster.toml")).unwrap();
        let (second, services) = settings.prepare().unwrap();
        assert_eq!(second.cluster, first.cluster);
        assert_ne!(second.instances, first.instances);
        let now = std::fs::read_to_string(settings.state.client_config()).unwrap();
        assert_eq!(ca(&now), ca(&known), "clients know it by that");
        for service in services {
            let credential = Credential::load(&service.identity).unwrap();
            assert_eq!(
                credential.name().instance.as_str(),
                service.entry.instance,
                "{}",
                service.name
            );
        }
    }

    #[test]
    fn an_address_that_was_given_once_is_kept_until_another_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(dir.path());
        settings.prepare().unwrap();
        assert_eq!(settings.state.existing().unwrap().host, None);
        settings.host = Ipv4Addr::new(127, 0, 0, 2).into();
        settings.host_given = true;
        settings.prepare().unwrap();
        let state = settings.state.dir().to_owned();
        let args = |words: &[&str]| {
            let line = ["x", "--state", state.to_str().unwrap(), "--bin-dir", "/b"];
            Line::try_parse_from(line.iter().chain(words)).unwrap().args
        };
        let again = Settings::from_args(&args(&[])).unwrap();
        assert_eq!((again.host, again.host_given), (settings.host, false));
        let other = Settings::from_args(&args(&["--host", "127.0.0.3"])).unwrap();
        assert_eq!(other.host, Ipv4Addr::new(127, 0, 0, 3));
        let mut record = settings.state.existing().unwrap();
        other.keep_host(&mut record);
        assert_eq!(record.host, Some(other.host));

        // One that this machine does not have any more is said to be that.
        settings.host = Ipv4Addr::new(203, 0, 113, 9).into();
        let Err(Failure::Failed(error)) = settings.prepare() else {
            panic!("nothing can listen there");
        };
        assert!(error.to_string().contains("HOST=ADDRESS"), "{error}");
    }

    #[test]
    fn missing_programs_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        std::fs::remove_file(dir.path().join("iceflix-catalog")).unwrap();
        let Err(Failure::Failed(error)) = settings.prepare() else {
            panic!("a program is missing");
        };
        assert!(error.to_string().contains("make build"));
    }
}
