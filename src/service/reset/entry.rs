//! The audit entry of a reset, and the data stored beside it for replay.

use serde_json::{Value, json};
use uuid::Uuid;

use super::ending::to_json;
use super::facts::ResetCase;
use super::{Ending, Judgement, ResetOrder};
use crate::domain::Result;
use crate::domain::approval::Wanted;
use crate::domain::audit::{ActorRef, AuditResult, Event, EventType, Resource};
use crate::domain::policy::{Answer, Effect, Mode, RefusedEffect};
use crate::domain::printable::clip;
use crate::plugin_host::{Asked, CallEnd, DecisionRecord};
use crate::service::{approvals, plugins as policies};
use crate::store::accounts::AfterReset;
use crate::store::decisions::{AskedRow, DecisionRow};

pub(super) fn event(
    order: &ResetOrder,
    case: &ResetCase,
    judgement: &Judgement,
    after: &AfterReset,
    result: AuditResult,
) -> Event {
    // A reset that did not happen must not have the entry of one: waiting for approval is recorded as a
    // request.
    let event_type = match &judgement.ending {
        Ending::AwaitsApproval(_) => EventType::ApprovalRequest,
        Ending::Done | Ending::Denied(_) | Ending::Failed(_) => EventType::UserMfaReset,
    };
    let mut event = Event::new(
        event_type,
        Some(case.organization.id),
        ActorRef::user(&case.actor),
    )
    .on(Resource::user(&case.target))
    .with("channel", json!(order.context.channel));
    event = match &order.mandate.agreement {
        None => event.from_request(&order.context.request_id, order.context.ip),
        // The client's address is the approver's, and is in the entry of the approval.
        Some(agreement) => event
            .from_request(&order.context.request_id, None)
            .with("approvalId", agreement.approval.id.to_string()),
    };
    for (name, value) in [("reason", &order.body.reason), ("ticket", &order.body.ticket)] {
        if let Some(value) = value {
            event = event.with(name, value.as_str());
        }
    }
    if !case.approved_by.is_empty() {
        event = event.with("approvedBy", case.approved_by.clone());
    }
    if !judgement.records.is_empty() {
        event = event.with(
            "policies",
            judgement.records.iter().map(policy_summary).collect::<Vec<_>>(),
        );
    }
    if !judgement.effects.is_empty() {
        event = event.with("effects", json!(judgement.effects));
    }
    match &judgement.ending {
        Ending::Done => {
            if let Some(until) = after.enrolment_due_until {
                event = event.with("enrolmentDueUntil", until.to_string());
            }
            event.result = result;
            event
        }
        Ending::AwaitsApproval(approval) => event
            .with("wanted", json!(Wanted::ResetMfa))
            .with("awaitsApproval", json!(approval)),
        Ending::Denied(denied) => event
            .ended(result, &denied.message)
            .with("denial", json!(denied.denial))
            .with("deniedBy", denied.plugin.as_str()),
        Ending::Failed(cause) => event
            .ended(result, "A policy could not be evaluated")
            .with("cause", cause.as_str()),
    }
}

/// Returns the entry of the approval given by this call, unless a failing policy prevents it from counting.
pub(super) fn agreement_event(order: &ResetOrder, case: &ResetCase, judgement: &Judgement) -> Option<Event> {
    let agreement = order.mandate.agreement.as_ref()?;
    if matches!(judgement.ending, Ending::Failed(_)) {
        return None;
    }
    let needed = match &judgement.ending {
        Ending::AwaitsApproval(wanted) => wanted.approvals.max(agreement.approval.needed),
        _ => agreement.approval.needed,
    };
    let event = approvals::agreed(agreement, &case.target, needed);
    Some(event.from_request(&order.context.request_id, order.context.ip))
}

