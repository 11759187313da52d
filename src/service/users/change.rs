//! The effects of a patch on a user.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::act::{Case, guard_last_admin};
use crate::domain::account::{Role, User};
use crate::domain::approval::UserPatch;
use crate::domain::{Error, Result};
use crate::keys::KeyRing;
use crate::service::administration::name_problem;
use crate::service::{RequestContext, Services, notices};
use crate::store::deliveries::OwedDelivery;
use crate::store::{Transaction, accounts};

/// The user's new state, and the consequences of the difference.
#[derive(Clone, Debug)]
pub(super) struct Effects {
    name: Option<String>,
    role: Role,
    pub active: bool,
    unlock: Option<Unlock>,
    /// `{from, to}` by field name; a name is personal data, so only the fact that it changed is included.
    pub changes: Map<String, Value>,
    /// The role or the active state changed: no session may outlive that.
    pub ends_sessions: bool,
    /// Set if the user can no longer act as an admin: the error to return for the last one.
    pub ends_admin: Option<&'static str>,
}

/// Unlocking an account. If the enrolment window has closed it is reopened, and if a code is required a new one
/// is issued.
#[derive(Clone)]
struct Unlock {
    /// New end of the window, if it is reopened.
    due_until: Option<Timestamp>,
    code: Option<(String, [u8; 32], Timestamp)>,
}

impl Effects {
    /// Computes the effects of a patch; `None` if nothing changes.
    pub fn of(services: &Services, case: &Case, patch: &UserPatch, at: Timestamp) -> Result<Option<Self>> {
        let target = &case.target;
        if let Some(problem) = patch.name.as_deref().and_then(name_problem) {
            return Err(Error::field("name", problem));
        }
        let role = patch.role_after(target.role);
        if role == Role::HelpDesk && role != target.role && !case.organization.settings.help_desk_enabled {
            return Err(Error::field(
                "role",
                "HELP_DESK is not enabled in this organisation",
            ));
        }
        let name = match &patch.name {
            Some(name) => Some(name.trim().to_owned()).filter(|name| !name.is_empty()),
            None => target.name.clone(),
        };
        let active = patch.active.unwrap_or(target.active);
        let mut changes = Map::new();
        if name != target.name {
            changes.insert("name".into(), "changed".into());
        }
        if role != target.role {
            changes.insert("role".into(), json!({ "from": target.role, "to": role }));
        }
        if active != target.active {
            changes.insert("isActive".into(), json!({ "from": target.active, "to": active }));
        }
        let mut unlock = None;
        if patch.unlock {
            if let Some(lock) = &target.locked {
                changes.insert("locked".into(), json!({ "from": lock.reason, "to": null }));
                unlock = Some(Unlock::of(services, case, at));
            }
            // Without a login since the window closed, or if the code expired before it, there is no lock yet,
            // but no way in either.
            if reopens(case, at) {
                changes.insert("enrolmentWindow".into(), "opened again".into());
                unlock = Some(Unlock::of(services, case, at));
            }
            // The answer with the first code may have been lost, and only its hash is stored.
            if target.enrolment_due.as_ref().is_some_and(|due| due.code_required) {
                changes.insert("enrolmentCode".into(), "issued anew".into());
                unlock = Some(Unlock::of(services, case, at));
            }
        }
        if changes.is_empty() {
            return Ok(None);
        }
        let deactivates = target.active && !active;
        let was_admin = target.role >= Role::OrgAdmin;
        let ends_admin = if was_admin && role < Role::OrgAdmin {
            Some("Cannot demote the last organization admin")
        } else if was_admin && deactivates {
            Some("Cannot deactivate the last organization admin")
        } else {
            None
        };
        Ok(Some(Self {
            ends_sessions: role != target.role || deactivates,
            ends_admin,
            name,
            role,
            active,
            unlock,
            changes,
        }))
    }

    /// True if links to set the user's password are to be invalidated: the account was deactivated, or gains
    /// power, and the account's creator may have kept the link.
    pub fn ends_invitations(&self, target: &User) -> bool {
        !self.active || self.role > target.role
    }

