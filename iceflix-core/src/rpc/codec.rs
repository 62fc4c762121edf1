//! Frames to messages and back: bincode, bounded, and safe against what tarpc's own types are not.

use bincode::Options;
use serde::{Deserialize, Serialize};
use std::{
    io,
    pin::Pin,
    time::{Duration, Instant},
};
use tarpc::{ClientMessage, Request, context, trace};
use tokio_util::{
    bytes::{Bytes, BytesMut},
    codec::{Decoder as _, Framed, LengthDelimitedCodec},
};

use super::{frames::Frames, link::Io};
use crate::api::MAX_FRAME;

/// The longest deadline that a request may bring. tarpc adds what it reads to the clock, which
/// panics when the sum is beyond it.
const MAX_DEADLINE: Duration = Duration::from_secs(120);

/// The room for what arrives that a connection begins with, in bytes: for a common request.
const INITIAL_BUFFER: usize = 1 << 10;

fn bincode() -> impl Options {
    bincode::DefaultOptions::new()
        .with_limit(MAX_FRAME as u64)
        .with_fixint_encoding()
}

fn invalid(error: bincode::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Cuts a stream of bytes into frames of at most [`MAX_FRAME`].
pub fn framed(io: Box<dyn Io>) -> Framed<Box<dyn Io>, LengthDelimitedCodec> {
    LengthDelimitedCodec::builder()
        .max_frame_length(MAX_FRAME)
        .new_framed(io)
}

/// The same, for bytes from anybody.
pub fn framed_from_anybody(io: Box<dyn Io>) -> Framed<Box<dyn Io>, Frames> {
    Framed::with_capacity(io, Frames::new(MAX_FRAME), INITIAL_BUFFER)
}

/// Reads whatever a connection might bring, as a service that takes `Req` does, and says how many
/// messages were in it. For fuzzing.
pub fn read_all<Req: for<'a> Deserialize<'a>>(bytes: &[u8]) -> usize {
    let mut unread = BytesMut::from(bytes);
    let mut frames = Frames::new(MAX_FRAME);
    let mut messages = 0;
    while let Ok(Some(frame)) = frames.decode(&mut unread) {
        let message: io::Result<ClientMessage<Req>> =
            tokio_serde::Deserializer::deserialize(Pin::new(&mut ServerCodec), &frame);
        messages += usize::from(message.is_ok());
    }
    messages
}

/// The caller's side: any message both ways.
#[derive(Debug, Default, Clone, Copy)]
pub struct ClientCodec;

impl<T: Serialize> tokio_serde::Serializer<T> for ClientCodec {
    type Error = io::Error;

    fn serialize(self: Pin<&mut Self>, message: &T) -> io::Result<Bytes> {
        bincode()
            .serialize(message)
            .map(Bytes::from)
            .map_err(invalid)
    }
}

impl<T: for<'a> Deserialize<'a>> tokio_serde::Deserializer<T> for ClientCodec {
    type Error = io::Error;

    fn deserialize(self: Pin<&mut Self>, frame: &BytesMut) -> io::Result<T> {
        bincode().deserialize(frame).map_err(invalid)
    }
}

/// The service's side: reads requests whose deadline is clamped.
#[derive(Debug, Default, Clone, Copy)]
pub struct ServerCodec;

impl<T: Serialize> tokio_serde::Serializer<T> for ServerCodec {
    type Error = io::Error;

    fn serialize(self: Pin<&mut Self>, message: &T) -> io::Result<Bytes> {
        bincode()
            .serialize(message)
            .map(Bytes::from)
            .map_err(invalid)
    }
}

impl<Req: for<'a> Deserialize<'a>> tokio_serde::Deserializer<ClientMessage<Req>> for ServerCodec {
    type Error = io::Error;

    fn deserialize(self: Pin<&mut Self>, frame: &BytesMut) -> io::Result<ClientMessage<Req>> {
        let message: Incoming<Req> = bincode().deserialize(frame).map_err(invalid)?;
        Ok(message.into())
    }
}

/// [`ClientMessage`] as it is on the wire, with the deadline still a duration.
#[derive(Deserialize)]
enum Incoming<Req> {
    Request(IncomingRequest<Req>),
    Cancel {
        trace_context: trace::Context,
        request_id: u64,
    },
}

#[derive(Deserialize)]
struct IncomingRequest<Req> {
    context: IncomingContext,
    id: u64,
    message: Req,
}

#[derive(Deserialize)]
struct IncomingContext {
    deadline: Duration,
    trace_context: trace::Context,
}

impl<Req> From<Incoming<Req>> for ClientMessage<Req> {
    fn from(incoming: Incoming<Req>) -> Self {
        match incoming {
            Incoming::Cancel {
                trace_context,
                request_id,
            } => ClientMessage::Cancel {
                trace_context,
                request_id,
            },
            Incoming::Request(request) => {
                let mut context = context::current();
                context.deadline = Instant::now() + request.context.deadline.min(MAX_DEADLINE);
                context.trace_context = request.context.trace_context;
                ClientMessage::Request(Request {
                    context,
                    id: request.id,
                    message: request.message,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio_serde::{Deserializer, Serializer};

    fn encode<T: Serialize>(message: &T) -> BytesMut {
        BytesMut::from(&Pin::new(&mut ClientCodec).serialize(message).unwrap()[..])
    }

    fn decode(frame: &BytesMut) -> io::Result<ClientMessage<String>> {
        Pin::new(&mut ServerCodec).deserialize(frame)
    }

    #[test]
    fn requests_arrive_as_tarpc_sends_them() {
        let mut context = context::current();
        context.deadline = Instant::now() + Duration::from_secs(7);
        let sent = ClientMessage::Request(Request {
            context,
            id: 3,
            message: "hello".to_owned(),
        });
        let Ok(ClientMessage::Request(got)) = decode(&encode(&sent)) else {
            panic!("not a request");
        };
        assert_eq!((got.id, got.message.as_str()), (3, "hello"));
        let left = got.context.deadline - Instant::now();
        assert!(left > Duration::from_secs(6) && left <= Duration::from_secs(7));
    }

    #[test]
    fn an_absurd_deadline_is_clamped() {
        #[derive(Serialize)]
        enum Wire {
            Request((Duration, trace::Context), u64, String),
        }
        for seconds in [100_000_000, u64::MAX] {
            let frame = encode(&Wire::Request(
                (Duration::new(seconds, 0), trace::Context::default()),
                1,
                "x".into(),
            ));
            let Ok(ClientMessage::Request(got)) = decode(&frame) else {
                panic!("{seconds} s was not read");
            };
            assert!(got.context.deadline <= Instant::now() + MAX_DEADLINE);
        }
    }

    #[test]
    fn a_length_beyond_the_frame_is_an_error_and_costs_no_memory() {
        let mut frame = encode(&ClientMessage::Request(Request {
            context: context::current(),
            id: 1,
            message: String::from("abc"),
        }));
        let at = frame.len() - 3 - 8;
        frame[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(decode(&frame).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&BytesMut::from(&bytes[..]));
        }
    }
}
