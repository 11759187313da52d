//! On whose behalf a verb is carried out, and whose call carries it out: the same person, or a further
//! admin whose agreement was the last one missing. Or the operator, who has neither account nor session.

use jiff::Timestamp;

use crate::domain::account::{OrganizationId, OrganizationSettings, Principal, Role, Session, User, UserId};
use crate::domain::approval::{Approval, ApprovalState};
use crate::domain::error::{Error, Result, TokenFault};
use crate::store::{Connection, Transaction, accounts, approvals, sessions};

/// Who wants something done to a user of their organisation, and with what right.
#[derive(Clone, Debug)]
pub struct Mandate {
    /// Where.
    pub organization: OrganizationId,
    /// Who wants it: judged as they are now, actor of the question and of the entry.
    pub actor: UserId,
    /// When the actor had last proved who they are, as of asking.
    pub authenticated_at: Timestamp,
    /// Whether with a second factor.
    pub second_factor_used: bool,
    /// The most that the actor may be: a token of another issuer may say less than the database.
    pub role: Role,
    /// Who agreed, where somebody had to.
    pub agreement: Option<Agreement>,
    /// The session of the call: it must still live at the commit. The operator has none.
    session: Option<Session>,
}

/// The last agreement that was missing.
#[derive(Clone, Debug)]
pub struct Agreement {
    /// What it is about, as it was read.
    pub approval: Approval,
    /// Who agrees with this call, as they were read.
    pub approver: User,
}

impl Mandate {
    /// The caller's own.
    #[must_use]
    pub fn of(principal: &Principal) -> Self {
        Self {
            organization: principal.organization.id,
            actor: principal.user.id,
            authenticated_at: principal.session.authenticated_at,
            second_factor_used: principal.session.second_factor_at.is_some(),
            role: principal.user.role,
            agreement: None,
            session: Some(principal.session.clone()),
        }
    }

    /// The operator's, at the command line.
    #[must_use]
    pub fn operator(organization: OrganizationId, at: Timestamp) -> Self {
        let operator = User::operator(organization);
        Self {
            organization,
            actor: operator.id,
            authenticated_at: at,
            // Nobody showed one: a policy that demands it says no to the operator, too.
            second_factor_used: false,
            role: operator.role,
            agreement: None,
            session: None,
        }
    }

    /// The requester's of an approval, now that `approver` agrees.
    #[must_use]
    pub fn agreed(approval: Approval, approver: &Principal) -> Self {
        Self {
            organization: approval.organization_id,
            actor: approval.requester_id,
            authenticated_at: approval.authenticated_at,
            second_factor_used: approval.second_factor_used,
            role: approval.requester_role,
            session: Some(approver.session.clone()),
            agreement: Some(Agreement {
                approver: approver.user.clone(),
                approval,
            }),
        }
    }

    /// Who agreed so far, the approver of this call included.
    #[must_use]
    pub fn approved_by(&self) -> Vec<UserId> {
        self.agreement.as_ref().map(Agreement::all).unwrap_or_default()
    }

    /// The actor as the database has them now.
    ///
    /// # Errors
    /// [`Error::Token`] where they are gone, inactive or locked.
    pub fn find_actor(&self, db: &Connection) -> Result<User> {
        if self.is_operators() {
            return Ok(User::operator(self.organization));
        }
        accounts::find_user(db, self.organization, self.actor)?
            .filter(|actor| actor.active && actor.locked.is_none())
            .ok_or(Error::Token(TokenFault::SubjectGone))
    }

    /// The revision of an actor as they were read; the operator has none that could change.
    #[must_use]
    pub fn revision_of(&self, actor: &User) -> Option<i64> {
        (!self.is_operators()).then_some(actor.revision)
    }

    /// Whether it is the operator's.
    #[must_use]
    pub fn is_operators(&self) -> bool {
        self.session.is_none()
    }

    /// The actor as they were read, with no more power than they asked with.
    #[must_use]
    pub fn narrowed(&self, mut actor: User) -> User {
        actor.role = actor.role.min(self.role);
        actor
    }

    /// Whether the second factor of this call was used as lately as the organisation demands now.
    ///
    /// # Errors
    /// [`Error::StepUpRequired`].
    pub fn stepped_up(&self, settings: &OrganizationSettings, at: Timestamp) -> Result<()> {
        match &self.session {
            Some(session) => session.stepped_up(settings, at),
            None => Ok(()),
        }
    }

    /// Checks in the transaction that the session of this call has not ended.
    ///
    /// # Errors
    /// [`Error::Token`] when it has.
    pub fn session_lives(&self, tx: &Transaction<'_>, at: Timestamp) -> Result<()> {
        match &self.session {
            Some(session) if !sessions::session_lives(tx, session, at)? => {
                Err(Error::Token(TokenFault::Revoked))
            }
            _ => Ok(()),
        }
    }

    /// Checks in the transaction what the right rests on.
    ///
    /// # Errors
    /// [`Error::Token`] when the call's session has ended; [`Error::Stale`] when an approver or what
    /// they agreed to was changed; [`Error::Conflict`] when somebody's word counts no more.
    pub fn still_holds(&self, tx: &Transaction<'_>, at: Timestamp) -> Result<()> {
        self.session_lives(tx, at)?;
        match &self.agreement {
            Some(agreement) => agreement.still_holds(tx, at),
            None => Ok(()),
        }
    }
}

impl Agreement {
    /// Everybody who agreed, the approver of this call last.
    #[must_use]
    pub fn all(&self) -> Vec<UserId> {
        let mut all = self.approval.approved_by.clone();
        all.push(self.approver.id);
        all
    }

    fn still_holds(&self, tx: &Transaction<'_>, at: Timestamp) -> Result<()> {
        let now = approvals::find_approval(tx, self.approval.organization_id, self.approval.id)?;
        let open = now.is_some_and(|now| {
            now.state_at(at) == ApprovalState::Open && now.approved_by == self.approval.approved_by
        });
        if !open || accounts::find_user_revision(tx, self.approver.id)? != Some(self.approver.revision) {
            return Err(Error::Stale);
        }
        let recovered = |account| {
            let (organization, since) = (self.approval.organization_id, self.approval.created_at);
            approvals::was_recovered(tx, organization, account, since)
        };
        // What a thief asked for must not outlive what was done about the theft.
        if recovered(self.approval.requester_id)? {
            return Err(Error::Conflict(
                "The account that asked for this was reset, signed out or reported since; ask for it again"
                    .into(),
            ));
        }
        for earlier in &self.approval.approved_by {
            let user = accounts::find_user(tx, self.approval.organization_id, *earlier)?;
            if !user.is_some_and(|user| counts(&user)) || recovered(*earlier)? {
                return Err(Error::Conflict(
                    "An administrator who agreed before no longer counts; ask for it again".into(),
                ));
            }
        }
        Ok(())
    }
}

/// Whether somebody's agreement still counts.
fn counts(user: &User) -> bool {
    user.active && user.locked.is_none() && user.role >= Role::OrgAdmin
}
