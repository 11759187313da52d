//! Organisations, users, the caller, and who may act on whom.

mod api_key;
mod may_act;
mod policy_changes;
mod settings;

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::{Error, Result};
use super::policy::FactorKind;
pub use super::policy::Role;
pub use api_key::{KeyHolder, Reading, Scope};
pub use may_act::{Asked, IN_HAND_HOURS, May, Verb, may_act, may_approve, may_create, may_loosen};
pub use policy_changes::{PolicyChanges, may_change_policy, may_loosen_policy_rules};
pub use settings::{AdminOnAdmin, OrganizationSettings};

/// Defines a newtype around a UUID, so that an organisation's id can't be passed for a user's.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// Id of an organisation.
    OrganizationId
);
id!(
    /// Id of a user.
    UserId
);
id!(
    /// Id of a session that can still be used; access tokens carry it as `sid`.
    SessionId
);

/// An organisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Organization {
    /// Id.
    pub id: OrganizationId,
    /// Name used at login: lower-case letters, digits and hyphens.
    pub slug: String,
    /// Name shown to people.
    pub name: String,
    /// Settings.
    pub settings: OrganizationSettings,
    /// Increases by one with every change of the organisation or its bindings.
    pub revision: i64,
}

/// A user, without credentials: those never leave the store and the services that check them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Id.
    pub id: UserId,
    /// The user's organisation.
    pub organization_id: OrganizationId,
    /// E-mail address as entered.
    pub email: String,
    /// Name shown to people.
    pub name: Option<String>,
    /// The user's role.
    pub role: Role,
    /// Whether the account may be used.
    pub active: bool,
    /// Whether a second factor is enrolled.
    pub mfa_enabled: bool,
    /// Since when and why the account is locked; absent if it is not.
    pub locked: Option<Lock>,
    /// What the next login must do first after a reset; absent if nothing.
    pub enrolment_due: Option<EnrolmentDue>,
    /// Time of the last complete login.
    pub last_login_at: Option<Timestamp>,
    /// Time of the last password change; absent if no password is set.
    pub password_changed_at: Option<Timestamp>,
    /// When the account was created.
    pub created_at: Timestamp,
    /// Time of the last change by an admin or the user.
    pub updated_at: Timestamp,
    /// Increases by one with every change that a policy decision may depend on.
    pub revision: i64,
}

impl User {
    /// Creates a user with nothing set up: no password, no second factor.
    #[must_use]
    pub fn new(
        id: UserId,
        organization_id: OrganizationId,
        email: String,
        name: Option<String>,
        role: Role,
        at: Timestamp,
    ) -> Self {
        Self {
            id,
            organization_id,
            email,
            name,
            role,
            active: true,
            mfa_enabled: false,
            locked: None,
            enrolment_due: None,
            last_login_at: None,
            password_changed_at: None,
            created_at: at,
            updated_at: at,
            revision: 0,
        }
    }

    /// Returns the operator at the node's command line, as the actor in an organisation. No such account exists,
    /// and none can be created. Its id is that of the organisation, so that counts by actor, and what a policy
    /// learns of them, concern this organisation only.
    #[must_use]
    pub fn operator(organization: OrganizationId) -> Self {
        let (id, nobody) = (UserId(organization.0), String::new());
        let name = Some("The operator of the appliance".to_owned());
        let no_time = Timestamp::UNIX_EPOCH;
        Self::new(id, organization, nobody, name, Role::Operator, no_time)
    }

    /// Returns whether this is the operator, who has no account.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        self.role == Role::Operator
    }

    /// Returns whether the account may be used: it is active and not locked.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.active && self.locked.is_none()
    }
}

/// Why and since when an account is locked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lock {
    /// When it was locked.
    pub at: Timestamp,
    /// One sentence.
    pub reason: String,
}

/// What a reset demands of the next login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolmentDue {
    /// End of the window in which the password alone opens enrolment.
    pub until: Timestamp,
    /// Whether enrolment asks for the code that the admin was shown.
    pub code_required: bool,
    /// When that code expires.
    pub code_until: Option<Timestamp>,
}

impl EnrolmentDue {
    /// Returns whether the user can no longer enrol without an admin.
    #[must_use]
    pub fn is_over(&self, at: Timestamp) -> bool {
        at >= self.until || (self.code_required && self.code_until.is_none_or(|until| at >= until))
    }
}

/// What a session may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionScope {
    /// Everything that the user's role allows.
    Full,
    /// Setting up MFA only.
    Enrolment,
}

/// How a session was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionOrigin {
    /// The user logged in here.
    Login,
    /// An operator minted a token on the command line, without any authentication.
    Minted,
    /// Another issuer vouches for the user. Such a session is known only from its token.
    External,
}

/// A live session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Id, the `sid` of access tokens.
    pub id: SessionId,
    /// The session's user.
    pub user_id: UserId,
    /// What the session may be used for.
    pub scope: SessionScope,
    /// When the user last authenticated (`auth_time`).
    pub authenticated_at: Timestamp,
    /// When the second factor was last used in this session; absent if it was not (`amr`).
    pub second_factor_at: Option<Timestamp>,
    /// Kind of the second factor that was used.
    pub second_factor_kind: Option<FactorKind>,
    /// How it was opened.
    pub origin: SessionOrigin,
    /// When it was opened.
    pub created_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
}

