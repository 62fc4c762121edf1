//! Players of RTSP, as users have them: ffmpeg, GStreamer's, retina, and a bare client that shows
//! what goes over the wire.

pub mod ffmpeg;
pub mod gstreamer;
pub mod retina;
pub mod rtsp;
pub mod viewer;

use std::time::Duration;

/// For how long a player may take, whatever it does: a clip plays for four seconds.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How the packets of a stream travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Inside the RTSP connection.
    Tcp,
    /// As datagrams.
    Udp,
}

impl Transport {
    /// Both.
    pub const BOTH: [Transport; 2] = [Transport::Tcp, Transport::Udp];

    /// Its name, as players write it.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        }
    }
}
