//! Scheduled backups while the server runs, and the removal of old ones.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use zeroize::Zeroizing;

use super::files::{UNFINISHED, io_error};
use super::{BackupError, BackupOrder, KeyChoice, MANIFEST_FILE, Owner, create};
use crate::service::Services;

const PREFIX: &str = "latchkey-";
const TIME: &str = "%Y%m%dT%H%M%SZ";
/// Suffix of the name of an unfinished backup that is being removed.
const REMOVED: &str = ".removed";
/// No backup takes this long to make: an unfinished one older than this was abandoned.
const UNFINISHED_LASTS: SignedDuration = SignedDuration::from_hours(24);
/// Waits after the first, second, … failure in a row: each attempt may have read and written the whole
/// database.
const WAITS_MINUTES: [u64; 4] = [1, 5, 30, 60];

/// Where backups go, how often they are made, and how many are kept.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The directory that receives them.
    pub directory: PathBuf,
    /// Interval between two backups.
    pub every: SignedDuration,
    /// How many of the newest are kept.
    pub keep: usize,
    /// How to include the keys.
    pub keys: KeyChoice,
    /// File with the passphrase for sealed keys: read again each time.
    pub passphrase_file: Option<PathBuf>,
}

/// Makes a backup if the newest one of this appliance is due for renewal, then removes its oldest ones beyond
/// the number to keep; a failure to remove one is logged. Other appliances may use the same directory, also one
/// that was restored from a backup of this one: [`Owner`] tells them apart. Returns the path of the new backup.
///
/// # Errors
/// [`BackupError`]; [`BackupError::Stopped`] soon after `is_stopped` returns true. No old backup was removed then.
pub fn back_up_when_due(
    services: &Services,
    schedule: &Schedule,
    is_stopped: &dyn Fn() -> bool,
) -> Result<Option<PathBuf>, BackupError> {
    let now = services.clock.now();
    let there = find_backups(&schedule.directory)?;
    let owner = Owner::of(services)?;
    let is_ours = |path: &Path| Owner::of_backup(path).as_ref() == Some(&owner);
    // After the clock was set back, a backup dated in the future does not count as recent.
    let newest = there.iter().rev().find(|(at, path)| *at <= now && is_ours(path));
    let newest = newest.map(|(at, _)| *at);
    if let Some(newest) = newest {
        services.counts.backed_up(newest);
    }
    if newest.is_some_and(|at| now.duration_since(at) < schedule.every) {
        return Ok(None);
    }
    clear_unfinished_of(&owner, now, schedule);
    let destination = schedule.directory.join(name_of(now));
    let order = BackupOrder {
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
    let watch = &mut |_, _, _| {
        if is_stopped() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    create(&order, &services.clock, &services.entropy, watch)?;
    services.counts.backed_up(now);
    let others = there.into_iter().filter(|(_, path)| is_ours(path));
    // Counted apart: those that a clock ahead of time left must not take the place of real ones, and may be the only
    // ones if the clock is behind now.
    let (past, future): (Vec<_>, Vec<_>) = others.partition(|(at, _)| *at <= now);
    let keep = schedule.keep.max(1);
    for (_, old) in surplus(past, keep - 1).chain(surplus(future, keep)) {
        match remove_old(&old, &owner) {
            Ok(()) => tracing::info!(path = %old.display(), "an old backup was removed"),
            Err(error) => {
                tracing::warn!(%error, path = %old.display(), "an old backup could not be removed; trying again after the next one");
            }
        }
    }
    Ok(Some(destination))
}

/// Returns the oldest beyond the number to keep; `backups` are the oldest first.
fn surplus<T>(backups: Vec<T>, keep: usize) -> impl Iterator<Item = T> {
    let surplus = backups.len().saturating_sub(keep);
    backups.into_iter().take(surplus)
}

/// The finished backups of an appliance, by their dates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newest {
    /// When the newest was made, except for those dated in the future.
    pub at: Option<Timestamp>,
    /// Number of those dated in the future, made while the clock was ahead.
    pub future: usize,
}

/// Finds the newest finished backup of an appliance in a directory.
///
/// # Errors
/// [`BackupError`] if the directory can't be read.
pub fn find_newest(directory: &Path, owner: &Owner, now: Timestamp) -> Result<Newest, BackupError> {
    let there = find_backups(directory)?;
    let ours = |path: &Path| Owner::of_backup(path).as_ref() == Some(owner);
    let (past, future): (Vec<_>, Vec<_>) = there.into_iter().partition(|(at, _)| *at <= now);
    let newest = past.into_iter().rev().find(|(_, path)| ours(path));
    Ok(Newest {
        at: newest.map(|(at, _)| at),
        future: future.iter().filter(|(_, path)| ours(path)).count(),
    })
}

/// Returns how long to wait after this many failures in a row.
#[must_use]
pub fn wait_after_failures(failures: usize) -> Duration {
    let at = failures.saturating_sub(1).min(WAITS_MINUTES.len() - 1);
    Duration::from_secs(60 * WAITS_MINUTES[at])
}

/// Checks whether a backup could be written now: creates and removes a file in the directory, which covers
/// permissions, read-only mounts and quotas alike; and reads the passphrase.
///
/// # Errors
/// [`BackupError`] naming what can't be used.
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
        let empty = io::Error::other("has no passphrase in its first line");
        return Err(io_error(file, empty));
    }
    Ok(())
}

