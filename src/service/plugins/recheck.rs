//! Asking recorded questions again: the parts that replays and re-checks share, and the re-check itself.

use crate::domain::policy::{Answer, History, Hook, Outcome, Question};
use crate::domain::{Error, Result};
use crate::plugin_host::{CallEnd, DecisionRecord, Digest, Limits};
use crate::service::Services;
use crate::store::decisions::{self, AskedRow};
use crate::store::{Store, bindings, plugins};

use super::recorded_calls::{ended_so, shown};
use super::{blocking, from_json, off_the_path};

/// Returns the widest limits that a binding can grant.
pub(super) fn widest() -> Limits {
    Limits {
        deadline_ms: u32::MAX,
        memory_bytes: u64::MAX,
        table_elements: u32::MAX,
        fuel: 0,
        answer_bytes: u32::MAX,
        log_lines: u32::MAX,
        log_bytes: u32::MAX,
    }
    .bounded()
}

pub(super) fn configuration(store: &Store, digest: [u8; 32]) -> Result<String> {
    store
        .read(|db| bindings::find_configuration(db, &digest))?
        .ok_or_else(|| Error::Internal(format!("configuration {} is missing", hex::encode(digest))))
}

/// Returns the outcome as this call was shown it.
pub(super) fn outcome_shown(asked: &AskedRow, record: &DecisionRecord) -> Result<Option<Outcome>> {
    if record.hook == Hook::BeforeReset {
        return Ok(None);
    }
    let outcome = asked.outcome.as_deref();
    let outcome = outcome.ok_or_else(|| Error::Internal("a decision's outcome is missing".into()))?;
    let mut outcome: Outcome = from_json(outcome)?;
    if let Some(effects) = &record.effects_so_far {
        outcome.effects.clone_from(effects);
    }
    Ok(Some(outcome))
}

pub(super) fn nothing_said(hook: Hook) -> Answer {
    match hook {
        Hook::BeforeReset => Answer::Allow(Vec::new()),
        Hook::AfterReset => Answer::Effects(Vec::new()),
    }
}

/// A recorded call whose module gave another answer when asked again.
pub(super) struct Deviation {
    pub(super) record: DecisionRecord,
    pub(super) replayed: CallEnd,
}

/// Asks every answered question of one reset again, of the very version that answered it.
pub(super) async fn deviations(services: &Services, sequence: u64) -> Result<Vec<Deviation>> {
    let (store, host) = (services.store.clone(), services.plugin_host.clone());
    let decided = services.store.read(|db| decisions::find_decided(db, sequence))?;
    let Some(decided) = decided else {
        return Ok(Vec::new());
    };
    off_the_path(move || async move {
        let question: Question = from_json(&decided.asked.question)?;
        let mut found = Vec::new();
        for row in &decided.decisions {
            let record: DecisionRecord = from_json(&row.record)?;
            if matches!(record.end, CallEnd::Failure(_)) {
                continue; // a deadline missed once may be met the next time
            }
            let config = configuration(&store, row.config_digest)?;
            let outcome = outcome_shown(&decided.asked, &record)?;
            let (module_host, module_store) = (host.clone(), store.clone());
            let digest = Digest(row.plugin_digest);
            let prepared = blocking(move || super::prepare_blocking(&module_host, &module_store, digest))
                .await?
                .map_err(super::refused)?;
            let manifest = store.read(|db| plugins::find_manifest(db, &digest.0))?;
            let days = manifest.map_or(History::WHOLE, |manifest| manifest.history_days);
            let replayed = host
                .ask_again(&prepared, widest(), &config, &question, days, outcome.as_ref())
                .await;
            if !ended_so(&record, &replayed)? {
                let replayed = shown(&replayed)?;
                let end = shown(&record.end)?;
                let record = DecisionRecord { end, ..record };
                found.push(Deviation { record, replayed });
            }
        }
        Ok(found)
    })
    .await?
}