/// Summarises which policy version decided what, for the entry itself. The entry stays for good and goes to
/// every reader, so it has only an outline; the full record is stored beside it, and the entry commits to that.
fn policy_summary(record: &DecisionRecord) -> Value {
    let mut summary = json!({
        "name": record.plugin,
        "version": record.version,
        "digest": record.digest,
        "config": record.config_digest,
        "hook": record.hook,
        "mode": record.mode,
        "end": end_summary(&record.end),
        "refused": refused_summary(&record.refused),
    });
    if record.asked != Asked::Current {
        summary["asked"] = json!(record.asked);
    }
    if let Some(percent) = record.canary {
        summary["canary"] = json!(percent);
    }
    summary
}

fn end_summary(end: &CallEnd) -> Value {
    match end {
        CallEnd::Failure(failure) => json!({ "failure": failure }), // the host bounds its text
        CallEnd::Answer(Answer::Allow(effects)) => json!({ "answer": { "allow": names(effects) } }),
        CallEnd::Answer(Answer::Effects(effects)) => json!({ "answer": { "effects": names(effects) } }),
        CallEnd::Answer(Answer::Deny(denial)) => json!({ "answer": { "deny": {
            "code": clip(&denial.code, NAME_CHARS),
            "message": clip(&denial.message, TEXT_CHARS),
        } } }),
        CallEnd::Answer(Answer::RequireApproval(approval)) => json!({ "answer": { "require-approval": {
            "approvals": approval.approvals,
            "reason": clip(&approval.reason, TEXT_CHARS),
        } } }),
    }
}

/// Returns the name of each effect once.
fn names(effects: &[Effect]) -> Vec<String> {
    let mut names = Vec::new();
    for effect in effects {
        let name = clip(effect.name(), NAME_CHARS);
        if !names.contains(&name) {
            names.push(name);
        }
        if names.len() == NAMES_MAX {
            break;
        }
    }
    names
}

/// Returns each reason once.
fn refused_summary(refused: &[RefusedEffect]) -> Vec<Value> {
    let mut reasons = Vec::new();
    for refused in refused {
        let reason = json!({
            "effect": clip(refused.effect.name(), NAME_CHARS),
            "why": clip(&refused.why, TEXT_CHARS),
        });
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
        if reasons.len() == NAMES_MAX {
            break;
        }
    }
    reasons
}

/// Returns the rows stored beside the entry for replay.
pub(super) fn asked_rows(case: &ResetCase, judgement: &Judgement) -> Result<(AskedRow, Vec<DecisionRow>)> {
    let asked = AskedRow {
        question: to_json(&*case.question)?,
        outcome: judgement.outcome.as_ref().map(to_json).transpose()?,
    };
    let kept = policies::keep_calls(&judgement.records)?;
    let calls = judgement.records.iter().zip(kept);
    let decisions = calls.map(|(record, text)| decision_row(record, text)).collect();
    Ok((asked, decisions))
}

/// Adds the digest of the rows stored beside the entry, so that they can't be changed unnoticed either.
pub(super) fn committed_to(asked_digest: &[u8; 32], event: Event) -> Event {
    event.with("askedDigest", hex::encode(asked_digest))
}

fn decision_row(record: &DecisionRecord, kept: String) -> DecisionRow {
    DecisionRow {
        binding_id: record.binding_id,
        plugin_digest: record.digest.0,
        config_digest: record.config_digest.0,
        record: kept,
    }
}

/// Returns the bindings whose requirement of a second admin counts.
pub(super) fn demanding(records: &[DecisionRecord]) -> Vec<Uuid> {
    let demands = |record: &&DecisionRecord| {
        record.mode == Mode::Enforce && matches!(record.end, CallEnd::Answer(Answer::RequireApproval(_)))
    };
    records
        .iter()
        .filter(demands)
        .map(|record| record.binding_id)
        .collect()
}

/// Maximum characters of a name in an entry.
const NAME_CHARS: usize = 64;
/// Maximum characters of a sentence: no answer that counts has a longer one.
const TEXT_CHARS: usize = 500;
/// Maximum number of names, or of reasons, per call.
const NAMES_MAX: usize = 16;
