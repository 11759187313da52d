//! Login: password, then second factor.
//!
//! The organisation's requirements decide, not the factors that the user happens to have: if MFA is required, a
//! login with the password alone gives access to enrolment only.

pub(super) mod attempts;
pub(super) mod code;
mod expired_password;
pub(super) mod new_password;
mod own_password;
mod passkey;
mod password;
mod second_step;
mod step_up;
mod strangers;

use jiff::{SignedDuration, Timestamp};
use zeroize::Zeroizing;

use super::session::{self, Opening, Tokens};
use super::{RequestContext, Services, own_event};
use crate::domain::account::{Lock, Organization, SessionScope, User, UserId};
use crate::domain::audit::{AuditResult, Event, EventType};
use crate::domain::credential::OneUseToken;
use crate::domain::policy::FactorKind;
use crate::domain::{Error, Result};
use crate::store::challenges::Purpose;
use crate::store::sessions::{self, SessionRow};
use crate::store::{Transaction, accounts, audit, challenges, passwords};

pub use attempts::read_device;
pub use code::verify_mfa;
pub use expired_password::change_expired_password;
pub use own_password::change_own_password;
pub use passkey::{
    passkey_login_options, passkey_step_up_options, step_up_with_passkey, verify_mfa_with_passkey,
};
pub use step_up::step_up;
pub use strangers::{Strangers, record_strangers};

/// How often a login is re-evaluated if the user changed in the meantime.
const ATTEMPTS: usize = 3;
/// How long an expired password may be changed after it was presented, in seconds.
const PASSWORD_CHANGE_SECS: i64 = 10 * 60;
/// Maximum lifetime of an enrolment session, in seconds.
pub(super) const ENROLMENT_SESSION_SECS: i64 = 60 * 60;

/// Lock reason of an account whose user did not enrol in time.
pub(super) const WINDOW_OVER_REASON: &str = "MFA was not set up in time after a reset";

/// The credentials presented at login.
#[derive(Debug)]
pub struct LoginRequest {
    /// The organisation's slug.
    pub organization_slug: String,
    /// E-mail address.
    pub email: String,
    /// Password.
    pub password: Password,
}

/// A password in clear. Its `Debug` output is empty, and it is wiped on drop.
#[derive(Clone)]
pub struct Password(pub Zeroizing<String>);

/// The answer to a login whose password was correct.
#[derive(Clone)]
pub struct LoginAnswer {
    /// The user.
    pub user: User,
    /// Their organisation.
    pub organization: Organization,
    /// What the client has to do next.
    pub next: Next,
}

/// The next step of a login.
#[derive(Clone)]
pub enum Next {
    /// None: logged in.
    Done(Tokens),
    /// Logged in, but only for setting up MFA.
    SetUp(Tokens),
    /// A second factor is required.
    Challenge {
        /// Challenge token for `verify_mfa`.
        token: String,
        /// Seconds until the token expires.
        expires_in: i64,
        /// Kinds of factor that can be used, strongest first.
        methods: Vec<FactorKind>,
        /// Whether the password has expired: if so, the token is for `change_expired_password` after `verify_mfa`.
        password_expired: bool,
    },
    /// The password has expired.
    PasswordExpired {
        /// Token for `change_expired_password`.
        token: String,
    },
}

/// Logs in with organisation, e-mail address and password.
///
/// # Errors
/// [`Error::InvalidCredentials`], identical for a wrong organisation, address or password and for an inactive
/// account; [`Error::AccountLocked`] only if the password was correct; [`Error::RateLimited`]; [`Error::Busy`].
pub async fn login(
    services: &Services,
    request: LoginRequest,
    context: &RequestContext,
) -> Result<LoginAnswer> {
    password::admit(services, context)?; // 429, before anything is read
    let account = password::find_account(services, &request)?;
    let attempt = attempts::admit_password(services, &request, &account, context)?; // 429
    let proof = password::check(services, account, &request, context).await?; // 401
    attempt.forget(services);
    for _ in 0..ATTEMPTS {
        let case = proof.case(services)?;
        match commit(services, case, &proof, context).await {
            Err(Error::Stale) => {} // changed since it was read: decide again
            ended => return ended,
        }
    }
    Err(Error::Stale)
}

