//! How much room is left where the database is.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Room on a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What we may still use.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// The room on the file system that `path` is on.
///
/// # Errors
/// What the operating system says.
#[expect(unsafe_code, reason = "the standard library can't ask for it")]
pub fn free_space(path: &Path) -> io::Result<Space> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: `path` ends with a zero, and `found` is one `statvfs` that the call may fill.
    let failed = unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) } != 0;
    if failed {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded; and all zeros, as it was before, is a valid `statvfs` as well.
    let found = unsafe { found.assume_init() };
    let unit = found.f_frsize;
    Ok(Space {
        free: found.f_bavail.saturating_mul(unit),
        total: found.f_blocks.saturating_mul(unit),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_has_room_and_a_missing_path_is_told() {
        let space = free_space(Path::new("/")).expect("the root is there");
        assert!(space.total > 0 && space.free <= space.total, "{space:?}");
        assert!(free_space(Path::new("/no/such/path")).is_err());
    }
}
