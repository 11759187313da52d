//! The MFA reset. [`reset_mfa`] is the core of the product: read it first.

mod ending;
mod entry;
mod facts;
mod in_flight;
mod order;

pub use facts::ResetCase;
pub use in_flight::InFlight;
pub use order::{ResetBody, ResetOrder, ResetRequest, read_user_id};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::metrics::ResetEnd;
use super::refusals::{record_refusal, written_user};
use super::{RequestContext, Services, plugins};
use crate::domain::account::{Principal, Role, User, Verb, may_act};
use crate::domain::audit::EventType;
use crate::domain::error::PolicyDenial;
use crate::domain::policy::{
    Answer, ApprovalDemand, Decision, Denial, Effect, Mode, Outcome, ResultKind, merge_effects,
};
use crate::domain::{Error, Result};
use crate::limiter::Bucket;
use crate::plugin_host::{CallEnd, DecisionRecord, Evaluation, PluginFailure};

/// How often a reset is re-evaluated if the state it was decided on changed in the meantime.
const ATTEMPTS: usize = 3;

/// The answer to a reset that succeeded or awaits approval.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResetAnswer {
    /// Set if a second admin has to approve; nothing has been changed yet.
    pub approval_id: Option<Uuid>,
    /// The one-time code that enrolment will require. Shown once: a repeated request does not return it.
    #[serde(skip)]
    pub enrolment_code: Option<String>,
    /// The entry that records it.
    pub audit_id: Uuid,
}

prints_no_secret!(ResetAnswer);

/// Resets a user's MFA: decided by the organisation's policies, completely or not at all, and recorded in the
/// trail.
///
/// # Errors
/// Each failure status of the reset call as an [`Error`]. Every outcome except 429 and 503 leaves one audit
/// entry; those two are counted and recorded once per caller and window.
pub async fn reset_mfa(
    services: &Services,
    principal: &Principal,
    request: ResetRequest,
) -> Result<ResetAnswer> {
    match attempt(services, principal, &request).await {
        Ok(answer) => Ok(answer),
        Err(Refusal::Recorded(error)) => Err(error),
        Err(Refusal::Unrecorded(error)) => {
            services.counts.reset_ended(ResetEnd::refused(&error));
            let (event_type, target) = (EventType::UserMfaReset, written_user(&request.target));
            Err(record_refusal(services, principal, &request.context, event_type, target, error).await)
        }
    }
}

async fn attempt(
    services: &Services,
    principal: &Principal,
    request: &ResetRequest,
) -> Result<ResetAnswer, Refusal> {
    admit_caller(services, principal)?; // 429, before anything is read
    may_call(principal, &request.context)?; // 403; 401 where a step-up is due
    admit_target(services, principal, request)?; // 403 for the caller's own account, 429
    match ResetOrder::from_request(principal, request) {
        Ok(order) => carry_out(services, order).await,
        Err(flaw) => Err(facts::before_flaw(services, principal, request, flaw).into()), // 404, 403, 400
    }
}

/// Resets as the operator at the command line: without limit and step-up, but with the policies consulted as
/// for anyone else. A policy that requires approval denies the operator's reset.
///
/// # Errors
/// As [`reset_mfa`]; [`Refusal`] tells whether it is already recorded.
pub(super) async fn reset_as_operator(
    services: &Services,
    user: &User,
    body: ResetBody,
    context: &RequestContext,
) -> Result<ResetAnswer, Refusal> {
    let attempt = async {
        let order = ResetOrder::of_operator(user, body, context)?;
        // While no server runs, the policies are not loaded yet.
        plugins::catch_up(services, Some(user.organization_id)).await?;
        carry_out(services, order).await
    };
    attempt.await.inspect_err(|refusal| {
        if let Refusal::Unrecorded(error) = refusal {
            services.counts.reset_ended(ResetEnd::refused(error));
        }
    })
}