/// Returns the name of a backup made at that time: `latchkey-20260218T103000Z`.
#[must_use]
pub fn name_of(at: Timestamp) -> String {
    format!("{PREFIX}{}", at.strftime(TIME))
}

fn time_of(name: &str) -> Option<Timestamp> {
    let time = DateTime::strptime(TIME, name.strip_prefix(PREFIX)?).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// Returns finished backups with names in our format, of any appliance, oldest first; ignores everything else.
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
    found.sort();
    Ok(found)
}

/// Removes unfinished backups, which contain keys: every one of this appliance, so none may be in progress, and
/// those of others that are too old to be in progress. A failure to remove one is logged and does not delay
/// anything.
pub fn clear_unfinished(services: &Services, schedule: &Schedule) {
    match Owner::of(services) {
        Ok(owner) => clear_unfinished_of(&owner, services.clock.now(), schedule),
        Err(error) => tracing::warn!(%error, "unfinished backups could not be removed"),
    }
}

fn clear_unfinished_of(owner: &Owner, now: Timestamp, schedule: &Schedule) {
    let ours = owner.mark();
    for entry in fs::read_dir(&schedule.directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let parts = name
            .to_str()
            .and_then(|name| name.strip_prefix('.')?.split_once(UNFINISHED));
        let Some((begun, mark)) = parts.and_then(|(name, mark)| Some((time_of(name)?, mark))) else {
            continue;
        };
        let is_ours = mark.starts_with(&ours);
        if (is_ours || now.duration_since(begun) >= UNFINISHED_LASTS)
            && let Err(error) = remove_unfinished(&entry.path())
        {
            let path = entry.path();
            tracing::warn!(%error, path = %path.display(), "an unfinished backup could not be removed");
        }
    }
}

/// Renamed first, so that a process still filling it can't finish it.
fn remove_unfinished(path: &Path) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    if !name.as_encoded_bytes().ends_with(REMOVED.as_bytes()) {
        name.push(REMOVED);
    }
    remove_as(path, &path.with_file_name(name))
}

/// Renamed first, to the name of an unfinished one: if the removal is interrupted, what is left, which may have the
/// keys, is no backup, and [`clear_unfinished`] removes it.
fn remove_old(path: &Path, owner: &Owner) -> io::Result<()> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!("{UNFINISHED}{}{REMOVED}", owner.mark()));
    remove_as(path, &path.with_file_name(name))
}

fn remove_as(path: &Path, removed: &Path) -> io::Result<()> {
    fs::rename(path, removed)?;
    fs::remove_dir_all(removed)
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

    #[test]
    fn each_failure_in_a_row_is_waited_for_longer_up_to_an_hour() {
        let minutes = [1, 2, 3, 4, 5, 500].map(|failures| wait_after_failures(failures).as_secs() / 60);
        assert_eq!(minutes, [1, 5, 30, 60, 60, 60]);
    }
}
