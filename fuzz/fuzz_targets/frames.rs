//! Whatever a connection to a service brings: frames, and the requests in them.
#![no_main]

use iceflix_core::{
    api::{
        auth::AuthenticatorRequest, catalog::CatalogRequest, main::MainRequest,
        streaming::StreamingRequest,
    },
    rpc::read_all,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    read_all::<MainRequest>(bytes);
    read_all::<AuthenticatorRequest>(bytes);
    read_all::<CatalogRequest>(bytes);
    read_all::<StreamingRequest>(bytes);
    // A frame whose length is right, so that its content is looked at.
    if let Ok(length) = u32::try_from(bytes.len()) {
        let frame = [&length.to_be_bytes(), bytes].concat();
        read_all::<MainRequest>(&frame);
        read_all::<AuthenticatorRequest>(&frame);
        read_all::<CatalogRequest>(&frame);
        read_all::<StreamingRequest>(&frame);
    }
});
