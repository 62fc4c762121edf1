//! retina: a strict client, which takes H.264, H.265 and AAC apart into frames.

use super::{PATIENCE, Transport};
use anyhow::{Context, Result, ensure};
use futures::StreamExt as _;
use retina::{
    client::{PlayOptions, Session, SessionOptions, SetupOptions, Transport as Wanted},
    codec::CodecItem,
};
use std::sync::Arc;
use tokio::time::timeout;

/// RTCP's packet type for "goodbye".
const BYE: u8 = 203;

/// What came of a film.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Received {
    /// Video frames.
    pub frames: usize,
    /// Those of them at which a decoder can begin.
    pub key_frames: usize,
    /// The time of the last video frame, in seconds after the first.
    pub last_s: f64,
    /// Packets of audio frames.
    pub audio: usize,
    /// Packets that did not come.
    pub lost: usize,
}

/// Receives a film until the server says goodbye for each track.
///
/// # Errors
/// When the session fails, or does not come to an end.
pub async fn play(url: &str, transport: Transport) -> Result<Received> {
    timeout(PATIENCE, receive(url, transport))
        .await
        .context("retina does not come to the end")?
}

async fn receive(url: &str, transport: Transport) -> Result<Received> {
    let sessions = Arc::new(retina::client::SessionGroup::default());
    let options = SessionOptions::default().session_group(Arc::clone(&sessions));
    let mut session = Session::describe(url.parse()?, options).await?;
    let tracks = session.streams().len();
    ensure!(tracks > 0, "no tracks");
    for track in 0..tracks {
        let wanted: Wanted = transport.name().parse()?;
        let options = SetupOptions::default().transport(wanted);
        session.setup(track, options).await?;
    }
    let mut items = session.play(PlayOptions::default()).await?.demuxed()?;
    let mut received = Received::default();
    let mut goodbyes = 0;
    while goodbyes < tracks {
        match items.next().await.context("the session ended first")?? {
            CodecItem::VideoFrame(frame) => {
                received.frames += 1;
                received.key_frames += usize::from(frame.is_random_access_point());
                // Frames are not sent in the order in which they are shown.
                received.last_s = received.last_s.max(frame.timestamp().elapsed_secs());
                received.lost += usize::from(frame.loss());
            }
            CodecItem::AudioFrame(frame) => {
                received.audio += 1;
                received.lost += usize::from(frame.loss());
            }
            CodecItem::Rtcp(packets) => {
                goodbyes += packets
                    .pkts()
                    .filter(|packet| packet.payload_type() == BYE)
                    .count();
            }
            _ => {}
        }
    }
    drop(items);
    sessions.await_teardown().await?;
    Ok(received)
}