/// Seconds by which a clock may have been set back since the second factor was used. Beyond that, a use in the
/// future does not count as fresh; otherwise it would stay fresh until then.
const SET_BACK_SECS: i64 = 5;

impl Session {
    /// Checks that the second factor was used as recently as these settings require for changes of credentials,
    /// if they require it (RFC 9470).
    ///
    /// # Errors
    /// [`Error::StepUpRequired`].
    pub fn stepped_up(&self, settings: &OrganizationSettings, at: Timestamp) -> Result<()> {
        let Some(minutes) = settings.step_up_minutes else {
            return Ok(());
        };
        self.used_second_factor_within(minutes.into(), at)
    }

    fn used_second_factor_within(&self, minutes: u32, at: Timestamp) -> Result<()> {
        let max_age_secs = minutes * 60;
        let fresh = -SET_BACK_SECS..=i64::from(max_age_secs);
        let age_secs = |used| at.duration_since(used).as_secs();
        if self
            .second_factor_at
            .is_some_and(|used| fresh.contains(&age_secs(used)))
        {
            return Ok(());
        }
        Err(Error::StepUpRequired { max_age_secs })
    }
}

/// Minutes for which the use of a second factor permits changes of second factors.
pub const FACTOR_CHANGE_MINUTES: u32 = 10;

/// An authenticated caller: the token is valid, its session is live, and user and organisation are as the
/// database has them now.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The caller.
    pub user: User,
    /// The caller's organisation.
    pub organization: Organization,
    /// The session of the token.
    pub session: Session,
}

impl Principal {
    /// Returns the caller as an admin of their organisation.
    ///
    /// # Errors
    /// [`Error::EnrolmentOnly`] in an enrolment session, [`Error::NotOrgAdmin`] without the role.
    pub fn org_admin(&self) -> Result<OrgAdmin<'_>> {
        self.full()?;
        if self.user.role < Role::OrgAdmin {
            return Err(Error::NotOrgAdmin);
        }
        Ok(OrgAdmin(self))
    }

    /// Checks that the caller's second factor was used as recently as the organisation requires for changes of
    /// credentials, if it does (RFC 9470).
    ///
    /// # Errors
    /// [`Error::StepUpRequired`].
    pub fn stepped_up(&self, at: Timestamp) -> Result<()> {
        self.session.stepped_up(&self.organization.settings, at)
    }

    /// Checks that the caller may add and remove second factors: in any session while MFA is off; otherwise only
    /// in a full one in which the second factor was used within [`FACTOR_CHANGE_MINUTES`], or the organisation's
    /// step-up time if that is shorter (ASVS 7.5.1). So a stolen session alone adds and removes nothing.
    ///
    /// # Errors
    /// [`Error::EnrolmentOnly`], [`Error::StepUpRequired`].
    pub fn may_change_factors(&self, at: Timestamp) -> Result<()> {
        if !self.user.mfa_enabled {
            return Ok(());
        }
        self.full()?;
        let demanded = self.organization.settings.step_up_minutes.map(u32::from);
        let minutes = demanded.map_or(FACTOR_CHANGE_MINUTES, |minutes| {
            minutes.min(FACTOR_CHANGE_MINUTES)
        });
        self.session.used_second_factor_within(minutes, at)
    }

    /// Returns the caller, if the session permits more than enrolment.
    ///
    /// # Errors
    /// [`Error::EnrolmentOnly`].
    pub fn full(&self) -> Result<&Self> {
        match self.session.scope {
            SessionScope::Full => Ok(self),
            SessionScope::Enrolment => Err(Error::EnrolmentOnly),
        }
    }
}

/// Proof of the right to administer one organisation: only [`Principal::org_admin`] creates one.
#[derive(Clone, Copy, Debug)]
pub struct OrgAdmin<'a>(&'a Principal);

impl std::ops::Deref for OrgAdmin<'_> {
    type Target = Principal;

    fn deref(&self) -> &Principal {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_up_of_the_future_is_none() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let session = Session {
            id: SessionId(Uuid::nil()),
            user_id: UserId(Uuid::nil()),
            scope: SessionScope::Full,
            authenticated_at: at(1000),
            second_factor_at: Some(at(1000)),
            second_factor_kind: Some(FactorKind::Totp),
            origin: SessionOrigin::Login,
            created_at: at(1000),
            expires_at: at(9000),
        };
        let settings = OrganizationSettings {
            step_up_minutes: Some(5),
            ..Default::default()
        };
        let fresh = |second| session.stepped_up(&settings, at(second)).is_ok();
        assert!(fresh(1000) && fresh(1300) && !fresh(1301));
        assert!(fresh(995), "clocks are set by a little");
        assert!(
            !fresh(994) && !fresh(0),
            "a clock that was set back keeps nothing fresh"
        );
        assert!(
            session
                .stepped_up(&OrganizationSettings::default(), at(0))
                .is_ok()
        );
    }
}
