//! The facts of a reset: the state it is decided on and the question put to the policies.

use std::sync::Arc;

use crate::domain::account::{May, Organization, Principal, User, Verb, may_act};
use crate::domain::policy::{
    Actor, ApprovalDemand, FactorFacts, OrganizationFacts, Question, RequestFacts, Target,
};
use crate::domain::{Error, Result};
use crate::service::Services;
use crate::service::administration::utc_offset_minutes;
use crate::service::plugins::BoundSet;
use crate::service::reset::{ResetOrder, ResetRequest, read_user_id};
use crate::store::{accounts, factors, requests, sessions};

/// A reset with everything known when it was decided.
#[derive(Debug)]
pub struct ResetCase {
    /// The organisation's current state.
    pub organization: Organization,
    /// The caller's current state.
    pub actor: User,
    /// The target's current state.
    pub target: User,
    /// The question put to the policies.
    pub question: Arc<Question>,
    /// The policies that are asked.
    pub policies: BoundSet,
    /// The admins' addresses, for notices.
    pub admin_emails: Vec<String>,
    /// Whether the rule of who may act on whom requires a second admin.
    pub needs_second_admin: bool,
    /// Ids of the admins who already approved (UUIDs).
    pub approved_by: Vec<String>,
}

/// Reads one consistent snapshot and builds the question from it. `read` is the part that was read already.
///
/// # Errors
/// [`Error::StepUpRequired`], [`Error::UserNotFound`], [`Error::MayNotAct`], [`Error::NotOrgAdmin`] (by the
/// database's current state), [`Error::MfaNotEnabled`].
pub(super) fn gather(
    services: &Services,
    order: &ResetOrder,
    read: Option<Box<(User, Organization)>>,
) -> Result<ResetCase> {
    let at = order.context.at;
    let mandate = &order.mandate;
    let policies = services.bindings.of(mandate.organization);
    let others = services.in_flight.others(mandate, order.target);
    services.store.read(|db| {
        let (actor, organization) = match read {
            Some(read) => *read,
            None => (
                mandate.find_actor(db)?,
                accounts::find_organization(db, mandate.organization)?
                    .ok_or_else(|| Error::Internal("the caller's organisation is gone".into()))?,
            ),
        };
        mandate.stepped_up(&organization.settings, at)?;
        let actor = mandate.narrowed(actor);
        let target = accounts::find_user(db, organization.id, order.target)?
            .ok_or_else(|| Error::UserNotFound(order.written_target.clone()))?;
        let may = may_act(&actor, &organization.settings, Verb::ResetMfa, &target)?;
        let enrolled = factors::find_factors(db, target.id)?;
        if !target.mfa_enabled {
            return Err(Error::MfaNotEnabled);
        }
        if let Some(agreement) = &mandate.agreement
            && enrolled
                .iter()
                .any(|f| f.enrolled_at > agreement.approval.created_at)
        {
            return Err(Error::Conflict(
                "The user has enrolled a factor since this was asked for".into(),
            ));
        }
        let days = policies.history_days();
        let mut history = requests::find_history(db, organization.id, actor.id, target.id, at, days)?;
        others.add_to(&mut history);
        let admin_emails = if services.settings.mail {
            let admins = accounts::find_active_admins(db, organization.id)?;
            admins.into_iter().map(|admin| admin.email).collect()
        } else {
            Vec::new()
        };
        let active_sessions = sessions::count_sessions(db, target.id, at)?;
        let question = Question {
            organization: about_organization(&organization),
            actor: about_actor(&actor, order),
            target: about_target(&target, enrolled, active_sessions),
            request: about_request(order, &organization),
            history,
            attributes: Vec::new(),
        };
        Ok(ResetCase {
            organization,
            actor,
            target,
            question: Arc::new(question),
            needs_second_admin: may == May::WithSecondAdmin,
            approved_by: mandate.approved_by().iter().map(ToString::to_string).collect(),
            policies,
            admin_emails,
        })
    })
}

fn about_organization(organization: &Organization) -> OrganizationFacts {
    OrganizationFacts {
        id: organization.id.to_string(),
        slug: organization.slug.clone(),
        name: organization.name.clone(),
        mfa_required: organization.settings.mfa_required,
    }
}

fn about_actor(actor: &User, order: &ResetOrder) -> Actor {
    Actor {
        id: actor.id.to_string(),
        email: actor.email.clone(),
        name: actor.name.clone(),
        role: actor.role,
        second_factor_used: order.mandate.second_factor_used,
        authenticated_secs_ago: seconds_since(order),
    }
}

fn about_target(target: &User, enrolled: Vec<FactorFacts>, active_sessions: u32) -> Target {
    Target {
        id: target.id.to_string(),
        email: target.email.clone(),
        name: target.name.clone(),
        role: target.role,
        active: target.active,
        factors: enrolled,
        active_sessions,
        created_at: target.created_at,
        last_login_at: target.last_login_at,
    }
}

fn about_request(order: &ResetOrder, organization: &Organization) -> RequestFacts {
    let (context, body) = (&order.context, &order.body);
    RequestFacts {
        id: context.request_id.clone(),
        at: context.at,
        utc_offset_minutes: utc_offset_minutes(&organization.settings, context.at),
        channel: context.channel,
        ip: context.ip_text(),
        user_agent: said(context.user_agent.as_deref()),
        reason: said(body.reason.as_deref()),
        ticket: said(body.ticket.as_deref()),
        dry_run: false,
    }
}

/// Returns the text unless it is blank: a policy that requires a ticket must not accept a blank one.
fn said(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty()).map(str::to_owned)
}

/// Returns the error for a request whose body or header is malformed: a target that does not exist or may not
/// be acted on takes precedence.
pub(super) fn before_flaw(
    services: &Services,
    principal: &Principal,
    request: &ResetRequest,
    flaw: Error,
) -> Error {
    let (organization, written) = (&principal.organization, &request.target);
    let judged = read_user_id(written).and_then(|id| {
        let found = services
            .store
            .read(|db| accounts::find_user(db, organization.id, id))?;
        let target = found.ok_or_else(|| Error::UserNotFound(written.clone()))?;
        may_act(&principal.user, &organization.settings, Verb::ResetMfa, &target)
    });
    judged.err().unwrap_or(flaw)
}

/// Returns the approval required by the rule that admins reset admins only with a second admin.
pub(super) fn second_admin() -> ApprovalDemand {
    ApprovalDemand {
        reason: "This organisation lets administrators reset administrators only with a second one".into(),
        approvals: 1,
        expires_secs: 24 * 3600,
    }
}

fn seconds_since(order: &ResetOrder) -> u32 {
    let elapsed = order.context.at.duration_since(order.mandate.authenticated_at);
    u32::try_from(elapsed.as_secs().max(0)).unwrap_or(u32::MAX)
}
