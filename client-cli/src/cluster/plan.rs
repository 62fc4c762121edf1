//! Which instances a cluster has, and what each keeps from one start to the next.

use iceflix_core::{api::Kind, trust::Credential};
use serde::{Deserialize, Serialize};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

/// What `STATE/cluster.toml` holds: every instance this state directory ever had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The cluster's name.
    pub cluster: String,
    /// Where everything listens, since it was given once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<IpAddr>,
    /// Which cluster of another machine's this one has joined, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined: Option<Joined>,
    /// The instances, in the order in which they were made.
    #[serde(default, rename = "instance")]
    pub instances: Vec<Entry>,
}

/// What a machine that was invited knows of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Joined {
    /// What its instances may be.
    pub roles: Vec<Kind>,
    /// The authenticator that let it in.
    pub issuer: SocketAddr,
    /// Where it meets the cluster's bus if multicast does not work.
    pub bus: Vec<String>,
    /// The cluster's Mains at that time.
    pub mains: Vec<SocketAddr>,
}

impl Record {
    /// A cluster's, without any instance yet.
    pub fn new(cluster: String) -> Self {
        Self {
            cluster,
            host: None,
            joined: None,
            instances: Vec::new(),
        }
    }

    /// The kinds that this machine may run.
    pub fn roles(&self) -> &[Kind] {
        match &self.joined {
            Some(joined) => &joined.roles,
            None => &Kind::ALL,
        }
    }
}

/// One instance: who it is and where it listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Its number among its kind, from 1.
    pub number: u32,
    /// Its name in the cluster.
    pub instance: String,
    /// Where it answers calls.
    pub port: u16,
    /// Where it is reached by the bus.
    pub bus_port: u16,
    /// Where it delivers films; streaming only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtsp_port: Option<u16>,
    /// The directory with its films; streaming only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<PathBuf>,
}

impl Entry {
    /// The name of its files in the state directory: `auth-1`.
    pub fn name(&self) -> String {
        format!("{}-{}", self.kind, self.number)
    }

    /// Whether a certificate is for this very instance.
    pub fn is_named_in(&self, credential: &Credential) -> bool {
        let name = credential.name();
        name.kind == self.kind && name.instance.as_str() == self.instance
    }
}

/// Where new instances get what must be theirs alone.
pub trait Source {
    /// A port that is free and that no instance of the record has.
    fn port(&mut self) -> io::Result<u16>;
    /// Eight random hexadecimal digits.
    fn suffix(&mut self) -> String;
}

/// The kinds of which a cluster has `INSTANCES` each.
const COUNTED: [Kind; 3] = [Kind::Main, Kind::Auth, Kind::Catalog];

/// Chooses the instances to run: `instances` of main, auth and catalog and one streaming node for
/// each directory of `media`; on a machine that was invited, of the kinds that it was invited for. Known ones keep name and ports, missing ones are added to the record,
/// surplus ones stay in it for another time. A directory keeps its node.
pub fn choose(
    record: &mut Record,
    instances: u32,
    media: &[PathBuf],
    source: &mut impl Source,
) -> io::Result<Vec<Entry>> {
    let mut chosen = Vec::new();
    let allowed = record.roles().to_vec();
    for kind in COUNTED.into_iter().filter(|kind| allowed.contains(kind)) {
        for number in 1..=instances {
            let known = record
                .instances
                .iter()
                .find(|entry| entry.kind == kind && entry.number == number);
            chosen.push(match known {
                Some(entry) => entry.clone(),
                None => add(record, kind, number, None, source)?,
            });
        }
    }
    for dir in media {
        let known = record
            .instances
            .iter()
            .find(|entry| entry.kind == Kind::Streaming && entry.media.as_ref() == Some(dir));
        chosen.push(match known {
            Some(entry) => entry.clone(),
            None => {
                let streaming = record.instances.iter();
                let last = streaming
                    .filter(|entry| entry.kind == Kind::Streaming)
                    .map(|entry| entry.number)
                    .max();
                let number = last.unwrap_or(0).saturating_add(1);
                add(record, Kind::Streaming, number, Some(dir.clone()), source)?
            }
        });
    }
    Ok(chosen)
}

/// A name that no instance of the cluster has had.
fn new_name(kind: Kind, number: u32, source: &mut impl Source) -> String {
    format!("{kind}-{number}-{}", source.suffix())
}

/// Gives an instance of the record a new name; its ports and files stay.
pub fn rename(record: &mut Record, entry: &mut Entry, source: &mut impl Source) {
    entry.instance = new_name(entry.kind, entry.number, source);
    let same = |known: &&mut Entry| known.name() == entry.name();
    if let Some(known) = record.instances.iter_mut().find(same) {
        known.instance.clone_from(&entry.instance);
    }
}

