//! Asking recorded questions again: the parts that replays and re-checks share, and the re-check itself.

use crate::domain::policy::{Answer, History, Hook, Outcome, Question, merge_effects};
use crate::domain::{Error, Result};
use crate::plugin_host::{CallEnd, DecisionRecord, Digest, Limits};
use crate::service::Services;
use crate::store::decisions::{self, AskedRow};
use crate::store::{Store, configurations, plugins};

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
        .read(|db| configurations::find_configuration(db, &digest))?
        .ok_or_else(|| Error::Internal(format!("configuration {} is missing", hex::encode(digest))))
}

/// The outcome of one reset as its `after-reset` calls were shown it, followed from call to call.
pub(super) struct OutcomeShown(Option<Outcome>);

impl OutcomeShown {
    /// Begins with what the first of these calls was shown.
    pub(super) fn first(asked: &AskedRow) -> Result<Self> {
        Ok(Self(asked.outcome.as_deref().map(from_json).transpose()?))
    }

    /// Returns what the next recorded call was shown; absent for a call before the reset. Must be given every call of
    /// the reset, in order.
    pub(super) fn next(&mut self, record: &DecisionRecord) -> Result<Option<Outcome>> {
        if record.hook == Hook::BeforeReset {
            return Ok(None);
        }
        let outcome = self.0.as_mut();
        let outcome = outcome.ok_or_else(|| Error::Internal("a decision's outcome is missing".into()))?;
        if let Some(effects) = &record.effects_so_far {
            outcome.effects.clone_from(effects);
        }
        merge_effects(&mut outcome.effects, record.effects_added.clone());
        Ok(Some(outcome.clone()))
    }
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
        let mut shown_next = OutcomeShown::first(&decided.asked)?;
        for row in &decided.decisions {
            let record: DecisionRecord = from_json(&row.record)?;
            let outcome = shown_next.next(&record)?;
            if matches!(record.end, CallEnd::Failure(_)) {
                continue; // a deadline missed once may be met the next time
            }
            let config = configuration(&store, row.config_digest)?;
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The notes that each of these calls was shown.
    fn shown(calls: &[Value]) -> Vec<Vec<String>> {
        let outcome = json!({ "kind": "done", "removed": [], "effects": [note("a")] });
        let asked = AskedRow {
            question: String::new(),
            outcome: Some(outcome.to_string()),
        };
        let mut shown = OutcomeShown::first(&asked).expect("an outcome");
        let calls = calls.iter().map(|more| {
            let mut record = json!({
                "bindingId": uuid::Uuid::nil(), "plugin": "p", "version": "1.0.0", "digest": "0".repeat(64),
                "configDigest": "0".repeat(64), "hook": "after-reset", "mode": "enforce",
                "end": { "answer": { "effects": [] } }, "usage": { "elapsedMicros": 1, "peakMemoryBytes": 1 },
            });
            let fields = record.as_object_mut().expect("an object");
            fields.extend(more.as_object().expect("an object").clone());
            let record = from_json(&record.to_string()).expect("a record");
            let outcome = shown.next(&record).expect("shown");
            let effects = outcome.map(|outcome| json!(outcome.effects)).unwrap_or_default();
            let effects = effects.as_array().cloned().unwrap_or_default();
            let values = effects
                .iter()
                .map(|effect| effect["annotate"]["value"].to_string());
            values.collect()
        });
        calls.collect()
    }

    fn note(value: &str) -> Value {
        json!({ "annotate": { "name": "note", "value": value } })
    }

    #[test]
    fn each_call_is_asked_again_with_what_it_was_shown() {
        let before = json!({ "hook": "before-reset", "end": { "answer": { "allow": [] } } });
        let now = [
            before.clone(),
            json!({}),
            json!({ "effectsAdded": [note("b")] }),
            json!({}),
            json!({ "effectsAdded": [note("c"), note("d")] }),
        ];
        // As they were recorded before only additions were kept.
        let then = [
            before,
            json!({}),
            json!({ "effectsSoFar": [note("a"), note("b")] }),
            json!({ "effectsSoFar": [note("a"), note("b")] }),
            json!({ "effectsSoFar": [note("a"), note("b"), note("c"), note("d")] }),
        ];
        assert_eq!(shown(&now), shown(&then));
        let counts: Vec<_> = shown(&now).iter().map(Vec::len).collect();
        assert_eq!(counts, [0, 1, 2, 2, 4]);
    }
}