/// A user whose password was verified, as read from the database a moment ago.
#[derive(Clone, Debug)]
struct Case {
    user: User,
    organization: Organization,
    /// Kinds of factor that can be used for the second step.
    methods: Vec<FactorKind>,
}

/// The outcome of a login, given only the state of user and organisation.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Decision {
    Locked,
    /// The time for enrolment after a reset is over: the password alone no longer allows it.
    WindowOver,
    PasswordExpired,
    Challenge,
    /// Enrolment only, at most until this time.
    SetUp {
        until: Timestamp,
    },
    Done,
}

impl Case {
    fn decide(&self, at: Timestamp) -> Decision {
        let Self {
            user, organization, ..
        } = self;
        if user.locked.is_some() {
            return Decision::Locked;
        }
        let demanded = organization.settings.mfa_required || user.enrolment_due.is_some();
        let set_up = demanded && !user.mfa_enabled;
        if set_up && user.enrolment_due.as_ref().is_some_and(|due| at >= due.until) {
            return Decision::WindowOver;
        }
        // Before the check for expiry: an old password alone must not be enough to replace it (ASVS 6.2.2, 6.3.4).
        if user.mfa_enabled {
            return Decision::Challenge;
        }
        if password_expired(user, organization, at) {
            return Decision::PasswordExpired;
        }
        if set_up {
            let until = at + SignedDuration::from_secs(ENROLMENT_SESSION_SECS);
            let until = user
                .enrolment_due
                .as_ref()
                .map_or(until, |due| due.until.min(until));
            return Decision::SetUp { until };
        }
        Decision::Done
    }

    fn still_holds(&self, tx: &Transaction<'_>) -> Result<()> {
        let user = accounts::find_user_revision(tx, self.user.id)?;
        let organization = accounts::find_organization_revision(tx, self.organization.id)?;
        if (user, organization) == (Some(self.user.revision), Some(self.organization.revision)) {
            return Ok(());
        }
        Err(Error::Stale)
    }
}

/// True if the organisation lets passwords expire and the user's has.
fn password_expired(user: &User, organization: &Organization, at: Timestamp) -> bool {
    let days = organization.settings.password_expiration_days;
    days.zip(user.password_changed_at).is_some_and(|(days, changed)| {
        at.duration_since(changed) >= SignedDuration::from_hours(24 * i64::from(days))
    })
}

/// The end of a login: what to write, what to record, what to answer.
struct Ending {
    writes: Writes,
    event: Option<Event>,
    answer: Result<Next>,
}

/// The database write of an ending.
enum Writes {
    Nothing,
    Lock(Lock),
    Token {
        hash: [u8; 32],
        purpose: Purpose,
        expires_at: Timestamp,
    },
    Session(Box<SessionRow>),
}

async fn commit(
    services: &Services,
    case: Case,
    proof: &password::Proof,
    context: &RequestContext,
) -> Result<LoginAnswer> {
    let at = context.at;
    let Ending {
        writes,
        event,
        answer,
    } = Ending::of(services, &case, context);
    let entry_id = services.entropy.uuid(at);
    let (judged, rehashed) = (case.clone(), proof.rehashed.clone());
    services
        .store
        .write_for(case.user.organization_id, move |tx| {
            judged.still_holds(tx)?;
            if let Some((old, new)) = &rehashed {
                passwords::update_password_hash(tx, judged.user.id, old, new)?;
            }
            writes.apply(tx, judged.user.id, at)?;
            if let Some(event) = &event {
                audit::append_entry(tx, at, entry_id, event)?;
            }
            Ok(())
        })
        .await?;
    let Case {
        user, organization, ..
    } = case;
    answer.map(|next| LoginAnswer {
        user,
        organization,
        next,
    })
}

