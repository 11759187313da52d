//! Backups that make themselves while the server runs, and the end of old ones.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use zeroize::Zeroizing;

use super::files::{UNFINISHED, io_error};
use super::{BackupError, KeyChoice, MANIFEST_FILE, Order, create};
use crate::service::Services;

const PREFIX: &str = "latchkey-";
const TIME: &str = "%Y%m%dT%H%M%SZ";

/// Where backups go, how often, and how many stay.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The directory that gets them.
    pub directory: PathBuf,
    /// Time between two.
    pub every: SignedDuration,
    /// How many of the newest stay.
    pub keep: usize,
    /// What of the keys.
    pub keys: KeyChoice,
    /// Where the passphrase is, for sealed keys: read anew each time.
    pub passphrase_file: Option<PathBuf>,
}

/// Makes a backup if none is young enough, then removes the oldest beyond those that stay. Says where the
/// new one is.
///
/// # Errors
/// [`BackupError`]; then none was removed.
pub fn back_up_when_due(services: &Services, schedule: &Schedule) -> Result<Option<PathBuf>, BackupError> {
    let now = services.clock.now();
    let there = find_backups(&schedule.directory)?;
    // After the clock went back, one from the future says nothing about now.
    let newest = there.iter().map(|(at, _)| *at).filter(|at| *at <= now).max();
    if let Some(newest) = newest {
        services.counts.backed_up(newest);
    }
    if newest.is_some_and(|at| now.duration_since(at) < schedule.every) {
        return Ok(None);
    }
    clear_unfinished(&schedule.directory)?;
    let destination = schedule.directory.join(name_of(now));
    let order = Order {
        data_dir: services
            .store
            .path()
            .parent()
            .unwrap_or(Path::new("."))
            .to_owned(),
        destination: destination.clone(),
        keys: schedule.keys,
        passphrase: schedule
            .passphrase_file
            .as_deref()
            .map(read_passphrase)
            .transpose()?,
        public_url: services.settings.public_url.clone(),
    };
    create(&order, &services.clock, &services.entropy, &mut |_, _, _| {})?;
    services.counts.backed_up(now);
    let mut others: Vec<_> = there
        .into_iter()
        .filter(|(_, path)| *path != destination)
        .collect();
    others.sort();
    let surplus = (others.len() + 1).saturating_sub(schedule.keep.max(1));
    for (_, old) in others.into_iter().take(surplus) {
        fs::remove_dir_all(&old).map_err(|source| io_error(&old, source))?;
        tracing::info!(path = %old.display(), "an old backup was removed");
    }
    Ok(Some(destination))
}

/// When the newest finished backup in a directory was made, if there is one.
///
/// # Errors
/// [`BackupError`] when it can't be read.
pub fn find_newest(directory: &Path) -> Result<Option<Timestamp>, BackupError> {
    let there = find_backups(directory)?;
    Ok(there.into_iter().map(|(at, _)| at).max())
}

/// Finds out whether a backup could be written now: makes a file in the directory, which alone tells of permissions,
/// read-only mounts and quotas alike, and removes it; and reads the passphrase.
///
/// # Errors
/// [`BackupError`] with what can't be used.
pub fn try_schedule(schedule: &Schedule) -> Result<(), BackupError> {
    let tried = schedule
        .directory
        .join(format!(".latchkey-doctor-{}", std::process::id()));
    fs::File::options()
        .write(true)
        .create_new(true)
        .open(&tried)
        .and_then(|_| fs::remove_file(&tried))
        .map_err(|source| io_error(&schedule.directory, source))?;
    if let Some(file) = &schedule.passphrase_file
        && read_passphrase(file)?.is_empty()
    {
        let empty = std::io::Error::other("has no passphrase in its first line");
        return Err(io_error(file, empty));
    }
    Ok(())
}

/// What a backup of that time is called: `latchkey-20260218T103000Z`.
#[must_use]
pub fn name_of(at: Timestamp) -> String {
    format!("{PREFIX}{}", at.strftime(TIME))
}

fn time_of(name: &str) -> Option<Timestamp> {
    let time = DateTime::strptime(TIME, name.strip_prefix(PREFIX)?).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// Finished backups with our names: what else lies there is nobody's business here.
fn find_backups(directory: &Path) -> Result<Vec<(Timestamp, PathBuf)>, BackupError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(|source| io_error(directory, source))? {
        let entry = entry.map_err(|source| io_error(directory, source))?;
        let at = entry.file_name().to_str().and_then(time_of);
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if let Some(at) = at
            && is_directory
            && entry.path().join(MANIFEST_FILE).is_file()
        {
            found.push((at, entry.path()));
        }
    }
    Ok(found)
}

/// What a crash left half done.
fn clear_unfinished(directory: &Path) -> Result<(), BackupError> {
    for entry in fs::read_dir(directory).map_err(|source| io_error(directory, source))? {
        let entry = entry.map_err(|source| io_error(directory, source))?;
        let name = entry.file_name();
        let ours = name
            .to_str()
            .and_then(|name| name.strip_prefix('.')?.split_once(UNFINISHED))
            .is_some_and(|(name, _)| time_of(name).is_some());
        if ours {
            fs::remove_dir_all(entry.path()).map_err(|source| io_error(&entry.path(), source))?;
        }
    }
    Ok(())
}

fn read_passphrase(file: &Path) -> Result<Zeroizing<String>, BackupError> {
    let text = Zeroizing::new(fs::read_to_string(file).map_err(|source| io_error(file, source))?);
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_named_after_its_time_and_nothing_else_is_one() {
        let at: Timestamp = "2026-02-18T10:30:00Z".parse().expect("a time");
        assert_eq!(name_of(at), "latchkey-20260218T103000Z");
        assert_eq!(time_of(&name_of(at)), Some(at));
        for other in [
            "latchkey-",
            "latchkey-20260218",
            "latchkey.db",
            "latchkey-20260218T103000Z.old",
            "",
        ] {
            assert_eq!(time_of(other), None, "{other}");
        }
    }
}
