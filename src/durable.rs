//! Files that after a crash or on a full disk are old or new, never partial.

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// What the extension of an unfinished file begins with: `NAME.new-RANDOM`.
const UNFINISHED: &str = "new-";

/// Replaces a file's content with `parts`, one after the other: writes them to a file beside it (mode 0600), which is
/// on disk before it takes the old one's place. On an error nothing is left beside it.
///
/// # Errors
/// The operating system's; the old content is then still there.
pub fn replace(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let directory = parent(path);
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push(".");
    name.push(UNFINISHED);
    let mut refused = None;
    let beside = tempfile::Builder::new()
        .prefix(&name)
        .make_in(directory, |unfinished| {
            let opened = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(unfinished);
            opened.inspect_err(|error| refused = error.raw_os_error())
        });
    // The system's own error: the caller names the file, and not by the name that it has for a moment.
    let mut beside = beside.map_err(|error| refused.map_or(error, io::Error::from_raw_os_error))?;
    for part in parts {
        beside.as_file_mut().write_all(part)?;
    }
    beside.as_file().sync_all()?;
    beside.persist(path).map_err(|refused| refused.error)?;
    sync_directory(directory)
}

/// Whether a killed process left this file behind, half written by [`replace`].
#[must_use]
pub fn is_unfinished(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension.as_encoded_bytes().starts_with(UNFINISHED.as_bytes()))
}

/// Puts a directory's entries on disk: a file that was created or renamed in it is lost in a crash otherwise.
///
/// # Errors
/// The operating system's.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Creates a directory that only its owner can enter, and its parents, unless they exist.
///
/// # Errors
/// The operating system's.
pub fn create_private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Returns the directory that a path lies in.
#[must_use]
pub fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.json");
        fs::write(&path, "what was there before").unwrap();
        replace(&path, &[b"one, ", b"two"]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one, two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_put_in_its_place_is_not_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.json");
        fs::create_dir(&path).unwrap();
        replace(&path, &[b"secrets"]).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_error_is_the_systems_own() {
        let dir = tempfile::tempdir().unwrap();
        let error = replace(&dir.path().join("gone/tokens.json"), &[b"secrets"]).unwrap_err();
        assert_eq!(error.to_string(), "No such file or directory (os error 2)");
    }

    #[test]
    fn only_what_replace_leaves_is_unfinished() {
        let dir = tempfile::tempdir().unwrap();
        let beside = tempfile::Builder::new()
            .prefix("latest.new-")
            .tempfile_in(dir.path())
            .unwrap();
        assert!(is_unfinished(beside.path()), "{}", beside.path().display());
        for name in ["tokens.json", "latest", "new-one", "audit.next.key"] {
            assert!(!is_unfinished(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn a_bare_name_lies_in_the_current_directory() {
        assert_eq!(parent(Path::new("name")), Path::new("."));
        assert_eq!(parent(Path::new("/data/name")), Path::new("/data"));
    }
}
