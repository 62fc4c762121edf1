//! Free ports for new instances.

use super::plan::{Record, Source};
use std::{
    collections::HashSet,
    io,
    net::{IpAddr, SocketAddr, TcpListener},
};

/// Finds ports on one address.
pub struct Ports {
    host: IpAddr,
    taken: HashSet<u16>,
    below: u16,
}

/// Ports are chosen from here up to where the system's ephemeral ports begin: an outgoing
/// connection must not sit on an instance's port while that instance is restarting.
const LOWEST: u16 = 15_000;

/// Where Linux has its ephemeral ports begin unless told otherwise.
const EPHEMERAL: u16 = 32_768;

impl Ports {
    /// Ports on `host` that no instance of `record` has.
    pub fn new(host: IpAddr, record: &Record) -> Self {
        let of_entry =
            |entry: &super::plan::Entry| [Some(entry.port), Some(entry.bus_port), entry.rtsp_port];
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        Self {
            host,
            taken: record
                .instances
                .iter()
                .flat_map(of_entry)
                .flatten()
                .collect(),
            below: range
                .ok()
                .and_then(|text| text.split_whitespace().next()?.parse().ok())
                .unwrap_or(EPHEMERAL),
        }
    }
}

/// Whether something can listen there now; the error says why not.
pub fn check(address: SocketAddr) -> io::Result<()> {
    TcpListener::bind(address).map(drop)
}

impl Source for Ports {
    fn port(&mut self) -> io::Result<u16> {
        // Some systems leave little room below the ephemeral ports: then one of those has to do.
        let roomy = self.below > LOWEST + 1000;
        for _ in 0..1000 {
            let wanted = if roomy {
                rand::random_range(LOWEST..self.below)
            } else {
                0
            };
            let port = match TcpListener::bind((self.host, wanted)) {
                Ok(listener) => listener.local_addr()?.port(),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
                Err(error) => return Err(error),
            };
            if self.taken.insert(port) {
                return Ok(port);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "no free port was found",
        ))
    }

    fn suffix(&mut self) -> String {
        hex::encode(rand::random::<[u8; 4]>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn ports_are_free_and_all_different() {
        let record = Record::new("c".to_owned());
        let mut ports = Ports::new(Ipv4Addr::LOCALHOST.into(), &record);
        let found: HashSet<u16> = (0..50).map(|_| ports.port().unwrap()).collect();
        assert_eq!(found.len(), 50);
        assert_ne!(ports.suffix(), ports.suffix());
    }

    #[test]
    fn a_port_in_use_is_noticed() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let error = check(listener.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
