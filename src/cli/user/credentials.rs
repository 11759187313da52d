//! `latchkey user reset-mfa, unlock, restore-factors`: account recovery where no administrator can help, for
//! example because the only one lost their device. If a server runs, it carries out the order.

use anyhow::Result;
use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use crate::cli::{Global, orders, output};
use crate::service::operator::{AccountOrder, Named};

/// The account that a command acts on.
#[derive(Debug, Args)]
pub(in crate::cli) struct Whose {
    /// E-mail address of the user.
    email: String,
    /// Slug of the organisation.
    #[arg(long, value_name = "SLUG")]
    org: String,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ResetMfa {
    #[command(flatten)]
    whose: Whose,
    /// Reason for the reset: given to the policies and recorded.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Ticket reference: given to the policies and recorded.
    #[arg(long, value_name = "TEXT")]
    ticket: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RestoreFactors {
    #[command(flatten)]
    whose: Whose,
    /// Restore the factors removed at this time (RFC 3339) or, if none were, the last ones before it. Required if
    /// factors were removed more than once.
    #[arg(long, value_name = "TIME")]
    taken_before: Option<Timestamp>,
}

impl ResetMfa {
    pub(in crate::cli) fn run(self, global: &Global) -> Result<()> {
        let Self {
            whose,
            reason,
            ticket,
        } = self;
        let order = AccountOrder::ResetMfa {
            user: whose.named(),
            reason,
            ticket,
        };
        let done = orders::carry_out(global, order)?;
        whose.say(&done, |email| {
            format!("MFA of {email} reset; all sessions of the account were ended")
        })
    }
}

impl RestoreFactors {
    pub(in crate::cli) fn run(self, global: &Global) -> Result<()> {
        let Self { whose, taken_before } = self;
        let order = AccountOrder::RestoreFactors {
            user: whose.named(),
            taken_before,
        };
        let done = orders::carry_out(global, order)?;
        whose.say(&done, |email| {
            format!("Second factors of {email} restored; all sessions of the account were ended")
        })
    }
}

impl Whose {
    pub(in crate::cli) fn unlock(self, global: &Global) -> Result<()> {
        let done = orders::carry_out(global, AccountOrder::Unlock { user: self.named() })?;
        let changed = done["changed"] == true;
        self.say(&done, |email| match changed {
            true => format!("{email} unlocked"),
            false => format!("{email} is not locked; nothing was changed"),
        })
    }

    fn named(&self) -> Named {
        Named {
            organization: self.org.clone(),
            email: self.email.clone(),
        }
    }

    fn say(&self, done: &Value, what: impl FnOnce(&str) -> String) -> Result<()> {
        if self.json {
            return output::json(done);
        }
        let text = |field: &str| done[field].as_str();
        output::line(what(text("email").unwrap_or(&self.email)))?;
        if let Some(until) = text("enrolmentDueUntil") {
            output::line(format_args!(
                "The next login only allows setting up MFA, until {until}"
            ))?;
        }
        if let (Some(code), Some(until)) = (text("enrolmentCode"), text("enrolmentCodeUntil")) {
            output::line(format_args!(
                "Code for setting up MFA, shown only once, valid until {until}: {code}"
            ))?;
        }
        if done["active"] == false {
            output::line("The account is not active: nobody can log in to it")?;
        }
        if done["locked"] == true {
            output::line("The account is locked; latchkey user unlock unlocks it")?;
        }
        Ok(())
    }
}
