//! The authority under which an operation is carried out: the actor who wants it, and the caller who triggers
//! it. They are the same person, or the caller is a further admin whose approval was the last one missing. The
//! operator has neither account nor session.

use jiff::Timestamp;

use crate::domain::account::{OrganizationId, OrganizationSettings, Principal, Role, Session, User, UserId};
use crate::domain::approval::{Approval, ApprovalState};
use crate::domain::error::{Error, Result, TokenFault};
use crate::store::{Connection, Transaction, accounts, approvals, sessions};

/// The authority to perform an operation on a user of an organisation.
#[derive(Clone, Debug)]
pub struct Mandate {
    /// The organisation.
    pub organization: OrganizationId,
    /// The user who wants the operation: checked in their current state, and named in the question and the
    /// entry.
    pub actor: UserId,
    /// When the actor had last authenticated, as of the request.
    pub authenticated_at: Timestamp,
    /// Whether the actor used a second factor then.
    pub second_factor_used: bool,
    /// The highest role the actor may act with: a token of another issuer may grant less than the database.
    pub role: Role,
    /// The approval, if one was required.
    pub agreement: Option<Agreement>,
    /// The session of the call, which must still be active at the commit. `None` for the operator.
    session: Option<Session>,
}

/// The approval that was the last one missing.
#[derive(Clone, Debug)]
pub struct Agreement {
    /// The approval, as it was read.
    pub approval: Approval,
    /// The admin who approves with this call, as they were read.
    pub approver: User,
}

impl Mandate {
    /// Returns the mandate of a caller who acts for themselves.
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

    /// Returns the mandate of the operator at the command line.
    #[must_use]
    pub fn operator(organization: OrganizationId, at: Timestamp) -> Self {
        let operator = User::operator(organization);
        Self {
            organization,
            actor: operator.id,
            authenticated_at: at,
            // No factor was presented: a policy that requires one denies the operator, too.
            second_factor_used: false,
            role: operator.role,
            agreement: None,
            session: None,
        }
    }

    /// Returns the mandate of an approval's requester, now that `approver` approves.
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

    /// Returns the ids of the admins who approved so far, including the approver of this call.
    #[must_use]
    pub fn approved_by(&self) -> Vec<UserId> {
        self.agreement.as_ref().map(Agreement::all).unwrap_or_default()
    }

    /// Reads the actor's current state.
    ///
    /// # Errors
    /// [`Error::Token`] if they no longer exist or are inactive or locked.
    pub fn find_actor(&self, db: &Connection) -> Result<User> {
        if self.is_operators() {
            return Ok(User::operator(self.organization));
        }
        accounts::find_user(db, self.organization, self.actor)?
            .filter(User::is_usable)
            .ok_or(Error::Token(TokenFault::SubjectGone))
    }

    /// Returns the revision of the actor as they were read; the operator has none that could change.
    #[must_use]
    pub fn revision_of(&self, actor: &User) -> Option<i64> {
        (!self.is_operators()).then_some(actor.revision)
    }

    /// True if this is the operator's mandate.
    #[must_use]
    pub fn is_operators(&self) -> bool {
        self.session.is_none()
    }

    /// Returns the actor with no more power than they asked with.
    #[must_use]
    pub fn narrowed(&self, mut actor: User) -> User {
        actor.role = actor.role.min(self.role);
        actor
    }

    /// Checks that this call's second factor was used as recently as the organisation now requires.
    ///
    /// # Errors
    /// [`Error::StepUpRequired`] if it was not.
    pub fn stepped_up(&self, settings: &OrganizationSettings, at: Timestamp) -> Result<()> {
        match &self.session {
            Some(session) => session.stepped_up(settings, at),
            None => Ok(()),
        }
    }

    /// Checks in the transaction that this call's session has not ended.
    ///
    /// # Errors
    /// [`Error::Token`] if it has.
    pub fn session_lives(&self, tx: &Transaction<'_>, at: Timestamp) -> Result<()> {
        match &self.session {
            Some(session) if !sessions::session_lives(tx, session, at)? => {
                Err(Error::Token(TokenFault::Revoked))
            }
            _ => Ok(()),
        }
    }

    /// Checks in the transaction that everything the mandate rests on still holds.
    ///
    /// # Errors
    /// [`Error::Token`] if the call's session has ended; [`Error::Stale`] if an approver or what they approved
    /// was changed; [`Error::Conflict`] if the request or an earlier approval no longer counts.
    pub fn still_holds(&self, tx: &Transaction<'_>, at: Timestamp) -> Result<()> {
        self.session_lives(tx, at)?;
        match &self.agreement {
            Some(agreement) => agreement.still_holds(tx, at),
            None => Ok(()),
        }
    }
}

impl Agreement {
    /// Returns the ids of all approvers, that of this call last.
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
        // A request made with a stolen account must not survive the account's recovery.
        if recovered(self.approval.requester_id)? {
            return Err(Error::Conflict(
                "The account that asked for this was reset, deactivated, signed out or reported since; ask for it \
                 again"
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

/// True if the user's approval still counts.
fn counts(user: &User) -> bool {
    user.is_usable() && user.role >= Role::OrgAdmin
}
