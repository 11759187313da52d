//! Free space on the file system of the database.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Space on a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Space available to this user.
    pub free: u64,
    /// Total size.
    pub total: u64,
}

/// Returns the space on the file system that holds `path`.
///
/// # Errors
/// The error of `statvfs(3)`.
#[expect(unsafe_code, reason = "the standard library has no call for it")]
pub fn free_space(path: &Path) -> io::Result<Space> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: `path` ends with a NUL, and `found` points to one `statvfs` that the call may fill.
    let failed = unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) } != 0;
    if failed {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded; besides, the initial zeros are a valid `statvfs` as well.
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
