//! Who manages policies: an admin manages those of their organisation, the operator everybody's.

use jiff::Timestamp;

use crate::domain::account::{OrgAdmin, OrganizationId, Role, User};
use crate::domain::audit::{ActorRef, Event, EventType};
use crate::domain::error::TokenFault;
use crate::domain::{Error, Result};
use crate::limiter::Bucket;
use crate::service::mandate::{Agreement, Mandate};
use crate::service::{RequestContext, Services, approvals};
use crate::store::{Transaction, accounts};

/// A manager of policies, with the context of the request.
#[derive(Clone, Debug)]
pub struct Manager {
    /// The admin; absent for the operator.
    admin: Option<Admin>,
    actor: ActorRef,
    context: RequestContext,
}

#[derive(Clone, Debug)]
struct Admin {
    user: User,
    mandate: Mandate,
    /// The revision of the binding that the agreement is for.
    agreed_revision: Option<i64>,
}

impl Manager {
    /// Creates the manager for an admin of an organisation.
    pub(super) fn admin(admin: OrgAdmin<'_>, context: &RequestContext) -> Self {
        Self {
            admin: Some(Admin {
                user: admin.user.clone(),
                mandate: Mandate::of(&admin),
                agreed_revision: None,
            }),
            actor: ActorRef::user(&admin.user),
            context: context.clone(),
        }
    }

    /// Creates the manager for an admin whose change of a binding at `revision` another admin agrees to with this
    /// call.
    pub(super) fn agreed(user: User, mandate: Mandate, revision: i64, context: &RequestContext) -> Self {
        Self {
            actor: ActorRef::user(&user),
            admin: Some(Admin {
                user,
                mandate,
                agreed_revision: Some(revision),
            }),
            context: context.clone(),
        }
    }

    /// Creates the manager for the operator, who manages the node and every organisation.
    #[must_use]
    pub fn operator(services: &Services) -> Self {
        Self {
            admin: None,
            actor: ActorRef::operator(),
            context: RequestContext::cli(services),
        }
    }

    /// Returns when the request was received.
    pub(super) fn at(&self) -> Timestamp {
        self.context.at
    }

    /// Returns the organisation that this manager is limited to; absent for the operator, who sees all.
    pub(super) fn organization(&self) -> Option<OrganizationId> {
        self.mandate().map(|mandate| mandate.organization)
    }

    /// Returns whether the manager may know of plugins and bindings of this owner.
    pub(super) fn sees(&self, owner: Option<OrganizationId>) -> bool {
        match (self.organization(), owner) {
            (None, _) | (Some(_), None) => true,
            (Some(own), Some(owner)) => own == owner,
        }
    }

    /// Checks that the manager may change plugins and bindings of this owner, which it sees.
    ///
    /// # Errors
    /// [`Error::MayNotAct`] if they belong to the node.
    pub(super) fn may_change(&self, owner: Option<OrganizationId>) -> Result<()> {
        if self.admin.is_some() && owner.is_none() {
            return Err(Error::MayNotAct(
                "This belongs to the node: only its operator can change it",
            ));
        }
        Ok(())
    }

    /// Counts a call that may cost a compilation against the rate limit.
    ///
    /// # Errors
    /// [`Error::RateLimited`].
    pub(super) fn admit(&self, services: &Services) -> Result<()> {
        match self.mandate() {
            // An approver was already admitted as such.
            Some(mandate) if mandate.agreement.is_none() => services
                .limiter
                .check(Bucket::PluginByCaller, mandate.actor.0.as_bytes()),
            _ => Ok(()),
        }
    }

    /// Returns the admin's mandate; absent for the operator.
    pub(super) fn mandate(&self) -> Option<&Mandate> {
        self.admin.as_ref().map(|admin| &admin.mandate)
    }

    /// Returns the agreement that this call gives.
    pub(super) fn agreement(&self) -> Option<&Agreement> {
        self.mandate()?.agreement.as_ref()
    }

    /// Returns whether a change that was judged on outdated data may be judged again here. A change that others
    /// agreed to may not: its caller reads it again.
    pub(super) fn may_judge_again(&self) -> bool {
        self.agreement().is_none()
    }

    /// Checks that a binding is still at the revision that was agreed to.
    ///
    /// # Errors
    /// [`Error::Conflict`].
    pub(super) fn agreed_to(&self, revision: i64) -> Result<()> {
        match self.admin.as_ref().and_then(|admin| admin.agreed_revision) {
            Some(agreed) if agreed != revision => Err(Error::Conflict(
                "The policy binding was changed since this was asked for; ask for it again".into(),
            )),
            _ => Ok(()),
        }
    }

    /// Checks in the transaction that the manager's rights are unchanged.
    ///
    /// # Errors
    /// [`Error::Token`], [`Error::NotOrgAdmin`], and as [`Mandate::still_holds`].
    pub(super) fn still_may(&self, tx: &Transaction<'_>) -> Result<()> {
        let Some(mandate) = self.mandate() else {
            return Ok(());
        };
        mandate.still_holds(tx, self.at())?;
        let user = accounts::find_user(tx, mandate.organization, mandate.actor)?
            .filter(User::is_usable)
            .ok_or(Error::Token(TokenFault::SubjectGone))?;
        if user.role < Role::OrgAdmin {
            return Err(Error::NotOrgAdmin);
        }
        Ok(())
    }

    /// Returns the audit event of the agreement that this call gives.
    pub(super) fn agreed_event(&self) -> Option<Event> {
        let admin = self.admin.as_ref()?;
        let agreement = admin.mandate.agreement.as_ref()?;
        let event = approvals::agreed(agreement, &admin.user, agreement.approval.needed);
        Some(event.from_request(&self.context.request_id, self.context.ip))
    }

    /// Returns an event for an action of the manager on something of this owner.
    pub(super) fn event(&self, event_type: EventType, owner: Option<OrganizationId>) -> Event {
        let event = Event::new(event_type, owner, self.actor.clone());
        match self.agreement() {
            None => event.from_request(&self.context.request_id, self.context.ip),
            // The address is the approver's, and is part of the agreement's own entry.
            Some(agreement) => event
                .from_request(&self.context.request_id, None)
                .with("approvalId", agreement.approval.id.to_string())
                .with("approvedBy", approvals::ids(&agreement.all())),
        }
    }
}
