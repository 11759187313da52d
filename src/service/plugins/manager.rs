//! Who manages policies: an admin those of their organisation, the operator everybody's.

use jiff::Timestamp;

use crate::domain::account::{OrgAdmin, OrganizationId, UserId};
use crate::domain::audit::{ActorRef, Event, EventType};
use crate::domain::{Error, Result};
use crate::limiter::Bucket;
use crate::service::{RequestContext, Services};

/// Somebody who manages policies, and how the request came in.
#[derive(Clone, Debug)]
pub struct Manager {
    /// Absent: the operator.
    admin: Option<(OrganizationId, UserId)>,
    actor: ActorRef,
    context: RequestContext,
}

impl Manager {
    /// An admin, for their organisation.
    #[must_use]
    pub fn admin(admin: OrgAdmin<'_>, context: &RequestContext) -> Self {
        Self {
            admin: Some((admin.organization.id, admin.user.id)),
            actor: ActorRef::user(&admin.user),
            context: context.clone(),
        }
    }

    /// The operator, for the node and every organisation.
    #[must_use]
    pub fn operator(services: &Services) -> Self {
        Self {
            admin: None,
            actor: ActorRef::operator(),
            context: RequestContext::cli(services),
        }
    }

    /// When the request was taken in.
    pub(super) fn at(&self) -> Timestamp {
        self.context.at
    }

    /// The organisation whose things this is all about; absent for the operator, who sees all.
    pub(super) fn organization(&self) -> Option<OrganizationId> {
        self.admin.map(|(organization, _)| organization)
    }

    /// Whether things of this owner exist as far as the manager may know.
    pub(super) fn sees(&self, owner: Option<OrganizationId>) -> bool {
        match (self.organization(), owner) {
            (None, _) | (Some(_), None) => true,
            (Some(own), Some(owner)) => own == owner,
        }
    }

    /// Whether the manager may change things of this owner, which it sees.
    ///
    /// # Errors
    /// [`Error::MayNotAct`] for what is the node's.
    pub(super) fn may_change(&self, owner: Option<OrganizationId>) -> Result<()> {
        if self.admin.is_some() && owner.is_none() {
            return Err(Error::MayNotAct(
                "This belongs to the node: only its operator can change it",
            ));
        }
        Ok(())
    }

    /// Counts a call that may cost a compilation.
    ///
    /// # Errors
    /// [`Error::RateLimited`].
    pub(super) fn admit(&self, services: &Services) -> Result<()> {
        match self.admin {
            Some((_, user)) => services.limiter.check(Bucket::PluginByCaller, user.0.as_bytes()),
            None => Ok(()),
        }
    }

    /// An act of the manager's on things of this owner.
    pub(super) fn event(&self, event_type: EventType, owner: Option<OrganizationId>) -> Event {
        Event::new(event_type, owner, self.actor.clone())
            .from_request(&self.context.request_id, self.context.ip_text().as_deref())
    }
}
