//! Committing the outcome of a reset: one transaction, all or nothing (invariant 1; ASVS 2.3.3).

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use super::entry::{agreement_event, asked_rows, committed_to, demanding, event};
use super::facts::ResetCase;
use super::order::Idempotency;
use super::{Ending, Judgement, Refusal, ResetAnswer, ResetOrder};
use crate::domain::account::{Lock, OrganizationId, UserId};
use crate::domain::approval::{Approval, ApprovalState};
use crate::domain::audit::{AuditResult, Event};
use crate::domain::policy::{Effect, ResultKind};
use crate::domain::{Error, Result};
use crate::keys::KeyRing;
use crate::service::api_keys::end_keys_of;
use crate::service::mandate::Mandate;
use crate::service::metrics::ResetEnd;
use crate::service::{Services, approvals, deliveries, notices, plugins as policies};
use crate::store::accounts::{self, AfterReset};
use crate::store::approvals::{insert_approval, update_agreement, update_state};
use crate::store::bindings::note_approval_demanded;
use crate::store::decisions::{AskedRow, DecisionRow, insert_decisions};
use crate::store::deliveries::OwedDelivery;
use crate::store::requests::{self, ResetCall};
use crate::store::revisions::{Revisions, find_revisions};
use crate::store::{Touched, Transaction, WriteTerms, audit, challenges, factors, sessions};

/// Commits a decided reset, whatever its outcome.
///
/// # Errors
/// [`Error::Stale`] (unrecorded) if the state it was decided on has changed; [`Error::Denied`] and
/// [`Error::PolicyFailed`] (recorded) if that is the outcome.
pub(super) async fn commit(
    services: &Services,
    order: &ResetOrder,
    case: ResetCase,
    judgement: Judgement,
) -> Result<ResetAnswer, Refusal> {
    let refusal = match &judgement.ending {
        Ending::Denied(denied) => Some(Error::Denied(denied.clone())),
        Ending::Failed(cause) => Some(Error::PolicyFailed { cause: cause.clone() }),
        Ending::Done | Ending::AwaitsApproval(_) => None,
    };
    let end = match &judgement.ending {
        Ending::Done => ResetEnd::Done,
        Ending::Denied(_) => ResetEnd::Denied,
        Ending::AwaitsApproval(_) => ResetEnd::AwaitsApproval,
        Ending::Failed(_) => ResetEnd::PolicyFailed,
    };
    let organization = case.organization.id;
    let mut change = Change::prepare(services, order, case, judgement)?;
    let (enrolment_code, alarms) = (change.enrolment_code.clone(), change.alarms.clone());
    let answered = change.answered.clone();
    let terms = WriteTerms {
        party: Some(organization),
        touched: Touched::Users(vec![change.target]),
    };
    let committed = services.store.write_by(terms, move |tx| change.run(tx)).await;
    let (mut answer, sequence) = committed.inspect_err(|_| policies::withdraw_alarms(services, &alarms))?;
    services.counts.reset_ended(end);
    answered.noted(services);
    policies::sample_for_recheck(services, organization, sequence);
    if let Some(error) = refusal {
        return Err(Refusal::Recorded(error));
    }
    answer.enrolment_code = enrolment_code;
    Ok(answer)
}

/// Everything the transaction needs, prepared outside it: no hashing, serialising or random numbers while
/// others wait for the writer.
struct Change {
    at: Timestamp,
    judged: Judged,
    target: UserId,
    target_revision: i64,
    what: What,
    event: Event,
    entry_id: Uuid,
    /// The entry of the approval given by this call, which precedes that of the reset.
    agreed: Option<(Uuid, Event)>,
    call: ResetCall,
    asked: AskedRow,
    decisions: Vec<DecisionRow>,
    /// The bindings that required a second admin.
    demanding: Vec<Uuid>,
    answered: policies::FirstAnswers,
    alarms: Vec<policies::Alarm>,
    deliveries: Vec<OwedDelivery>,
    remember: Option<(UserId, Idempotency)>,
    enrolment_code: Option<String>,
}

/// The revisions that the decision rests on (invariant 3).
struct Judged {
    organization: OrganizationId,
    actor: UserId,
    revisions: Revisions,
    mandate: Mandate,
}

enum What {
    Reset(AfterReset),
    /// Change nothing except what a policy wants done on a denial.
    Refuse {
        end_sessions: bool,
        lock_reason: Option<String>,
    },
    AskSecondAdmin(Box<Approval>),
    /// Record one more approval; it is still not enough.
    AskFurtherAdmin {
        needed: u8,
    },
}

impl What {
    fn of(services: &Services, order: &ResetOrder, judgement: &Judgement, after: &AfterReset) -> Self {
        match &judgement.ending {
            Ending::Done => Self::Reset(after.clone()),
            Ending::Denied(_) => Self::Refuse {
                end_sessions: judgement.effects.contains(&Effect::RevokeSessions),
                lock_reason: after.lock_reason.clone(),
            },
            Ending::Failed(_) => Self::Refuse {
                end_sessions: false,
                lock_reason: None,
            },
            Ending::AwaitsApproval(wanted) => match &order.mandate.agreement {
                None => Self::AskSecondAdmin(Box::new(approvals::of_reset(services, order, wanted))),
                Some(agreement) => Self::AskFurtherAdmin {
                    needed: wanted.approvals.max(agreement.approval.needed),
                },
            },
        }
    }
}

