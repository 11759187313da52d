//! What is kept of a call for replay, and what is shown of one that is too long to show in full.
//!
//! A plugin may return far more than can ever count: megabytes at each call, for each of an organisation's
//! bindings. What is kept of one reset is bounded, and a replay stays exact all the same: of an answer that does
//! not fit, the digest is kept. To treat it as a failure instead would let one policy's answer depend on how much
//! others had returned before.

use super::to_json;
use crate::domain::Result;
use crate::domain::policy::{Answer, ApprovalDemand, Attribute, Denial, Effect, Notice, RefusedEffect};
use crate::domain::printable::clip;
use crate::plugin_host::{CallEnd, DecisionRecord, Digest};

/// Maximum bytes of JSON that are kept word for word of all calls of one reset together.
const KEPT_BYTES: usize = 1 << 20;
/// Maximum bytes of JSON of an answer that is shown word for word.
const SHOWN_BYTES: usize = 16 << 10;
/// Maximum effects and facts kept of a longer list.
const ITEMS_MAX: usize = 16;
/// Maximum characters kept of a longer text.
const TEXT_CHARS: usize = 200;

/// Returns the calls of one reset as they are kept: each as JSON, in order.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) if a record can't be serialised.
pub fn keep_calls(records: &[DecisionRecord]) -> Result<Vec<String>> {
    let mut room = KEPT_BYTES;
    let mut kept = Vec::with_capacity(records.len());
    for record in records {
        let mut text = keep(record)?;
        if text.len() > room {
            text = to_json(&without_the_bulk(record)?)?;
        }
        room = room.saturating_sub(text.len());
        kept.push(text);
    }
    Ok(kept)
}

/// Returns whether a call ended as recorded, byte for byte.
pub(super) fn ended_so(record: &DecisionRecord, end: &CallEnd) -> Result<bool> {
    let end = to_json(end)?;
    Ok(match record.end_digest {
        Some(digest) => digest == Digest::of(end.as_bytes()),
        None => to_json(&record.end)? == end,
    })
}

/// Returns an end as a report shows it: shortened if it is too long.
pub(super) fn shown(end: &CallEnd) -> Result<CallEnd> {
    Ok(if to_json(end)?.len() > SHOWN_BYTES {
        brief_end(end)
    } else {
        end.clone()
    })
}

/// Serialises the record word for word. Refused effects are shortened: the answer has them in full.
fn keep(record: &DecisionRecord) -> Result<String> {
    if record.refused.is_empty() {
        return to_json(record);
    }
    to_json(&DecisionRecord {
        refused: brief_refused(&record.refused),
        ..record.clone()
    })
}

fn without_the_bulk(record: &DecisionRecord) -> Result<DecisionRecord> {
    let lines = u32::try_from(record.log.len()).unwrap_or(u32::MAX);
    Ok(DecisionRecord {
        end: brief_end(&record.end),
        end_digest: Some(Digest::of(to_json(&record.end)?.as_bytes())),
        refused: brief_refused(&record.refused),
        log: Vec::new(),
        log_dropped: record.log_dropped.saturating_add(lines),
        ..record.clone()
    })
}

fn brief_end(end: &CallEnd) -> CallEnd {
    let CallEnd::Answer(answer) = end else {
        return end.clone(); // the host bounds the description of a failure
    };
    CallEnd::Answer(match answer {
        Answer::Allow(effects) => Answer::Allow(brief_effects(effects)),
        Answer::Effects(effects) => Answer::Effects(brief_effects(effects)),
        Answer::Deny(denial) => Answer::Deny(Denial {
            code: brief(&denial.code),
            message: brief(&denial.message),
            allowed_from: denial.allowed_from,
            because: denial
                .because
                .iter()
                .take(ITEMS_MAX)
                .map(brief_attribute)
                .collect(),
        }),
        Answer::RequireApproval(approval) => Answer::RequireApproval(ApprovalDemand {
            reason: brief(&approval.reason),
            ..approval.clone()
        }),
    })
}

fn brief_effects(effects: &[Effect]) -> Vec<Effect> {
    effects.iter().take(ITEMS_MAX).map(brief_effect).collect()
}

fn brief_refused(refused: &[RefusedEffect]) -> Vec<RefusedEffect> {
    let refused = refused.iter().map(|refused| RefusedEffect {
        effect: brief_effect(&refused.effect),
        why: refused.why.clone(),
    });
    refused.collect()
}

fn brief_effect(effect: &Effect) -> Effect {
    match effect {
        Effect::Notify(notice) => Effect::Notify(Notice {
            to: notice.to,
            subject: brief(&notice.subject),
            body: brief(&notice.body),
        }),
        Effect::Annotate(attribute) => Effect::Annotate(brief_attribute(attribute)),
        Effect::Other(attribute) => Effect::Other(brief_attribute(attribute)),
        bounded => bounded.clone(),
    }
}

fn brief_attribute(attribute: &Attribute) -> Attribute {
    Attribute {
        name: brief(&attribute.name),
        value: brief(&attribute.value),
    }
}

fn brief(text: &str) -> String {
    clip(text, TEXT_CHARS)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::policy::{Hook, Mode};
    use crate::plugin_host::{Asked, LogLevel, LogLine, Usage};

    fn record(end: CallEnd, refused: Vec<RefusedEffect>) -> DecisionRecord {
        DecisionRecord {
            binding_id: Uuid::nil(),
            plugin: "guest".into(),
            version: "1.0.0".into(),
            digest: Digest([1; 32]),
            config_digest: Digest([2; 32]),
            hook: Hook::BeforeReset,
            mode: Mode::Enforce,
            asked: Asked::Current,
            canary: None,
            effects_so_far: None,
            effects_added: Vec::new(),
            end,
            end_digest: None,
            refused,
            repaired: Vec::new(),
            log: vec![LogLine {
                level: LogLevel::Info,
                message: "a line".into(),
            }],
            log_dropped: 0,
            usage: Usage::default(),
            failures_in_a_row: 0,
        }
    }

    fn note(length: usize) -> Effect {
        Effect::Annotate(Attribute {
            name: "note".into(),
            value: "\u{1}".repeat(length),
        })
    }

    #[test]
    fn a_reset_keeps_a_bounded_part_of_what_is_said_and_a_replay_stays_exact() {
        let answer = |length| CallEnd::Answer(Answer::Allow(vec![note(length)]));
        let refused = vec![RefusedEffect {
            effect: note(100_000),
            why: "annotate is not granted to this binding".into(),
        }];
        let loud = record(answer(100_000), refused);
        let quiet = record(answer(10), Vec::new());
        let records: Vec<_> = std::iter::once(quiet.clone())
            .chain(std::iter::repeat_n(loud, 39))
            .collect();
        let kept = keep_calls(&records).unwrap();
        let bytes: usize = kept.iter().map(String::len).sum();
        assert!(bytes < KEPT_BYTES + KEPT_BYTES / 4, "{bytes}");

        let kept: Vec<DecisionRecord> = kept
            .iter()
            .map(|text| serde_json::from_str(text).unwrap())
            .collect();
        assert_eq!(kept[0], quiet, "what there is room for is kept word for word");
        assert_eq!(kept[1].end, answer(100_000));
        let last = &kept[39];
        assert!(last.end_digest.is_some());
        assert_eq!((last.log.len(), last.log_dropped), (0, 1));
        for record in &kept[1..] {
            assert!(ended_so(record, &answer(100_000)).unwrap());
            assert!(!ended_so(record, &answer(99_999)).unwrap());
            assert_eq!(record.refused.len(), 1);
        }
    }
}
