//! The first request of a connection, as far as it has to be understood before the RTSP server
//! gets to see the connection.

use iceflix_core::api::StreamId;

/// The longest head of a first request, in bytes. Players send a few hundred.
pub const LONGEST_HEAD: usize = 8 << 10;

/// What the bytes are that came first on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstRequest {
    /// The beginning of a request, perhaps.
    Incomplete,
    /// No request at all, or one that is too long.
    Nonsense,
    /// A request's whole head.
    Complete {
        /// The stream that it is about, if it names one.
        stream: Option<StreamId>,
    },
}

/// Looks at the bytes that a connection has brought so far: whether they are an RTSP request's head,
/// and which stream it names.
pub fn first_request(bytes: &[u8]) -> FirstRequest {
    // A control character, a zero above all, is in no head: nobody waits for its end.
    let text = |&c: &u8| matches!(c, b'\r' | b'\n' | b'\t' | b' '..=b'~' | 0x80..);
    let head = bytes.get(..end_of_head(bytes).unwrap_or(bytes.len()));
    let head = head.unwrap_or_default();
    if head.len() > LONGEST_HEAD || !head.iter().all(text) {
        return FirstRequest::Nonsense;
    }
    // A line that came whole tells already whether it is a request's.
    let Some(line) = head.split(|&c| c == b'\n').next() else {
        return FirstRequest::Incomplete;
    };
    let whole = line.len() < head.len();
    match (whole, uri(line)) {
        (true, None) => FirstRequest::Nonsense,
        (true, Some(uri)) if end_of_head(bytes).is_some() => FirstRequest::Complete {
            stream: stream_of(path_of(uri)),
        },
        _ => FirstRequest::Incomplete,
    }
}

/// Where the empty line ends that ends a head. Lines may end with CR LF or with LF alone.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let ends = |end: &[u8]| {
        bytes
            .windows(end.len())
            .position(|window| window == end)
            .map(|at| at + end.len())
    };
    match (ends(b"\r\n\r\n"), ends(b"\n\n")) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// What a request line asks for: `METHOD URI RTSP/1.0`.
fn uri(line: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    let (method, uri, version) = (words.next()?, words.next()?, words.next()?);
    let is_method = method.bytes().all(|c| c.is_ascii_uppercase() || c == b'_');
    let is_version = version.starts_with("RTSP/");
    (is_method && is_version && words.next().is_none()).then_some(uri)
}

/// The path of a URI, which begins with a slash; nothing if it has none.
pub fn path_of(uri: &str) -> &str {
    let after = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let path = after.find('/').map_or("", |at| &after[at..]);
    path.split(['?', '#']).next().unwrap_or_default()
}

/// The stream that an RTSP path belongs to: `/{stream}` or `/{stream}/stream=0`.
pub fn stream_of(path: &str) -> Option<StreamId> {
    path.strip_prefix('/')?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn complete(text: &str) -> Option<Option<StreamId>> {
        match first_request(text.as_bytes()) {
            FirstRequest::Complete { stream } => Some(stream),
            _ => None,
        }
    }

    #[test]
    fn players_name_their_stream() {
        let id = StreamId::random();
        for uri in [
            format!("rtsp://127.0.0.1:8554/{id}"),
            format!("rtsp://[::1]:8554/{id}/stream=0"),
            format!("rtsp://user:word@host/{id}?x=1"),
            format!("/{id}"),
        ] {
            let request = format!("OPTIONS {uri} RTSP/1.0\r\nCSeq: 1\r\n\r\n");
            assert_eq!(complete(&request), Some(Some(id)), "{request}");
            let request = format!("OPTIONS {uri} RTSP/1.0\n\n");
            assert_eq!(complete(&request), Some(Some(id)), "{request}");
        }
        for uri in ["*", "rtsp://host", "rtsp://host/", "rtsp://host/vod", "/"] {
            let request = format!("OPTIONS {uri} RTSP/1.0\r\n\r\n");
            assert_eq!(complete(&request), Some(None), "{request}");
        }
    }

    #[test]
    fn a_request_is_waited_for_only_while_it_can_become_one() {
        let long = "x".repeat(LONGEST_HEAD);
        for (text, wanted) in [
            (String::new(), FirstRequest::Incomplete),
            ("OPT".into(), FirstRequest::Incomplete),
            ("OPTIONS * RTSP/1.0\r\n".into(), FirstRequest::Incomplete),
            (
                "OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n".into(),
                FirstRequest::Incomplete,
            ),
            ("hello\r\n".into(), FirstRequest::Nonsense),
            ("$\0\0\u{4}abcd".into(), FirstRequest::Nonsense),
            ("options * RTSP/1.0\r\n".into(), FirstRequest::Nonsense),
            ("OPTIONS * SIP/2.0\r\n".into(), FirstRequest::Nonsense),
            ("GET / HTTP/1.0\r\n".into(), FirstRequest::Nonsense),
            ("OPTIONS * RTSP/1.0 x\r\n".into(), FirstRequest::Nonsense),
            (long.clone(), FirstRequest::Incomplete),
            (long.clone() + "x", FirstRequest::Nonsense),
            (
                format!("OPTIONS * RTSP/1.0\r\nX: {long}\r\n\r\n"),
                FirstRequest::Nonsense,
            ),
        ] {
            assert_eq!(first_request(text.as_bytes()), wanted, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..300)) {
            first_request(&bytes);
        }

        /// What follows the head changes nothing, and no part of it is taken for the whole.
        #[test]
        fn a_request_is_complete_when_its_head_is(cut in 0usize..100, after in vec(any::<u8>(), 0..100)) {
            let request = b"DESCRIBE rtsp://h/x RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n";
            let part = &request[..cut.min(request.len() - 1)];
            prop_assert_eq!(first_request(part), FirstRequest::Incomplete);
            let whole = [&request[..], &after].concat();
            prop_assert_eq!(first_request(&whole), FirstRequest::Complete { stream: None });
        }
    }
}