impl Ending {
    fn of(services: &Services, case: &Case, context: &RequestContext) -> Self {
        let at = context.at;
        let user = &case.user;
        match case.decide(at) {
            Decision::Locked => Self::refuse(user, context, "locked", Writes::Nothing),
            Decision::WindowOver => {
                let reason = WINDOW_OVER_REASON.to_owned();
                let lock = Writes::Lock(Lock { at, reason });
                Self::refuse(user, context, "enrolment-window-over", lock)
            }
            Decision::PasswordExpired => {
                let (token, writes) =
                    one_use(services, user, Purpose::PasswordChange, PASSWORD_CHANGE_SECS, at);
                Self::go_on(writes, Next::PasswordExpired { token })
            }
            Decision::Challenge => {
                let expires_in = services.settings.mfa_challenge_secs;
                let (token, writes) = one_use(services, user, Purpose::Mfa, expires_in, at);
                let methods = case.methods.clone();
                let next = Next::Challenge {
                    token,
                    expires_in,
                    methods,
                    password_expired: password_expired(user, &case.organization, at),
                };
                Self::go_on(writes, next)
            }
            Decision::SetUp { until } => {
                Self::let_in(services, user, SessionScope::Enrolment, Some(until), context)
            }
            Decision::Done => Self::let_in(services, user, SessionScope::Full, None, context),
        }
    }

    fn refuse(user: &User, context: &RequestContext, reason: &str, writes: Writes) -> Self {
        let event = refused(login_event(user, context), reason);
        Self {
            writes,
            event: Some(event),
            answer: Err(Error::AccountLocked),
        }
    }

    /// Ends a step that is not the last; only the last one leaves an entry.
    fn go_on(writes: Writes, next: Next) -> Self {
        Self {
            writes,
            event: None,
            answer: Ok(next),
        }
    }

    fn let_in(
        services: &Services,
        user: &User,
        scope: SessionScope,
        until: Option<Timestamp>,
        context: &RequestContext,
    ) -> Self {
        let opening = Opening {
            scope,
            second_factor: None,
            until,
        };
        let (row, tokens) = session::new_session(services, user, opening, context);
        let event = login_event(user, context)
            .with("sessionId", row.session.id.to_string())
            .with("method", "password");
        let (event, next) = match scope {
            SessionScope::Full => (event, Next::Done(tokens)),
            SessionScope::Enrolment => (event.with("scope", "enrolment"), Next::SetUp(tokens)),
        };
        Self {
            writes: Writes::Session(Box::new(row)),
            event: Some(event),
            answer: Ok(next),
        }
    }
}

impl Writes {
    fn apply(&self, tx: &Transaction<'_>, user: UserId, at: Timestamp) -> Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Lock(lock) => {
                accounts::update_lock(tx, user, Some(lock), at)?;
                sessions::clear_sessions(tx, user, at)?;
                Ok(())
            }
            Self::Token {
                hash,
                purpose,
                expires_at,
            } => challenges::insert_challenge(tx, user, hash, *purpose, None, at, *expires_at),
            Self::Session(row) => {
                sessions::insert_session(tx, row)?;
                passwords::update_last_login(tx, user, at)
            }
        }
    }
}

fn one_use(services: &Services, user: &User, purpose: Purpose, secs: i64, at: Timestamp) -> (String, Writes) {
    let token = OneUseToken::new(user.id, services.entropy.bytes());
    let writes = Writes::Token {
        hash: token.hash(),
        purpose,
        expires_at: at + SignedDuration::from_secs(secs),
    };
    (token.encode(), writes)
}

/// Returns the entry of a login by a user who proved their identity as far as required.
fn login_event(user: &User, context: &RequestContext) -> Event {
    own_event(EventType::UserLogin, user, context)
}

/// Marks the entry as refused. `reason` is for the trail; the caller may be told less.
fn refused(event: Event, reason: &str) -> Event {
    let message = match reason {
        "locked" | "enrolment-window-over" => Error::AccountLocked,
        "wrong-code" => Error::InvalidCode,
        "wrong-passkey" => Error::InvalidPasskey,
        _ => Error::InvalidCredentials,
    };
    event.ended(AuditResult::Denied, message).with("reason", reason)
}

prints_no_secret!(Password, LoginAnswer, Next);
