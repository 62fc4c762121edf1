//! How zenoh is set up.

use super::{BusConfig, BusError, access};
use crate::topics::Topics;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use zenoh::Config;

/// How long a silent link counts as alive, in milliseconds. Measured: a hang is noticed after
/// 0.8 s, a pulled cable after 1.0 s, and 32 busy loops on 2 cores raised no false alarm.
const LEASE_MS: u64 = 1000;

/// How many batches of 64 KiB wait at most for a link, of what is small and of what is large. With
/// zenoh's 2, a cable that was out for a moment held senders up. They are allocated when they are
/// needed.
const WAITING: [u64; 2] = [8, 4];

/// How long a stranger may take to show a certificate, in milliseconds: members take a few.
const HANDSHAKE_MS: u64 = 2000;

/// How addresses of the bus begin.
const SCHEME: &str = "tls/";

/// Where a session listens, with every port chosen.
#[derive(Debug, Clone)]
pub(super) struct Place {
    endpoints: Vec<String>,
    chosen: bool,
}

fn unusable(endpoint: &str, reason: impl ToString) -> BusError {
    BusError::Setting {
        key: "bus_listen",
        value: endpoint.to_owned(),
        reason: reason.to_string(),
    }
}

fn address(endpoint: &str) -> Result<SocketAddr, BusError> {
    endpoint
        .strip_prefix(SCHEME)
        .and_then(|address| address.parse().ok())
        .ok_or_else(|| unusable(endpoint, "not of the form tls/ADDRESS:PORT"))
}

impl Place {
    /// Where the configuration says. A port left open is chosen here, so that a later session of
    /// this node knows where the first one is.
    pub(super) fn first(config: &BusConfig) -> Result<Self, BusError> {
        Self::of(config, |port| port)
    }

    /// Elsewhere on the same addresses.
    pub(super) fn aside(config: &BusConfig) -> Result<Self, BusError> {
        Self::of(config, |_| 0)
    }

    fn of(config: &BusConfig, port: impl Fn(u16) -> u16) -> Result<Self, BusError> {
        let mut endpoints = Vec::new();
        // Held until all are chosen, so that none is chosen twice.
        let mut held = Vec::new();
        for endpoint in &config.listen {
            let mut address = address(endpoint)?;
            address.set_port(port(address.port()));
            if address.port() == 0 {
                let listener = TcpListener::bind(address);
                let listener = listener.map_err(|error| unusable(endpoint, error))?;
                let chosen = listener.local_addr();
                address = chosen.map_err(|error| unusable(endpoint, error))?;
                held.push(listener);
            }
            endpoints.push(format!("{SCHEME}{address}"));
        }
        let chosen = !held.is_empty();
        Ok(Self { endpoints, chosen })
    }

    /// Whether others may count on where this node listens.
    pub(super) fn is_fixed(config: &BusConfig) -> bool {
        let ports = config.listen.iter().map(|endpoint| address(endpoint));
        ports.flatten().any(|address| address.port() != 0)
    }

    /// Whether some port was open to choice.
    pub(super) fn is_chosen(&self) -> bool {
        self.chosen
    }

    pub(super) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }
}

/// The multicast group in which a cluster's nodes find each other: one of the 65,536 of
/// 239.255.0.0/16 (local scope, RFC 2365) by the cluster's name, so that clusters that share a
/// network do not connect to one another.
pub(super) fn multicast_group(cluster: &str) -> SocketAddrV4 {
    let hash = Sha256::digest(cluster.as_bytes());
    SocketAddrV4::new(Ipv4Addr::new(239, 255, hash[0], hash[1]), 7446)
}

/// The settings of a session that listens at `place` and also connects to `also`.
pub(super) fn zenoh(
    config: &BusConfig,
    place: &Place,
    also: &[String],
) -> Result<Config, BusError> {
    let mut zenoh = Config::default();
    let mut set = |key: &'static str, value: Value| {
        zenoh
            .insert_json5(key, &value.to_string())
            .map_err(|error| BusError::Setting {
                key,
                // Never a private key.
                value: match key {
                    TLS => "…".to_owned(),
                    _ => value.to_string(),
                },
                reason: error.to_string(),
            })
    };
    set("mode", "peer".into())?;
    let listen = place.endpoints.iter();
    let listen =
        listen.map(|endpoint| format!("{endpoint}#tls_handshake_timeout_ms={HANDSHAKE_MS}"));
    set("listen/endpoints", listen.collect::<Vec<_>>().into())?;
    set("listen/exit_on_failure", true.into())?;
    let connect: Vec<&String> = config.connect.iter().chain(also).collect();
    set("connect/endpoints", json!(connect))?;
    set("connect/exit_on_failure", false.into())?;
    // Never given up: a neighbour that starts later is met then.
    set("connect/timeout_ms", (-1).into())?;
    // One that is just starting is found soon, one that is gone costs little.
    set(
        "connect/retry",
        json!({ "period_init_ms": 100, "period_max_ms": 2000, "period_increase_factor": 1.5 }),
    )?;
    set("scouting/multicast/enabled", config.scouting.into())?;
    set(
        "scouting/multicast/interface",
        config.interface.clone().into(),
    )?;
    set(
        "scouting/multicast/address",
        multicast_group(&config.cluster).to_string().into(),
    )?;
    set("scouting/delay", 200.into())?;
    set("transport/link/tx/lease", LEASE_MS.into())?;
    set(
        "transport/link/tx/queue/congestion_control/block/wait_before_close",
        json!(config.link_patience.as_micros()),
    )?;
    let [small, large] = WAITING;
    set("transport/link/tx/queue/size/data", small.into())?;
    set("transport/link/tx/queue/size/data_low", large.into())?;
    // Whatever is said, nothing is spoken but TLS.
    set("transport/link/protocols", json!(["tls"]))?;
    set(
        "transport/link/rx/max_message_size",
        super::MAX_MESSAGE.into(),
    )?;
    set(TLS, tls(config))?;
    set(
        "access_control",
        access::control(&Topics::new(&config.cluster)),
    )?;
    Ok(zenoh)
}

const TLS: &str = "transport/link/tls";

fn tls(config: &BusConfig) -> Value {
    let credential = &config.credential;
    let encoded = |text: &str| BASE64_STANDARD.encode(text);
    let certificate = encoded(credential.certificate_pem());
    let key = encoded(credential.key_pem());
    json!({
        "root_ca_certificate_base64": encoded(credential.authority_pem()),
        "listen_certificate_base64": certificate,
        "listen_private_key_base64": key,
        "connect_certificate_base64": certificate,
        "connect_private_key_base64": key,
        "enable_mtls": true,
        // Nodes are found by address; that the authority signed for a role is what counts.
        "verify_name_on_connect": false,
        // Who is not renewed (any more) is gone from the bus then.
        "close_link_on_expiration": true,
    })
}
