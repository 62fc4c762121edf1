//! A film's first name.

use std::path::Path;

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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

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
