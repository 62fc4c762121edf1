//! The directories with films, as a person types them.

use std::{
    ffi::OsStr,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Component, Path, PathBuf},
};

/// Splits `DIR[:DIR…]`, replaces a leading `~` by `home` and makes every path absolute from `base`.
/// Empty elements are skipped and a directory that is named twice is taken once; the order stays.
/// A path that is not UTF-8 cannot be written into a configuration and is refused.
pub fn split(list: &OsStr, base: &Path, home: Option<&Path>) -> Result<Vec<PathBuf>, String> {
    let mut found: Vec<PathBuf> = Vec::new();
    for element in list.as_bytes().split(|byte| *byte == b':') {
        if element.is_empty() {
            continue;
        }
        let typed = PathBuf::from(std::ffi::OsString::from_vec(element.to_vec()));
        if typed.to_str().is_none() {
            return Err(format!(
                "the directory {} has a name that is not UTF-8; rename it or give a link to it",
                typed.display()
            ));
        }
        let path = absolute(&typed, base, home);
        if !found.contains(&path) {
            found.push(path);
        }
    }
    Ok(found)
}

/// The absolute form of a path: `~` replaced, `.`, `..` and doubled slashes removed. Links are not
/// followed: a path that does not exist yet has the same absolute form as later, when it does.
pub fn absolute(typed: &Path, base: &Path, home: Option<&Path>) -> PathBuf {
    let expanded = match (typed.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => typed.to_owned(),
    };
    let mut path = PathBuf::new();
    for part in base.join(expanded).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                path.pop();
            }
            other => path.push(other),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(list: &str) -> Vec<String> {
        split(
            OsStr::new(list),
            Path::new("/srv/here"),
            Some(Path::new("/home/ann")),
        )
        .unwrap()
        .iter()
        .map(|path| path.to_str().unwrap().to_owned())
        .collect()
    }

    #[test]
    fn lists_are_split_and_made_absolute() {
        assert_eq!(plain(""), Vec::<String>::new());
        assert_eq!(plain("/a b/c:/d"), ["/a b/c", "/d"]);
        assert_eq!(
            plain(":films::./films/:/x//y/../z/:"),
            ["/srv/here/films", "/x/z"]
        );
    }

    #[test]
    fn a_leading_tilde_is_home() {
        assert_eq!(plain("~"), ["/home/ann"]);
        assert_eq!(
            plain("~/Videos:/m:~/My Films"),
            ["/home/ann/Videos", "/m", "/home/ann/My Films"]
        );
        assert_eq!(
            plain("~bob/x:a/~/b"),
            ["/srv/here/~bob/x", "/srv/here/a/~/b"]
        );
        let homeless = split(OsStr::new("~/x"), Path::new("/w"), None).unwrap();
        assert_eq!(homeless, [PathBuf::from("/w/~/x")]);
    }

    #[test]
    fn names_that_are_not_utf8_are_refused() {
        let list = OsStr::from_bytes(b"/ok:/bad\xff");
        let error = split(list, Path::new("/"), None).unwrap_err();
        assert!(error.contains("not UTF-8"), "{error}");
    }

    proptest! {
        #[test]
        fn absolute_paths_stay_what_they_are(list in "[a-z~./: ]{0,40}") {
            let base = Path::new("/base");
            let once = split(OsStr::new(&list), base, Some(Path::new("/home/u"))).unwrap();
            for path in &once {
                prop_assert!(path.is_absolute());
                prop_assert_eq!(&absolute(path, Path::new("/other"), None), path);
            }
        }
    }
}
