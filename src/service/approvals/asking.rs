//! Requests for a further admin's approval, their audit entries and the notices to admins.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::domain::account::{Organization, User, UserId};
use crate::domain::approval::{Approval, ApprovalState, PolicyChange, Wanted};
use crate::domain::audit::{ActorRef, Event, EventType, Resource};
use crate::domain::policy;
use crate::service::mandate::{Agreement, Mandate};
use crate::service::reset::ResetOrder;
use crate::service::users::{Act, Change};
use crate::service::{Services, notices};
use crate::store::deliveries::OwedDelivery;

/// How long an approval required by the rule between admins stays open, in hours.
const RULE_HOURS: i64 = 24;

/// Creates the approval that a policy, or the rule between admins, requires before a reset.
#[must_use]
pub fn of_reset(services: &Services, order: &ResetOrder, wanted: &policy::ApprovalDemand) -> Approval {
    let at = order.context.at;
    Approval {
        reason: order.body.reason.clone(),
        ticket: order.body.ticket.clone(),
        needed: wanted.approvals,
        expires_at: at + SignedDuration::from_secs(i64::from(wanted.expires_secs)),
        ..new(
            services,
            &order.mandate,
            order.target,
            Wanted::ResetMfa,
            &wanted.reason,
            at,
        )
    }
}

/// Creates the approval that the rule between admins, or the protection of the trail, requires before another
/// operation.
#[must_use]
pub fn of_act(services: &Services, act: &Act, wanted: Wanted) -> Approval {
    let because = match act.change {
        Change::Erase => "What the trail knows of somebody is erased only with a second administrator",
        _ => "This organisation lets administrators do this to administrators only with a second one",
    };
    let at = act.context.at;
    new(services, &act.mandate, act.target, wanted, because, at)
}

/// Creates the approval that a policy change requires. It has no target user: the requester is stored as the
/// target.
#[must_use]
pub fn of_policy(services: &Services, mandate: &Mandate, change: PolicyChange, at: Timestamp) -> Approval {
    let because = "Whoever could change this policy alone would not be bound by it";
    let wanted = Wanted::ChangePolicy(Box::new(change));
    new(services, mandate, mandate.actor, wanted, because, at)
}

fn new(
    services: &Services,
    mandate: &Mandate,
    target: UserId,
    wanted: Wanted,
    because: &str,
    at: Timestamp,
) -> Approval {
    Approval {
        id: services.entropy.uuid(at),
        organization_id: mandate.organization,
        requester_id: mandate.actor,
        requester_role: mandate.role,
        target_id: target,
        wanted,
        reason: None,
        ticket: None,
        asked_because: because.to_owned(),
        authenticated_at: mandate.authenticated_at,
        second_factor_used: mandate.second_factor_used,
        needed: 1,
        approved_by: Vec::new(),
        state: ApprovalState::Open,
        created_at: at,
        expires_at: at + SignedDuration::from_hours(RULE_HOURS),
        ended_at: None,
    }
}

/// Returns the audit entry of an approval, the latest one in the agreement.
#[must_use]
pub fn agreed(agreement: &Agreement, target: &User, needed: u8) -> Event {
    let Agreement { approval, approver } = agreement;
    Event::new(
        EventType::ApprovalAgree,
        Some(approval.organization_id),
        ActorRef::user(approver),
    )
    .on(Resource::other(
        "APPROVAL",
        approval.id,
        Some(target.email.clone()),
    ))
    .with("targetId", target.id.to_string())
    .with("wanted", json!(approval.wanted))
    .with("agreed", agreement.all().len())
    .with("needed", needed)
}

/// Returns the notices to the admins who can approve.
#[must_use]
pub fn asked_notices(
    services: &Services,
    organization: &Organization,
    actor: &User,
    target: &User,
    admin_emails: &[String],
    approval: &Approval,
) -> Vec<OwedDelivery> {
    let of_target = |what: &str| format!("{what} of {}", notices::called(target));
    let what = match &approval.wanted {
        Wanted::ResetMfa => of_target("a reset of the second factor"),
        Wanted::ResetPassword => of_target("a reset of the password"),
        Wanted::UpdateUser(_) => of_target("a change of the account"),
        Wanted::DeleteUser => of_target("the deletion of the account"),
        Wanted::EraseUser => {
            of_target("the deletion, also of what the trail knows personally, of the account")
        }
        Wanted::ChangePolicy(change) => format!("a change of the policy {}", change.plugin),
        Wanted::RestoreFactors { taken_at } => of_target(&format!(
            "restoring the second factor that was removed on {taken_at:.0},"
        )),
    };
    let body = format!(
        "{} asked for {what} on {:.0}. {}.\n\n\
         Check with them before you agree. Open approvals are listed at {}/api/v1/approvals\n",
        notices::called(actor),
        approval.created_at,
        approval.asked_because,
        services.settings.public_url,
    );
    let subject = "Something awaits your approval";
    let others = admin_emails
        .iter()
        .filter(|email| **email != actor.email && **email != target.email);
    others
        .filter_map(|to| notices::mail(services, organization, to, subject, &body))
        .collect()
}

/// Returns the ids in the form in which the trail stores them.
#[must_use]
pub fn ids(users: &[UserId]) -> Vec<String> {
    users.iter().map(ToString::to_string).collect()
}