/// Decides and carries out an order whose caller was admitted; also executes an approval.
///
/// # Errors
/// As [`reset_mfa`]; [`Refusal`] tells whether it is already recorded.
pub(super) async fn carry_out(services: &Services, mut order: ResetOrder) -> Result<ResetAnswer, Refusal> {
    let _under_way = services.in_flight.enter(&order.mandate, order.target);
    for _ in 0..ATTEMPTS {
        if let Some(answer) = order.remembered(services)? {
            return Ok(answer); // a repeat with the same Idempotency-Key changes nothing
        }
        let read = order.read.take();
        let case = facts::gather(services, &order, read)?; // 401, 404, 403, 400
        let judgement = judge(services, &case).await; // before and after hooks
        match ending::commit(services, &order, case, judgement).await {
            // The state has changed: decide again, by the current policies.
            Err(Refusal::Unrecorded(Error::Stale)) => {
                plugins::catch_up(services, Some(order.mandate.organization)).await?;
            }
            ended => return ended, // 200, 202, 403 by policy, 500
        }
    }
    Err(Error::Stale.into())
}

/// A refusal, and whether it is already in the trail.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Committed together with its entry.
    Recorded(Error),
    /// Yet to be recorded.
    Unrecorded(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Unrecorded(error)
    }
}

fn admit_caller(services: &Services, principal: &Principal) -> Result<()> {
    services
        .limiter
        .check(Bucket::ResetByCaller, principal.user.id.0.as_bytes())
}

/// Counts the call against the target's limit: only after the role was checked, separately for each role, and
/// never for the caller's own account. Otherwise anybody could use up the admins' limit.
fn admit_target(services: &Services, principal: &Principal, request: &ResetRequest) -> Result<()> {
    let (caller, organization) = (&principal.user, &principal.organization);
    if read_user_id(&request.target).is_ok_and(|target| target == caller.id) {
        may_act(caller, &organization.settings, Verb::ResetMfa, caller)?;
    }
    // Keyed by the id as written, within the caller's organisation: reveals nothing about which users exist.
    let target = format!(
        "{}/{:?}/{}",
        organization.id,
        caller.role,
        request.target.to_ascii_lowercase()
    );
    services.limiter.check(Bucket::ResetByTarget, target)
}

fn may_call(principal: &Principal, context: &RequestContext) -> Result<()> {
    let principal = principal.full()?;
    let settings = &principal.organization.settings;
    match principal.user.role {
        Role::OrgAdmin | Role::Operator => {}
        Role::HelpDesk if settings.help_desk_enabled => {}
        Role::HelpDesk | Role::Member => return Err(Error::NotOrgAdmin),
    }
    principal.stepped_up(context.at)
}

/// The policies' decision on a case, with everything they answered.
#[derive(Debug)]
struct Judgement {
    ending: Ending,
    /// Effects to commit with the ending: empty if the reset awaits approval or a policy failed.
    effects: Vec<Effect>,
    records: Vec<DecisionRecord>,
    /// The outcome as shown to the first `after-reset` hook, if there was one.
    outcome: Option<Outcome>,
}

#[derive(Debug)]
enum Ending {
    Done,
    Denied(Box<PolicyDenial>),
    AwaitsApproval(ApprovalDemand),
    /// A plugin failed and its binding fails closed.
    Failed(String),
}

