//! Checks of an installation's surroundings: disk space, backups, the trail's name.

use super::Finding;
use crate::domain::audit::checkpoint::origin_of;
use crate::domain::{Error, Result};
use crate::service::Services;
use crate::service::backup::{Newest, Owner, Schedule, find_newest, try_schedule};
use crate::store::audit::checkpoints::known_logs;
use crate::store::free_space;

/// Free space below this counts as low, whatever the disk's size.
const LITTLE_BYTES: u64 = 100 << 20;
/// Percentage of the disk below which free space also counts as low.
const LITTLE_PERCENT: u64 = 5;

pub(super) fn room(services: &Services) -> Result<Vec<Finding>> {
    let path = services.store.path();
    let space = free_space(path).map_err(|error| Error::Internal(format!("{}: {error}", path.display())))?;
    let percent = u64::try_from(u128::from(space.free) * 100 / u128::from(space.total.max(1))).unwrap_or(100);
    let text = format!("{} MiB are free, {percent} %", space.free >> 20);
    Ok(vec![if space.free < LITTLE_BYTES || percent < LITTLE_PERCENT {
        let text = format!("{text}: on a full disk nothing can be changed; make room");
        Finding::doubtful("disk", text)
    } else {
        Finding::fine("disk", text)
    }])
}

/// The trail's name is chosen once; a server that moves keeps it.
pub(super) fn name(services: &Services) -> Result<Vec<Finding>> {
    let Some(log) = services.store.read(known_logs)?.pop() else {
        return Ok(Vec::new());
    };
    let (origin, url) = (log.key.origin(), &services.settings.public_url);
    let expected = origin_of(url, &[0; 32]); // only the host is compared
    let host = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
    Ok(vec![if host(origin) == host(&expected) {
        Finding::fine("trail's name", origin)
    } else {
        let text = format!(
            "{origin}, but public_url is {url}: the name was chosen at the first checkpoint and stays; who reads the \
             trail has to know it"
        );
        Finding::doubtful("trail's name", text)
    }])
}

/// Checks whether the witness directory can be read, if one is configured.
#[expect(
    clippy::unnecessary_wraps,
    reason = "one of the checks, and the others may fail"
)]
pub(super) fn witness(services: &Services) -> Result<Vec<Finding>> {
    let Some(directory) = &services.settings.trail.witness_dir else {
        return Ok(Vec::new());
    };
    let place = directory.display();
    Ok(vec![match services.witness.is_there(directory) {
        Some(true) => Finding::fine("witness", format!("{place} is available")),
        Some(false) => {
            let text = format!("{place} does not exist, so nothing was compared with it; is it mounted?");
            Finding::doubtful("witness", text)
        }
        None => {
            let text = format!("{place} does not respond, so nothing was compared with it");
            Finding::doubtful("witness", text)
        }
    }])
}

/// Checks whether scheduled backups can be made and are being made.
pub(super) fn backups(services: &Services, schedule: &Schedule) -> Vec<Finding> {
    let now = services.clock.now();
    let place = schedule.directory.display();
    if let Err(problem) = try_schedule(schedule) {
        return vec![Finding::broken("backup", problem.to_string())];
    }
    let newest = Owner::of(services).and_then(|owner| find_newest(&schedule.directory, &owner, now));
    let Newest { at, future } = match newest {
        Ok(newest) => newest,
        Err(problem) => return vec![Finding::broken("backup", problem.to_string())],
    };
    let mut findings = vec![match at {
        None => Finding::doubtful("backup", format!("{place} has no backup of this appliance yet")),
        Some(newest) if now.duration_since(newest) > schedule.every * 2 => {
            let text = format!(
                "the newest in {place} is from {newest}, more than twice backup.every ago; the server's log says why"
            );
            Finding::doubtful("backup", text)
        }
        Some(newest) => Finding::fine("backup", format!("the newest in {place} is from {newest}")),
    }];
    if future > 0 {
        let text = format!(
            "{future} in {place} are dated in the future, and not counted: check the clock; if it was ahead when they \
             were made, remove them once there are newer ones"
        );
        findings.push(Finding::doubtful("backup", text));
    }
    findings
}