    pub fn enrolment_code(&self) -> Option<String> {
        let code = self.unlock.as_ref()?.code.as_ref()?;
        Some(code.0.clone())
    }

    pub fn guard_last_admin(&self, tx: &Transaction<'_>, case: &Case) -> Result<()> {
        match self.ends_admin {
            Some(refusal) => guard_last_admin(tx, case, refusal),
            None => Ok(()),
        }
    }

    pub fn write(&self, tx: &Transaction<'_>, target: &User, at: Timestamp) -> Result<()> {
        accounts::update_user(tx, target.id, self.name.as_deref(), self.role, self.active, at)?;
        if let Some(unlock) = &self.unlock {
            let code = unlock.code.as_ref().map(|(_, hash, until)| (*hash, *until));
            accounts::update_unlocked(tx, target.id, unlock.due_until, code, at)?;
        }
        Ok(())
    }

    /// Returns the notices to the user about the change, and to the admins about a new admin.
    pub fn notices(&self, services: &Services, case: &Case, context: &RequestContext) -> Vec<OwedDelivery> {
        let (organization, target) = (&case.organization, &case.target);
        let mut facts = Vec::new();
        if self.role != target.role {
            facts.push(format!("Your role is now {}.", role_name(self.role)));
        }
        if self.active != target.active {
            facts.push(if self.active {
                "Your account can be used again.".to_owned()
            } else {
                "Your account was deactivated.".to_owned()
            });
        }
        if target.locked.is_some() && self.unlock.is_some() {
            facts.push("Your account was unlocked.".to_owned());
        }
        if self.changes.contains_key("enrolmentWindow") {
            facts.push("You can set up your second factor again.".to_owned());
        }
        if self.changes.contains_key("enrolmentCode") {
            facts.push("There is a new code for setting up your second factor.".to_owned());
        }
        if facts.is_empty() {
            return Vec::new();
        }
        let subject = format!("Your account for {} was changed", organization.name);
        let body = format!(
            "{} changed your account {} {}.\n\n{}",
            notices::called(&case.actor),
            target.email,
            notices::when_and_whence(context),
            facts.join("\n"),
        );
        let end = "If you don't know why, ask your administrators.";
        let told = notices::reportable_mail(services, organization, target, context, &subject, &body, end);
        let mut owed: Vec<_> = told.into_iter().collect();
        let mut data = notices::who_to_whom(&case.actor, target, context);
        data["changes"] = self.changes.clone().into();
        owed.extend(notices::call(
            services,
            organization,
            "user.account.changed",
            context.at,
            data,
        ));
        if self.role >= Role::OrgAdmin && target.role < Role::OrgAdmin {
            owed.extend(notices::of_new_admin(
                services,
                organization,
                &case.actor,
                target,
                &case.admin_emails,
            ));
        }
        owed
    }
}

impl Unlock {
    fn of(services: &Services, case: &Case, at: Timestamp) -> Self {
        let settings = &case.organization.settings;
        let due = case.target.enrolment_due.as_ref();
        let hours = SignedDuration::from_hours(i64::from(settings.enrolment_window_hours));
        let due_until = reopens(case, at).then(|| at + hours);
        let code_until = at + SignedDuration::from_mins(i64::from(settings.enrolment_code_minutes));
        let code_due = due.filter(|due| due.code_required);
        Self {
            due_until,
            code: code_due.map(|due| {
                let code = KeyRing::enrolment_code(&services.entropy);
                let hash = services.keys.enrolment_code_hash(case.target.id, &code);
                let until = due_until.unwrap_or(due.until);
                (code, hash, until.min(code_until))
            }),
        }
    }
}

/// True if unlocking reopens the enrolment window.
fn reopens(case: &Case, at: Timestamp) -> bool {
    case.target
        .enrolment_due
        .as_ref()
        .is_some_and(|due| due.is_over(at))
}

/// Returns a role's name as people know it.
pub(super) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Member => "member",
        Role::HelpDesk => "help desk",
        Role::OrgAdmin => "administrator",
        Role::Operator => "operator",
    }
}

prints_no_secret!(Unlock);
