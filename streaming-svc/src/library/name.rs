//! What a file's name says: whether it is a film, and the film's first name.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path};

/// Extensions of files that are films, or that people would expect to see listed with the reason
/// why they are not played.
const EXTENSIONS: [&str; 22] = [
    "mp4", "m4v", "mov", "mkv", "webm", "avi", "ts", "m2ts", "mpg", "mpeg", "ogv", "ogg", "flv",
    "wmv", "mp3", "m4a", "flac", "wav", "opus", "mka", "3gp", "mts",
];

/// The longest name, in characters; as long as the catalogue takes.
const LONGEST: usize = 255;

/// A film's first name: its file's name without the extension. Bytes that are not UTF-8 show as
/// the replacement character, control characters as a space; at most 255 characters, never none.
pub fn film_name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let clean: String = stem
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let name: String = clean.trim().chars().take(LONGEST).collect();
    match name.trim_end() {
        "" => "untitled".to_owned(),
        name => name.to_owned(),
    }
}

/// Whether the name says that this is a film: a known extension, and not hidden.
pub fn is_film(name: &OsStr) -> bool {
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    !is_hidden(name)
        && extension.is_some_and(|e| EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(e)))
}

/// Whether the name says that it is not meant to be seen.
pub fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(bytes: &[u8]) -> String {
        film_name(&Path::new("/films").join(OsStr::from_bytes(bytes)))
    }

    #[test]
    fn a_film_is_called_as_its_file() {
        assert_eq!(named(b"The Third Man (1949).mkv"), "The Third Man (1949)");
        assert_eq!(named(b"a.b.mp4"), "a.b");
        assert_eq!(named("Amélie.webm".as_bytes()), "Amélie");
        assert_eq!(named(b"caf\xe9.mp4"), "caf\u{fffd}");
        assert_eq!(named(b"two\nlines\x1b[31m.mp4"), "two lines [31m");
        assert_eq!(named(b"\n .mp4"), "untitled");
        assert_eq!(named("ö".repeat(127).as_bytes()), "ö".repeat(127));
    }

    proptest! {
        #[test]
        fn any_name_becomes_one_that_the_catalogue_takes(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let name = named(&bytes);
            prop_assert!((1..=LONGEST).contains(&name.chars().count()));
            prop_assert!(!name.chars().any(char::is_control));
            prop_assert_eq!(name.trim(), &name);
        }
    }
}
