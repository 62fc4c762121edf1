//! What was asked for, checked.

use super::{Failure, RunArgs, media, plan::Record, state::State};
use anyhow::{Context, anyhow};
use iceflix_core::{api::InstanceId, trust::Invitation};
use std::{
    ffi::OsStr,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Arguments that make sense.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where everything is kept.
    pub state: State,
    /// How many of main, auth and catalog.
    pub instances: u32,
    /// Directories with films.
    pub media: Vec<PathBuf>,
    /// Where everything listens.
    pub host: IpAddr,
    /// That was given now, and is to be kept.
    pub host_given: bool,
    /// The cluster's name, if it was chosen.
    pub cluster: Option<String>,
    /// Mains on other machines, known since this one was let in.
    pub known_mains: Vec<SocketAddr>,
    /// Where the services' programs are.
    pub bin_dir: PathBuf,
}

/// The absolute path of a state directory as it was typed.
pub fn state_of(typed: &Path) -> Result<State, Failure> {
    if typed.as_os_str().is_empty() {
        return Err(Failure::Usage("STATE is empty; name a directory".into()));
    }
    if typed.to_str().is_none() {
        return Err(Failure::Usage(format!(
            "the state directory {} has a name that is not UTF-8; choose another",
            typed.display()
        )));
    }
    let base = std::env::current_dir().context("cannot tell the current directory")?;
    let dir = media::absolute(typed, &base, std::env::home_dir().as_deref());
    if dir.to_str().is_none() {
        return Err(Failure::Usage(format!(
            "the path {} is not UTF-8; choose a state directory elsewhere",
            dir.display()
        )));
    }
    Ok(State::new(dir))
}

impl Settings {
    /// Checks what was typed.
    pub fn from_args(args: &RunArgs) -> Result<Self, Failure> {
        let base = std::env::current_dir().context("cannot tell the current directory")?;
        let home = std::env::home_dir();
        let list = args.media.join(OsStr::from_bytes(b":"));
        let bin_dir = match &args.bin_dir {
            Some(dir) => base.join(dir),
            None => std::env::current_exe()
                .context("cannot tell where this program is")?
                .parent()
                .ok_or_else(|| anyhow!("cannot tell where this program is"))?
                .to_owned(),
        };
        if let Some(name) = &args.cluster
            && name.parse::<InstanceId>().is_err()
        {
            return Err(Failure::Usage(format!(
                "CLUSTER is 1 to 64 of a-z, 0-9 and '-', not {name:?}"
            )));
        }
        let state = state_of(&args.state)?;
        let (kept, joined) = match state.known_record()? {
            Some(record) => (record.host, record.joined),
            None => (None, None),
        };
        let towards = match &args.join {
            Some(Invitation::Machine { issuer, .. }) => Some(*issuer),
            _ => joined.as_ref().map(|joined| joined.issuer),
        };
        Ok(Self {
            state,
            instances: args.instances,
            media: media::split(&list, &base, home.as_deref()).map_err(Failure::Usage)?,
            host: match (&args.host, kept, towards) {
                (Some(typed), _, _) => host(typed)?,
                (None, Some(kept), _) => kept,
                (None, None, Some(issuer)) => towards_it(issuer)?,
                (None, None, None) => Ipv4Addr::LOCALHOST.into(),
            },
            host_given: args.host.is_some(),
            known_mains: joined.map_or_else(Vec::new, |joined| joined.mains),
            cluster: args.cluster.clone(),
            bin_dir,
        })
    }

    /// Keeps the host in the record if it was given now.
    pub fn keep_host(&self, record: &mut Record) {
        if self.host_given {
            record.host = Some(self.host);
        }
    }
}

/// The address of this machine's by which a machine of the cluster is reached, and which is
/// therefore the one by which it reaches this machine. Nothing is sent.
fn towards_it(issuer: SocketAddr) -> Result<IpAddr, Failure> {
    let any: SocketAddr = match issuer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let own = UdpSocket::bind(any)
        .and_then(|socket| socket.connect(issuer).and_then(|()| socket.local_addr()))
        .with_context(|| {
            format!("{issuer} cannot be reached from here; give this machine's address with HOST")
        })?;
    Ok(own.ip())
}

/// The address to listen on.
fn host(typed: &str) -> Result<IpAddr, Failure> {
    let address = match typed {
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        _ => typed.parse::<IpAddr>().map_err(|_| {
            Failure::Usage(format!(
                "HOST is an IP address such as 127.0.0.1, not {typed:?}"
            ))
        })?,
    };
    if address.is_unspecified() || address.is_multicast() {
        return Err(Failure::Usage(format!(
            "HOST is the one address by which clients reach this machine, not {address}"
        )));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(result: Result<IpAddr, Failure>) -> String {
        match result {
            Err(Failure::Usage(text)) => text,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn one_address_is_taken() {
        for good in ["127.0.0.1", "127.9.0.1", "::1", "localhost", "192.168.1.5"] {
            assert!(host(good).is_ok(), "{good}");
        }
        assert!(refusal(host("my-machine")).contains("IP address"));
        for bad in ["0.0.0.0", "::", "224.0.0.1"] {
            assert!(refusal(host(bad)).contains(&format!("not {bad}")));
        }
    }
}
