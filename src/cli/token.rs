//! `latchkey token`: mints access tokens without a login.

use anyhow::Result;
use clap::Subcommand;
use jiff::SignedDuration;
use serde_json::json;

use super::exit::Refusal;
use super::{Global, output};
use crate::service::{operator, session};

/// Longest lifetime of a minted token, in hours (90 days).
const LONGEST_HOURS: u32 = 90 * 24;

/// `latchkey token …`
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Mint an access token for a user, for example the first admin or a script.
    ///
    /// Prints the token and nothing else. The token is recorded in the audit trail and belongs to a session
    /// of its own: a reset of the user, a logout or a deactivation ends it early.
    #[command(
        after_help = "Examples:\n  TOKEN=$(latchkey token mint --org acme --email ada@acme.example)\n  \
                            latchkey token mint --org acme --email ada@acme.example --hours 12 --json"
    )]
    Mint {
        /// Slug of the organisation.
        #[arg(long, value_name = "SLUG")]
        org: String,
        /// The user's e-mail address.
        #[arg(long, value_name = "ADDRESS")]
        email: String,
        /// Lifetime in hours (1–2160).
        #[arg(long, default_value_t = 1)]
        hours: u32,
        /// Print the token and its lifetime as JSON.
        #[arg(long)]
        json: bool,
    },
}

impl Command {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let Self::Mint {
            org,
            email,
            hours,
            json,
        } = self;
        if !(1..=LONGEST_HOURS).contains(&hours) {
            return Err(Refusal(format!("--hours must be 1 to {LONGEST_HOURS}, not {hours}")).into());
        }
        let app = global.open()?;
        let user = operator::find_user(&app.services, &org, &email)?;
        let token = session::mint_token(&app.services, user.id, SignedDuration::from_hours(hours.into()))?;
        if json {
            let expires_in = u64::from(hours) * 3600;
            return output::json(&json!({
                "accessToken": token, "tokenType": "Bearer", "expiresIn": expires_in, "userId": user.id,
            }));
        }
        output::line(token)
    }
}
