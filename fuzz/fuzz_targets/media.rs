//! Names of files in a media directory, whatever bytes they are made of.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path};

// The file itself: the crate around it needs GStreamer.
#[path = "../../streaming-svc/src/library/name.rs"]
mod name;
use name::{film_name, is_film, is_hidden};

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("/films").join(OsStr::from_bytes(bytes));
    for path in [path.as_path(), Path::new(OsStr::from_bytes(bytes))] {
        let name = film_name(path);
        assert!((1..=255).contains(&name.chars().count()), "{name:?}");
        assert!(!name.chars().any(char::is_control), "{name:?}");
        assert_eq!(name.trim(), name);
        if let Some(file) = path.file_name() {
            assert!(!(is_film(file) && is_hidden(file)));
        }
    }
});
