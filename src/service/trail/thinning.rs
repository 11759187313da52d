//! Retention of checkpoints: all of the last day, then the last of each hour for 30 days, then the last of each
//! day for ever. Receipts carry their own checkpoint and need none that is kept here.

use std::fs;
use std::io;
use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;

use super::Services;
use crate::domain::Result;
use crate::domain::audit::checkpoint::unchecked;
use crate::durable;
use crate::store::audit::checkpoints as kept;

const HOUR_MILLIS: i64 = 3_600_000;
const DAY_MILLIS: i64 = 24 * HOUR_MILLIS;
/// Maximum number of checkpoints deleted in one transaction.
const BATCH: usize = 500;
/// The history file is thinned each time it has grown by this many bytes.
const HISTORY_STEP: u64 = 8 << 20;

/// Deletes surplus checkpoints, up to 500 at a time. Returns how many.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub async fn thin_checkpoints(services: &Services) -> Result<usize> {
    let now = services.clock.now().as_millisecond();
    let old = services
        .store
        .read_long(None, move |db| kept::find_signed_before(db, now - DAY_MILLIS))
        .await?;
    let times: Vec<_> = old.iter().map(|one| (one.log, one.at_millis)).collect();
    let surplus: Vec<_> = surplus(&times, now)
        .into_iter()
        .take(BATCH)
        .map(|at| (old[at].size, old[at].log))
        .collect();
    if surplus.is_empty() {
        return Ok(0);
    }
    services
        .store
        .write(move |tx| kept::delete_checkpoints(tx, &surplus).map(|()| surplus.len()))
        .await
}

/// Removes surplus checkpoints from the history file, if the last `added` bytes made it grow past another step.
/// Keeps lines that are not checkpoints.
pub(super) fn thin_history(path: &Path, added: u64, now: Timestamp) -> io::Result<()> {
    let length = fs::metadata(path)?.len();
    if length / HISTORY_STEP == length.saturating_sub(added) / HISTORY_STEP {
        return Ok(());
    }
    rewrite(path, now)
}

fn rewrite(path: &Path, now: Timestamp) -> io::Result<()> {
    // A crash may have cut a line within a character.
    let text = String::from_utf8_lossy(&fs::read(path)?).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let times: Vec<_> = lines
        .iter()
        .enumerate()
        .map(|(place, line)| read(line).unwrap_or((place.to_string(), 0)))
        .collect();
    let surplus = surplus(&times, now.as_millisecond());
    let mut surplus = surplus.into_iter().peekable();
    let kept: String = lines
        .iter()
        .enumerate()
        .filter(|(place, _)| surplus.next_if_eq(place).is_none())
        .flat_map(|(_, line)| [line, "\n"])
        .collect();
    durable::replace(path, &[kept.as_bytes()])
}

/// Parses a line's log and time (milliseconds since 1970).
fn read(line: &str) -> Option<(String, i64)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let at: Timestamp = line["at"].as_str()?.parse().ok()?;
    Some((unchecked(line["note"].as_str()?)?.origin, at.as_millisecond()))
}

/// Returns the indexes of the checkpoints, given by log and time, that are followed by one of the same log and
/// span.
fn surplus<L: Eq>(times: &[(L, i64)], now: i64) -> Vec<usize> {
    let follows = |two: &[(L, i64)]| {
        let span = span(two[0].1, now);
        span.is_some() && two[0].0 == two[1].0 && span == self::span(two[1].1, now)
    };
    let pairs = times.windows(2).enumerate();
    pairs.filter(|(_, two)| follows(two)).map(|(at, _)| at).collect()
}

/// Returns the time span (length and number) of which only the last checkpoint is kept; `None` if all are kept.
fn span(at: i64, now: i64) -> Option<(i64, i64)> {
    let length = match now.saturating_sub(at) {
        ..DAY_MILLIS => return None,
        age if age < 30 * DAY_MILLIS => HOUR_MILLIS,
        _ => DAY_MILLIS,
    };
    Some((length, at.div_euclid(length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_day_is_whole_then_hours_then_days_each_by_its_last() {
        let now = 100 * DAY_MILLIS;
        let ago = |hours: i64, minutes: i64| (1, now - hours * HOUR_MILLIS + minutes * 60_000);
        let times = [
            ago(40 * 24, 0),
            ago(40 * 24, 90), // the same day
            ago(39 * 24, 0),
            ago(29 * 24, 0),
            ago(29 * 24, 10), // the same hour
            ago(29 * 24, 61),
            (2, now - 29 * DAY_MILLIS + 62 * 60_000), // another log
            ago(23, 0),
            ago(23, 1),
        ];
        assert_eq!(surplus(&times, now), [0, 3]);
    }

    #[test]
    fn the_file_keeps_the_last_line_of_each_span_and_what_it_cannot_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history");
        let signer = crate::domain::audit::LogSigner::new("h/audit-log", &[7; 32]);
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let line = |minute: i64| {
            let at = "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap()
                + jiff::SignedDuration::from_mins(minute);
            let note = signer.checkpoint(minute.unsigned_abs(), [0; 32]);
            serde_json::json!({ "at": at, "size": minute, "note": note }).to_string()
        };
        let text = format!("{}\n{}\n{{\"cut sh\n{}\n", line(1), line(2), line(24 * 60));
        fs::write(&path, &text).unwrap();
        thin_history(&path, 10, now).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            text,
            "too short to be worth it"
        );
        rewrite(&path, now).unwrap();
        let kept = fs::read_to_string(&path).unwrap();
        assert_eq!(kept, format!("{}\n{{\"cut sh\n{}\n", line(2), line(24 * 60)));
    }
}
