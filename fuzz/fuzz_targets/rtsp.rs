//! The first bytes of a player's connection, and the paths in its requests.
#![no_main]

use libfuzzer_sys::fuzz_target;

// The file itself: the crate around it needs GStreamer.
#[path = "../../streaming-svc/src/delivery/request.rs"]
mod request;
use request::{FirstRequest, LONGEST_HEAD, first_request, path_of, stream_of};

fuzz_target!(|bytes: &[u8]| {
    let all = first_request(bytes);
    if let FirstRequest::Complete { stream: Some(id) } = all {
        assert_eq!(stream_of(&format!("/{id}/stream=0")), Some(id));
    }
    if bytes.len() > LONGEST_HEAD {
        assert_ne!(all, FirstRequest::Incomplete);
    }
    // What is nonsense does not become a request by what follows, and what is one stays it.
    for cut in 0..bytes.len().min(200) {
        match first_request(&bytes[..cut]) {
            FirstRequest::Incomplete => {}
            decided => assert_eq!(decided, all),
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let path = path_of(text);
        assert!(path.is_empty() || path.starts_with('/'));
        let _ = stream_of(path);
        let _ = stream_of(text);
    }
});
