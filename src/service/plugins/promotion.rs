//! The gate for organisations that require a clean replay: a version of a policy begins to count only once it
//! decides past resets as they were decided.
//!
//! A version counts if it is enforced, for everybody or for a canary's share. It begins to count by a switch, by
//! binding again what was unbound, by leaving monitor mode, or by remaining when another version of the same
//! plugin is removed; each of these is judged. Another configuration is another version here (for some plugins it
//! is the whole policy), and so is being asked at fewer hooks. Only going back to a version that counted before
//! is not judged: to the previous version, however long ago it decided something, or to one that decided
//! recently.
//!
//! Recorded calls that failed hold nothing back: they made no decision that could stay the same.

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::replay::{Terms, replay_on_terms};
use super::replay_report::{Follow, Replay};
use super::{Manager, from_json, unwatched};
use crate::domain::account::OrganizationId;
use crate::domain::policy::{Manifest, Mode};
use crate::domain::{Error, Result};
use crate::plugin_host::{Digest, Limits};
use crate::service::Services;
use crate::store::Connection;
use crate::store::bindings::{self, BindingRow, Of, PolicyRevision};
use crate::store::decisions::{self, DeciderRow};
use crate::store::{accounts, configurations, plugins};

/// Days for which decisions must stay the same.
const DAYS: i64 = 30;

/// The policies on which a change was judged; `None` if it did not have to be judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate(Option<(OrganizationId, PolicyRevision)>);

impl Gate {
    /// Checks in the transaction of the change that the policies are unchanged. Otherwise two concurrent changes
    /// could together break a rule that each of them alone respects.
    ///
    /// # Errors
    /// [`Error::Stale`].
    pub(super) fn still_open(self, tx: &Connection) -> Result<()> {
        match self.0 {
            Some((organization, revision))
                if bindings::find_policy_revision(tx, organization)? != revision =>
            {
                Err(Error::Stale)
            }
            _ => Ok(()),
        }
    }
}

/// A version that is about to count, and the bindings whose decisions it takes over.
struct Candidate {
    digest: Digest,
    manifest: Manifest,
    config: String,
    terms: Terms,
    takes_over: Follow,
}

/// Judges the change of a binding from `now` (absent: it is created) to `then` (absent: it is removed), with the
/// configuration's text if it may be new.
///
/// # Errors
/// [`Error::Conflict`] if decisions would differ.
pub(super) async fn judge(
    services: &Services,
    manager: &Manager,
    now: Option<&BindingRow>,
    then: Option<&BindingRow>,
    new_config: Option<&str>,
) -> Result<Gate> {
    let Some(organization) = now.or(then).and_then(|row| row.organization_id) else {
        return Ok(Gate(None)); // only the operator changes the node's bindings
    };
    let since = services.clock.now() - SignedDuration::from_hours(24 * DAYS);
    let (revision, candidates) = services.store.read(|db| {
        let found = accounts::find_organization(db, organization)?;
        if !found.is_some_and(|found| found.settings.clean_replay_required) {
            return Ok((None, Vec::new()));
        }
        let revision = bindings::find_policy_revision(db, organization)?;
        let counted = now.filter(|row| counts(row));
        let mut candidates = match (counted, then.filter(|row| counts(row))) {
            (None, None) => Vec::new(),
            // The operator's emergency switch is not judged.
            (Some(_), None) if manager.organization().is_none() => Vec::new(),
            (Some(now), None) => left_alone(db, organization, since, now)?,
            (Some(now), Some(then)) if then.version.stands_for(&now.version) => Vec::new(),
            (_, Some(then)) if goes_back(manager, now, then) => Vec::new(),
            (_, Some(then)) => begins(db, organization, since, counted, then, new_config)?,
        };
        // In a canary the previous version decides for the other users.
        if let Some(before) = then.and_then(decides_for_others) {
            candidates.extend(begins(db, organization, since, counted, &before, None)?);
        }
        Ok((Some(revision), candidates))
    })?;
    let Some(revision) = revision else {
        return Ok(Gate(None));
    };
    for candidate in candidates {
        replay(services, organization, since, candidate).await?;
    }
    Ok(Gate(Some((organization, revision))))
}

fn counts(row: &BindingRow) -> bool {
    row.disabled_at.is_none() && row.mode != Mode::Monitor
}

/// Returns whether the change goes back to a previous version that once decided something. The operator may go
/// back to any previous version.
fn goes_back(manager: &Manager, now: Option<&BindingRow>, then: &BindingRow) -> bool {
    let operator = manager.organization().is_none();
    let previous = now.and_then(|now| now.previous.as_ref());
    previous.is_some_and(|previous| then.version.stands_for(previous) && (previous.answered || operator))
}

/// Returns the binding with its previous version, if that version is to decide for the users outside a canary's
/// share and has never decided anything.
fn decides_for_others(then: &BindingRow) -> Option<BindingRow> {
    let canary = matches!(then.mode, Mode::Canary(_)) && counts(then);
    let before = then
        .previous
        .as_ref()
        .filter(|before| canary && !before.answered)?;
    Some(BindingRow {
        version: before.clone(),
        ..then.clone()
    })
}

