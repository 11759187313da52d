//! Resets that a policy lets pass only when a second admin agrees.

use jiff::SignedDuration;

use super::Services;
use super::reset::Order;
use crate::domain::account::Principal;
use crate::domain::policy;
use crate::store::approvals::Approval;

/// The approval that `wanted` asks for, open from now on.
#[must_use]
pub fn new_approval(
    services: &Services,
    principal: &Principal,
    order: &Order,
    wanted: &policy::Approval,
) -> Approval {
    let at = order.context.at;
    Approval {
        id: services.entropy.uuid(at),
        organization_id: principal.organization.id,
        requester_id: principal.user.id,
        target_id: order.target,
        reason: order.body.reason.clone(),
        ticket: order.body.ticket.clone(),
        asked_because: wanted.reason.clone(),
        needed: wanted.approvals,
        created_at: at,
        expires_at: at + SignedDuration::from_secs(i64::from(wanted.expires_secs)),
    }
}
