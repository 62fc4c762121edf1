//! Streaming nodes for tests.

use crate::process::program;
use iceflix_core::{config::Common, span::Span};
use std::{path::Path, time::Duration};
use streaming_svc::{StreamingServer, library::LibraryConfig, probe::ProbeCommand};

/// Starts a streaming node whose files are examined as the real program does it.
pub async fn node(common: Common, media: &Path) -> StreamingServer {
    node_of(node_config(common, media)).await
}

/// What such a node is told.
pub fn node_config(common: Common, media: &Path) -> streaming_svc::Config {
    streaming_svc::Config {
        common,
        media: vec![media.to_owned()],
        // Tests that leave streams behind do not wait for them.
        drain_grace: Span::from_secs(0),
        ..streaming_svc::Config::default()
    }
}

/// The same, told something else.
pub async fn node_of(config: streaming_svc::Config) -> StreamingServer {
    let library = LibraryConfig {
        media: config.media.clone(),
        state_dir: config.common.state_dir.clone(),
        settle: Duration::from_millis(200),
        probe_command: ProbeCommand {
            program: program("iceflix-streaming"),
            limit: Duration::from_secs(30),
            ..ProbeCommand::default()
        },
        ..LibraryConfig::default()
    };
    StreamingServer::bind_with(config, library).await.unwrap()
}