fn add(
    record: &mut Record,
    kind: Kind,
    number: u32,
    media: Option<PathBuf>,
    source: &mut impl Source,
) -> io::Result<Entry> {
    let entry = Entry {
        kind,
        number,
        instance: new_name(kind, number, source),
        port: source.port()?,
        bus_port: source.port()?,
        rtsp_port: match kind {
            Kind::Streaming => Some(source.port()?),
            _ => None,
        },
        media,
    };
    record.instances.push(entry.clone());
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// Counts up, so that nothing comes twice.
    struct Counter(u16);

    impl Source for Counter {
        fn port(&mut self) -> io::Result<u16> {
            self.0 += 1;
            Ok(self.0)
        }
        fn suffix(&mut self) -> String {
            self.0 += 1;
            format!("{:08x}", self.0)
        }
    }

    fn empty() -> Record {
        Record::new("iceflix-test".to_owned())
    }

    fn names(entries: &[Entry]) -> Vec<String> {
        entries.iter().map(Entry::name).collect()
    }

    #[test]
    fn a_first_start_makes_all() {
        let mut record = empty();
        let media = ["/a".into(), "/b".into()];
        let chosen = choose(&mut record, 2, &media, &mut Counter(1000)).unwrap();
        assert_eq!(
            names(&chosen),
            [
                "main-1",
                "main-2",
                "auth-1",
                "auth-2",
                "catalog-1",
                "catalog-2",
                "streaming-1",
                "streaming-2"
            ]
        );
        assert_eq!(record.instances, chosen);
        assert_eq!(chosen[7].media, Some("/b".into()));
        assert!(chosen[0].rtsp_port.is_none() && chosen[6].rtsp_port.is_some());
    }

    #[test]
    fn fewer_then_more_are_the_same_ones() {
        let (mut record, mut source) = (empty(), Counter(1000));
        let first = choose(&mut record, 3, &[], &mut source).unwrap();
        let fewer = choose(&mut record, 1, &[], &mut source).unwrap();
        assert_eq!(names(&fewer), ["main-1", "auth-1", "catalog-1"]);
        assert_eq!(choose(&mut record, 3, &[], &mut source).unwrap(), first);
    }

    #[test]
    fn a_directory_keeps_its_node() {
        let (mut record, mut source) = (empty(), Counter(1000));
        let (a, b): (PathBuf, PathBuf) = ("/a".into(), "/b".into());
        let first = choose(&mut record, 1, std::slice::from_ref(&a), &mut source).unwrap();
        let second = choose(&mut record, 1, &[b.clone(), a], &mut source).unwrap();
        assert_eq!(first.last(), second.last());
        let third = choose(&mut record, 1, &[b], &mut source).unwrap();
        assert_eq!(third.last().unwrap().name(), "streaming-2");
    }

    #[test]
    fn the_record_reads_back_what_it_wrote() {
        let mut record = empty();
        choose(&mut record, 2, &["/films: all".into()], &mut Counter(9)).unwrap();
        let text = toml::to_string(&record).unwrap();
        assert_eq!(toml::from_str::<Record>(&text).unwrap(), record);
        assert!(toml::from_str::<Record>(&format!("colour = 1\n{text}")).is_err());
    }

    #[test]
    fn a_new_name_changes_nothing_else() {
        let (mut record, mut source) = (empty(), Counter(1000));
        let mut chosen = choose(&mut record, 2, &["/a".into()], &mut source).unwrap();
        let before = record.clone();
        rename(&mut record, &mut chosen[3], &mut source);
        assert_eq!(record.instances, chosen);
        let changed: Vec<_> = (0..record.instances.len())
            .filter(|at| record.instances[*at] != before.instances[*at])
            .collect();
        assert_eq!(changed, [3]);
        let (old, new) = (&before.instances[3], &record.instances[3]);
        assert_ne!(old.instance, new.instance);
        assert_eq!((old.name(), old.port), (new.name(), new.port));
    }

    #[test]
    fn an_invited_machine_runs_what_it_was_invited_for() {
        let mut record = empty();
        record.joined = Some(Joined {
            roles: vec![Kind::Catalog, Kind::Streaming],
            issuer: "10.0.0.1:7000".parse().unwrap(),
            bus: vec!["tls/10.0.0.1:7001".into()],
            mains: Vec::new(),
        });
        let chosen = choose(&mut record, 2, &["/a".into()], &mut Counter(1000)).unwrap();
        assert_eq!(names(&chosen), ["catalog-1", "catalog-2", "streaming-1"]);
        let text = toml::to_string(&record).unwrap();
        assert_eq!(toml::from_str::<Record>(&text).unwrap(), record);
    }

    proptest! {
        /// Whatever is asked for in turn: instances never change, share nothing, and are those asked for.
        #[test]
        fn plans_are_stable(steps in proptest::collection::vec(
            (1u32..6, proptest::collection::hash_set(0u8..6, 0..5)), 1..8)) {
            let (mut record, mut source) = (empty(), Counter(1000));
            for (instances, dirs) in steps {
                let media: Vec<PathBuf> = dirs.iter().map(|n| format!("/m{n}").into()).collect();
                let before = record.instances.clone();
                let chosen = choose(&mut record, instances, &media, &mut source).unwrap();
                prop_assert_eq!(&record.instances[..before.len()], &before[..]);
                prop_assert_eq!(chosen.len(), 3 * instances as usize + media.len());
                prop_assert!(chosen.iter().all(|entry| record.instances.contains(entry)));
                let served: Vec<_> = chosen.iter().filter_map(|e| e.media.clone()).collect();
                prop_assert_eq!(served, media);
                let mut ports = HashSet::new();
                let mut names = HashSet::new();
                for entry in &record.instances {
                    prop_assert!(names.insert(entry.name()));
                    for port in [Some(entry.port), Some(entry.bus_port), entry.rtsp_port] {
                        prop_assert!(port.is_none_or(|port| ports.insert(port)));
                    }
                }
            }
        }
    }
}
