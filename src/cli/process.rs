//! Facts about this process: the user it runs as, and whether its parent had it ignore SIGHUP.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::exit::Refusal;
use crate::keys::KEY_DIRECTORY;

/// Where the kernel describes this process, one field per line. The owner of `/proc/self` is not used: for a
/// program that was given a capability it is root.
const STATUS: &str = "/proc/self/status";

/// Refuses to work in a data directory of another user. Run as root, a command would create files owned by
/// root and readable by it alone, which the service, running as the owner of the directory, could not read at
/// its next start.
///
/// A directory owned by root is accepted: a volume mounted for a group may belong to root and be used by
/// another user.
pub(super) fn refuse_strangers(data_dir: &Path) -> Result<(), Refusal> {
    refuse_others(&[data_dir, &data_dir.join(KEY_DIRECTORY)])
}

/// Checks a data directory that is still to be created: the owner of its parent directory is to own it.
pub(super) fn refuse_strangers_around(data_dir: &Path) -> Result<(), Refusal> {
    let around = data_dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    if data_dir.exists() {
        refuse_strangers(data_dir)
    } else {
        refuse_others(&[around.unwrap_or(Path::new("."))])
    }
}

fn refuse_others(places: &[&Path]) -> Result<(), Refusal> {
    let Some(own) = effective_uid() else { return Ok(()) };
    for place in places {
        let Ok(found) = fs::metadata(place) else { continue };
        let owner = found.uid();
        if owner != 0 && owner != own {
            let name =
                name_of(owner).map_or_else(|| format!("uid {owner}"), |name| format!("{name} (uid {owner})"));
            return Err(Refusal(format!(
                "{} belongs to {name}; run the command as that user, for example sudo -u '#{owner}' latchkey …",
                place.display()
            )));
        }
    }
    Ok(())
}

/// Returns whether the parent process had this one ignore SIGHUP, as `nohup` does, so that it outlives the
/// terminal.
pub(super) fn ignores_hangup() -> bool {
    let status = fs::read_to_string(STATUS).unwrap_or_default();
    let ignored = field(&status, "SigIgn:").and_then(|mask| u64::from_str_radix(mask, 16).ok());
    ignored.is_some_and(|mask| mask & 1 == 1) // the lowest bit is signal 1
}

/// Returns the effective user id; `None` if there is no `/proc`.
fn effective_uid() -> Option<u32> {
    let status = fs::read_to_string(STATUS).ok()?;
    // The fields are the real, effective, saved and file system user id.
    field(&status, "Uid:")?.split_whitespace().nth(1)?.parse().ok()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

/// Returns the user's name, if `/etc/passwd` lists it.
fn name_of(uid: u32) -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_ones_own_is_no_strangers() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let own = fs::metadata(dir.path()).expect("its owner").uid();
        assert_eq!(effective_uid(), Some(own));
        assert!(refuse_strangers(dir.path()).is_ok());
        let to_be_made = dir.path().join("to be made");
        assert!(refuse_strangers(&to_be_made).is_ok() && refuse_strangers_around(&to_be_made).is_ok());
    }

    #[test]
    fn the_kernels_lines_are_read() {
        let status = "Name:\tlatchkey\nUid:\t0\t65534\t0\t65534\nSigIgn:\t0000000000001001\n";
        assert_eq!(field(status, "Uid:"), Some("0\t65534\t0\t65534"));
        assert_eq!(field(status, "SigIgn:"), Some("0000000000001001"));
        assert_eq!(field(status, "Gid:"), None);
    }
}
