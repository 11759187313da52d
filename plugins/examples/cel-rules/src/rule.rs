//! One rule: what it says, and whether that makes sense.

use latchkey_policy::prelude::*;

use crate::evaluate::Trial;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    pub name: String,
    pub when: String,
    pub then: Then,
    message: Option<String>,
    pub approvals: Option<u8>,
    pub expires_hours: Option<u32>,
    hours: Option<u32>,
    to: Option<Audience>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    Allow,
    Deny,
    RequireApproval,
    RequireEnrolment,
    RequireEnrolmentCode,
    LockAccount,
    Notify,
    Annotate,
}

impl Rule {
    pub fn check(&self, path: &str, trial: &Trial) -> Result<(), String> {
        let at = |key: &str| format!("{path}/{key}");
        ensure(is_kebab(&self.name), &at("name"), "must be kebab-case, as in too-many-resets")?;
        // Needed, or at least of use: a key that does nothing is a misunderstanding.
        let (needs, may): (&[&str], &[&str]) = match self.then {
            Then::Allow | Then::RequireEnrolmentCode | Then::LockAccount => (&[], &[]),
            Then::Deny | Then::Annotate => (&["message"], &[]),
            Then::RequireApproval => (&["message"], &["approvals", "expiresHours"]),
            Then::RequireEnrolment => (&["hours"], &[]),
            Then::Notify => (&["message", "to"], &[]),
        };
        for (key, given) in [
            ("message", self.message.is_some()),
            ("approvals", self.approvals.is_some()),
            ("expiresHours", self.expires_hours.is_some()),
            ("hours", self.hours.is_some()),
            ("to", self.to.is_some()),
        ] {
            ensure(given || !needs.contains(&key), &at(key), "is needed for this `then`")?;
            ensure(!given || needs.contains(&key) || may.contains(&key), &at(key), "does nothing for this `then`")?;
        }
        // The host cuts short what is longer, or refuses it.
        let longest = match self.then {
            Then::Annotate => 1000,
            Then::Notify => 2000,
            _ => 500,
        };
        let fits = self.message().chars().count() <= longest;
        ensure(fits, &at("message"), &format!("must have at most {longest} characters for this `then`"))?;
        ensure(self.approvals.is_none_or(|approvals| (1..=3).contains(&approvals)), &at("approvals"), "must be from 1 to 3")?;
        ensure(self.expires_hours.is_none_or(|hours| (1..=168).contains(&hours)), &at("expiresHours"), "must be from 1 to 168")?;
        ensure(self.hours.is_none_or(|hours| hours <= 720), &at("hours"), "must be from 0 to 720")?;
        let deciding = matches!(self.then, Then::Allow | Then::Deny | Then::RequireApproval);
        trial.check(&self.when, !deciding).map_err(|reason| format!("{}: {reason}", at("when")))
    }

    pub fn message(&self) -> &str {
        self.message.as_deref().unwrap_or_default()
    }

    // What it asks for, if it is about an effect.
    pub fn effect(&self) -> Option<Effect> {
        Some(match self.then {
            Then::Allow | Then::Deny | Then::RequireApproval => return None,
            Then::RequireEnrolment => Effect::RequireEnrolment(self.hours.unwrap_or(0)),
            Then::RequireEnrolmentCode => Effect::RequireEnrolmentCode,
            Then::LockAccount => Effect::LockAccount,
            Then::Notify => notify(self.to.unwrap_or(Audience::SecurityContact), "A second factor was reset", self.message()),
            Then::Annotate => annotate(&*self.name, self.message()),
        })
    }
}

fn is_kebab(name: &str) -> bool {
    let word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    name.len() <= 64 && name.starts_with(|first: char| first.is_ascii_lowercase()) && name.split('-').all(word)
}