/// Runs the before hooks, then the after hooks. Hooks work like database triggers: pure functions inside the
/// change. So the effects of `after` commit with the reset, and there is no instant between them.
async fn judge(services: &Services, case: &ResetCase) -> Judgement {
    let before = services
        .plugin_host
        .before(&case.policies.plugins, &case.question)
        .await;
    let (ending, effects) = decide(case, &before);
    let fell_back = before.fell_back;
    let mut judgement = Judgement {
        ending,
        effects,
        records: before.records,
        outcome: None,
    };
    let kind = match &judgement.ending {
        Ending::Done => ResultKind::Done,
        Ending::Denied(_) => ResultKind::Denied,
        Ending::AwaitsApproval(_) | Ending::Failed(_) => return judgement,
    };
    let outcome = Outcome {
        kind,
        removed: if kind == ResultKind::Done {
            case.question.target.factors.clone()
        } else {
            Vec::new()
        },
        effects: judgement.effects.clone(),
        denial: match &judgement.ending {
            Ending::Denied(denied) => Some(denied.denial.clone()),
            _ => None,
        },
        approved_by: case.approved_by.clone(),
    };
    let after = services
        .plugin_host
        .after_fallback(
            &case.policies.plugins,
            &case.question,
            outcome.clone(),
            &fell_back,
        )
        .await;
    judgement.outcome = (!after.records.is_empty()).then_some(outcome);
    judgement.records.extend(after.records);
    if let Some(failure) = after.failure {
        judgement.ending = failed(&failure);
        judgement.effects.clear();
    } else {
        merge_effects(&mut judgement.effects, after.effects);
    }
    judgement
}

/// Names the binding: it is what an operator can disable.
fn failed(failure: &PluginFailure) -> Ending {
    Ending::Failed(format!("{failure}; binding {}", failure.binding_id))
}

fn decide(case: &ResetCase, before: &Evaluation) -> (Ending, Vec<Effect>) {
    if let Some(failure) = &before.failure {
        return (failed(failure), Vec::new());
    }
    let agreed = case.approved_by.len();
    let ending = match &before.decision {
        Decision::Deny(denial) => Ending::Denied(Box::new(PolicyDenial {
            plugin: denying_plugin(&before.records),
            denial: denial.clone(),
        })),
        Decision::RequireApproval(approval) if case.actor.is_operator() => {
            Ending::Denied(Box::new(unasked(&before.records, approval)))
        }
        Decision::RequireApproval(approval) if usize::from(approval.approvals) > agreed => {
            Ending::AwaitsApproval(approval.clone())
        }
        Decision::Allow | Decision::RequireApproval(_) if case.needs_second_admin && agreed == 0 => {
            Ending::AwaitsApproval(facts::second_admin())
        }
        Decision::Allow | Decision::RequireApproval(_) => {
            return (Ending::Done, before.effects.clone());
        }
    };
    (ending, Vec::new())
}

/// Denies the operator's reset if a policy requires approval. An approval is evaluated again when it is given,
/// as its requester's, and the operator has no account to evaluate. If an admin is available to approve, they
/// can request the reset themselves; if none is, waiting would be in vain, and the remedy is to disable the
/// policy, which is recorded.
fn unasked(records: &[DecisionRecord], wanted: &ApprovalDemand) -> PolicyDenial {
    let demanded = |record: &&DecisionRecord| {
        record.mode != Mode::Monitor && matches!(record.end, CallEnd::Answer(Answer::RequireApproval(_)))
    };
    let plugin = records.iter().rfind(demanded).map(|record| record.plugin.clone());
    let denial = Denial {
        code: "approval-required".into(),
        message: format!(
            "This needs the approval of {}: {}. The operator can't ask for approval: let an administrator ask for the \
             reset, or switch the policy off (latchkey plugin disable) and on again afterwards",
            match wanted.approvals {
                1 => "one administrator".to_owned(),
                many => format!("{many} administrators"),
            },
            wanted.reason.trim_end_matches('.'),
        ),
        allowed_from: None,
        because: Vec::new(),
    };
    PolicyDenial {
        plugin: plugin.unwrap_or_default(),
        denial,
    }
}

/// Returns the plugin that denied: the first denial ends the evaluation, so it is the last one called.
fn denying_plugin(records: &[DecisionRecord]) -> String {
    let denied = |end: &CallEnd| matches!(end, CallEnd::Answer(Answer::Deny(_)));
    records
        .iter()
        .rfind(|record| denied(&record.end))
        .map(|record| record.plugin.clone())
        .unwrap_or_default()
}