fn deliveries_of(
    services: &Services,
    order: &ResetOrder,
    case: &ResetCase,
    judgement: &Judgement,
    what: &What,
) -> Vec<OwedDelivery> {
    match (&judgement.ending, what) {
        (Ending::Done, _) => notices::of_reset(services, case, order, &judgement.effects),
        (_, What::AskSecondAdmin(approval)) => approvals::asked_notices(
            services,
            &case.organization,
            &case.actor,
            &case.target,
            &case.admin_emails,
            approval,
        ),
        (Ending::Denied(_), _) => notices::of_effects(services, case, &judgement.effects),
        (Ending::AwaitsApproval(_) | Ending::Failed(_), _) => Vec::new(),
    }
}

impl Change {
    fn prepare(
        services: &Services,
        order: &ResetOrder,
        case: ResetCase,
        judgement: Judgement,
    ) -> Result<Self> {
        let at = order.context.at;
        let agreed =
            agreement_event(order, &case, &judgement).map(|event| (services.entropy.uuid(at), event));
        let entry_id = services.entropy.uuid(at);
        let (after, enrolment_code) = after_reset(services, &case, &judgement.effects, at);
        let (result, kind) = match &judgement.ending {
            Ending::Done | Ending::AwaitsApproval(_) => (AuditResult::Success, ResultKind::Done),
            Ending::Denied(_) => (AuditResult::Denied, ResultKind::Denied),
            Ending::Failed(_) => (AuditResult::Failure, ResultKind::Failed),
        };
        let what = What::of(services, order, &judgement, &after);
        let deliveries = deliveries_of(services, order, &case, &judgement, &what);
        let (asked, decisions) = asked_rows(&case, &judgement)?;
        let digest = asked.digest(&decisions);
        let event = committed_to(&digest, event(order, &case, &judgement, &after, result));
        let agreed = match &what {
            // Here the question is stored under the approval's entry.
            What::AskFurtherAdmin { .. } => agreed.map(|(id, agreed)| (id, committed_to(&digest, agreed))),
            _ => agreed,
        };
        Ok(Self {
            at,
            judged: Judged {
                organization: case.organization.id,
                actor: case.actor.id,
                revisions: Revisions {
                    organization: Some(case.organization.revision),
                    actor: order.mandate.revision_of(&case.actor),
                    target: Some(case.target.revision),
                    policies: case.policies.revision,
                },
                mandate: order.mandate.clone(),
            },
            target: case.target.id,
            target_revision: case.target.revision,
            event,
            entry_id,
            agreed,
            call: ResetCall {
                organization_id: case.organization.id,
                actor_id: case.actor.id,
                target_id: case.target.id,
                at,
                outcome: kind,
                ticket: order.body.ticket.clone(),
            },
            asked,
            decisions,
            demanding: demanding(&judgement.records),
            answered: policies::first_answers(services, case.policies.revision, &judgement.records),
            alarms: policies::raise_alarms(services, case.organization.id, &judgement.records),
            deliveries,
            remember: order
                .idempotency
                .filter(|_| matches!(judgement.ending, Ending::Done | Ending::AwaitsApproval(_)))
                .map(|idempotency| (order.mandate.actor, idempotency)),
            enrolment_code: if matches!(what, What::Reset(_)) {
                enrolment_code
            } else {
                None
            },
            what,
        })
    }

    /// Runs the transaction. A failure anywhere rolls back everything.
    fn run(&mut self, tx: &Transaction<'_>) -> Result<(ResetAnswer, u64)> {
        self.judged.still_hold(tx, self.target, self.at)?;
        let approval_id = self.carry_out(tx)?;
        self.end_approval(tx)?;
        let entry = match (&self.what, &self.agreed) {
            (What::AskFurtherAdmin { .. }, Some((id, agreed))) => audit::append(tx, self.at, *id, agreed)?,
            (_, agreed) => {
                if let Some((id, agreed)) = agreed {
                    audit::append(tx, self.at, *id, agreed)?;
                }
                audit::append(tx, self.at, self.entry_id, &self.event)?
            }
        };
        if matches!(self.what, What::Reset(_) | What::Refuse { .. }) {
            requests::insert_reset_call(tx, &self.call)?;
        }
        insert_decisions(tx, entry.sequence, &self.asked, &self.decisions)?;
        for binding in &self.demanding {
            note_approval_demanded(tx, *binding, self.at)?;
        }
        self.answered.note(tx)?;
        deliveries::owe(tx, &self.deliveries, entry.sequence, self.at)?;
        for alarm in &self.alarms {
            audit::append(tx, self.at, alarm.entry_id, &alarm.event)?;
        }
        let answer = ResetAnswer {
            approval_id,
            enrolment_code: None,
            audit_id: self.entry_id,
        };
        if let Some((
            actor,
            Idempotency {
                key_hash,
                fingerprint,
            },
        )) = &self.remember
        {
            requests::insert_remembered(tx, *actor, key_hash, fingerprint, &to_json(&answer)?, self.at)?;
        }
        Ok((answer, entry.sequence))
    }