/// Returns the candidate for a version that begins to count: it takes over from the version that it replaces, and
/// from bindings that are removed or no longer count.
fn begins(
    db: &Connection,
    organization: OrganizationId,
    since: Timestamp,
    replaces: Option<&BindingRow>,
    then: &BindingRow,
    new_config: Option<&str>,
) -> Result<Vec<Candidate>> {
    let deciders = decisions::find_deciders(db, organization, since)?;
    if counted_before(&deciders, then) {
        return Ok(Vec::new()); // back to a version that counted before
    }
    // Removed bindings included: their replacement must not be switched before it has decided anything.
    let counting = counting(db, organization)?;
    let still = |id| counting.iter().any(|row| row.id == id && row.id != then.id);
    let mut takes_over: Vec<_> = deciders.into_iter().map(|decider| decider.binding_id).collect();
    takes_over.sort_unstable();
    takes_over.dedup();
    takes_over.retain(|id| !still(*id));
    let config = match new_config {
        Some(config) => config.to_owned(),
        None => find_config(db, then)?,
    };
    let config_kept = replaces.is_some_and(|row| row.version.config_digest == then.version.config_digest);
    let own_config = config_kept.then_some(then.id);
    Ok(vec![candidate(db, then, config, own_config, takes_over)?])
}

/// Returns whether this binding and version counted before, and was asked at no other hooks than it is to be now.
fn counted_before(deciders: &[DeciderRow], then: &BindingRow) -> bool {
    let mut of_version = deciders
        .iter()
        .filter(|decider| {
            decider.counted
                && decider.binding_id == then.id
                && decider.plugin_digest == then.version.plugin_digest
                && decider.config_digest == then.version.config_digest
        })
        .peekable();
    of_version.peek().is_some() && of_version.all(|decider| then.version.hooks.contains(&decider.hook))
}

/// Returns the other versions of a plugin that remain when a binding of it stops counting: to bind the new one
/// first and then remove the old one is a switch, too. The same file with another configuration may be a policy
/// of its own; it is treated as one if it stood beside the other, unchanged, for the whole period.
fn left_alone(
    db: &Connection,
    organization: OrganizationId,
    since: Timestamp,
    gone: &BindingRow,
) -> Result<Vec<Candidate>> {
    let name = find_manifest(db, gone)?.name;
    let mut left = Vec::new();
    for row in counting(db, organization)? {
        let another = row.version.plugin_digest != gone.version.plugin_digest
            || !row.version.stands_for(&gone.version) && row.updated_at >= since;
        if row.id != gone.id && another && find_manifest(db, &row)?.name == name {
            let config = find_config(db, &row)?;
            left.push(candidate(db, &row, config, None, vec![gone.id])?);
        }
    }
    Ok(left)
}

/// Returns the organisation's own bindings that count.
fn counting(db: &Connection, organization: OrganizationId) -> Result<Vec<BindingRow>> {
    let mut rows = bindings::find_bindings(db, Of::Organization(organization))?;
    rows.retain(|row| row.organization_id.is_some() && counts(row));
    Ok(rows)
}

fn candidate(
    db: &Connection,
    row: &BindingRow,
    config: String,
    own_config: Option<Uuid>,
    takes_over: Vec<Uuid>,
) -> Result<Candidate> {
    Ok(Candidate {
        digest: Digest(row.version.plugin_digest),
        manifest: find_manifest(db, row)?,
        config,
        terms: Terms {
            hooks: row.version.hooks.clone(),
            limits: from_json::<Limits>(&row.limits)?,
            own_config,
        },
        takes_over: Follow::Counted(takes_over),
    })
}

fn find_manifest(db: &Connection, row: &BindingRow) -> Result<Manifest> {
    plugins::find_manifest(db, &row.version.plugin_digest)?.ok_or(Error::Stale)
}

fn find_config(db: &Connection, row: &BindingRow) -> Result<String> {
    configurations::find_configuration(db, &row.version.config_digest)?.ok_or(Error::Stale)
}

async fn replay(
    services: &Services,
    organization: OrganizationId,
    since: Timestamp,
    candidate: Candidate,
) -> Result<()> {
    let replay = Replay {
        plugin_digest: candidate.digest,
        organization: Some(organization),
        since,
        follow: candidate.takes_over,
        config: Some(from_json(&candidate.config)?),
    };
    let turn = services.bindings.gates().take(Some(organization)).await;
    let (manifest, terms) = (candidate.manifest, Some(candidate.terms));
    let organizations = vec![organization];
    let report = replay_on_terms(
        services,
        turn,
        manifest,
        organizations,
        replay,
        terms,
        unwatched(),
    )
    .await?;
    // A failed call decided nothing, so it does not hold back a version that answers. Otherwise a failing policy
    // could not be fixed for as long as its failures are in the period.
    let differing = report.differing - report.mended;
    if report.complete && differing == 0 {
        return Ok(()); // without decisions in the period there is nothing to keep
    }
    let differ = match differing {
        0 => "not all of them could be replayed in time".to_owned(),
        differing => format!("{differing} of {} differ", report.compared),
    };
    Err(Error::Conflict(format!(
        "This organisation lets another version count only when it decides the resets of the last {DAYS} days \
         as they were decided, and {differ}; replay the plugin to see which"
    )))
}
