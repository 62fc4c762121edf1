//! Files and directories that are their owner's only.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// Makes a directory and what is missing above it, the new ones with mode 0700.
///
/// # Errors
/// When the file system refuses.
pub fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file of mode 0600: it is there whole or not at all, whenever this is interrupted. Not
/// for two at once.
///
/// # Errors
/// When the file system refuses; what was there before is there still.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let unfinished = path.with_added_extension("new");
    // What somebody left who was interrupted may have other permissions.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_private_file_replaces_what_was_there_and_what_was_left_unfinished() {
        let dir = tempfile::tempdir().unwrap();
        let (deep, path) = (dir.path().join("a/b"), dir.path().join("a/b/key"));
        private_dir(&deep).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&deep), mode(&dir.path().join("a"))), (0o700, 0o700));
        let unfinished = deep.join("key.new");
        fs::write(&unfinished, "4f").unwrap();
        for content in ["first", "second"] {
            write_private(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(mode(&path), 0o600);
            assert!(!unfinished.exists());
        }
    }
}