    /// Changes the user, or asks for an approval. Returns the approval that the reset awaits then.
    fn carry_out(&mut self, tx: &Transaction<'_>) -> Result<Option<Uuid>> {
        match &self.what {
            What::Reset(after) => {
                accounts::update_user_after_reset(tx, self.target, self.target_revision, after, self.at)?;
                let removed = factors::clear_factors(tx, self.target, self.at)?;
                factors::clear_enrolment(tx, self.target)?;
                challenges::clear_challenges(tx, self.target)?;
                let ended = sessions::delete_sessions(tx, self.target)?;
                end_keys_of(tx, self.target, self.at, &mut self.event)?;
                let removed: Vec<_> = removed.iter().map(|f| json!(f.kind)).collect();
                self.note("removedFactors", removed);
                self.note("sessionsEnded", ended);
            }
            What::Refuse {
                end_sessions,
                lock_reason,
            } => {
                if let Some(reason) = lock_reason {
                    let lock = Lock {
                        at: self.at,
                        reason: reason.clone(),
                    };
                    accounts::update_lock(tx, self.target, Some(&lock), self.at)?;
                }
                if *end_sessions {
                    let ended = sessions::clear_sessions(tx, self.target, self.at)?;
                    self.note("sessionsEnded", ended);
                }
            }
            What::AskSecondAdmin(approval) => {
                insert_approval(tx, approval)?;
                let id = approval.id;
                self.note("approvalId", id.to_string());
                return Ok(Some(id));
            }
            What::AskFurtherAdmin { .. } => {
                return Ok(self.judged.mandate.agreement.as_ref().map(|a| a.approval.id));
            }
        }
        Ok(None)
    }

    /// Adds to the entry what only the transaction knows. Idempotent, in case the transaction runs twice.
    fn note(&mut self, name: &str, value: impl Into<Value>) {
        self.event.details.insert(name.to_owned(), value.into());
    }

    /// Updates the approval that this call agreed to. If a policy failed it stays as it was, so that the
    /// approver can try again.
    fn end_approval(&self, tx: &Transaction<'_>) -> Result<()> {
        let Some(agreement) = &self.judged.mandate.agreement else {
            return Ok(());
        };
        let (approval, all) = (&agreement.approval, agreement.all());
        match (&self.what, self.call.outcome) {
            (What::AskFurtherAdmin { needed }, _) => update_agreement(tx, approval, &all, *needed),
            (_, ResultKind::Done) => update_state(tx, approval, ApprovalState::Done, &all, self.at),
            (_, ResultKind::Denied) => update_state(tx, approval, ApprovalState::Denied, &all, self.at),
            (_, ResultKind::Failed) => Ok(()),
        }
    }
}

impl Judged {
    fn still_hold(&self, tx: &Transaction<'_>, target: UserId, at: Timestamp) -> Result<()> {
        let now = find_revisions(tx, self.organization, self.actor, target)?;
        if now != self.revisions {
            return Err(Error::Stale);
        }
        self.mandate.still_holds(tx, at)
    }
}

/// Returns the state of the user after the reset: if MFA is required, the password alone gives access only to
/// enrolment, for a bounded time (invariant 6).
fn after_reset(
    services: &Services,
    case: &ResetCase,
    effects: &[Effect],
    at: Timestamp,
) -> (AfterReset, Option<String>) {
    let settings = &case.organization.settings;
    let default_hours = u32::from(settings.enrolment_window_hours);
    let asked = effects.iter().filter_map(|effect| match effect {
        Effect::RequireEnrolment(0) => Some(default_hours),
        Effect::RequireEnrolment(hours) => Some(*hours),
        _ => None,
    });
    let code_wanted = settings.enrolment_code_required || effects.contains(&Effect::RequireEnrolmentCode);
    let by_rule = (settings.mfa_required || code_wanted).then_some(default_hours);
    // If several windows are required, the shortest applies.
    let hours = asked.chain(by_rule).min();
    let until = hours.map(|hours| at + SignedDuration::from_hours(i64::from(hours)));
    let code = code_wanted.then(|| KeyRing::enrolment_code(&services.entropy));
    let code_until = at + SignedDuration::from_mins(i64::from(settings.enrolment_code_minutes));
    let after = AfterReset {
        enrolment_due_until: until,
        enrolment_code: code.as_ref().map(|code| {
            (
                services.keys.enrolment_code_hash(case.target.id, code),
                until.map_or(code_until, |u| u.min(code_until)),
            )
        }),
        lock_reason: effects
            .contains(&Effect::LockAccount)
            .then(|| "Locked by the organisation's policy at an MFA reset".to_owned()),
    };
    (after, code)
}

pub(super) fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::Internal(format!("JSON: {e}")))
}
