//! `latchkey deliveries`: mail, webhook calls and syslog messages that are owed.

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::{Global, output};
use crate::service::deliveries::{self, Channel, DeliveryState};

/// `latchkey deliveries …`
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List what is owed or was given up, the newest first.
    ///
    /// What was said is not shown: it may hold names and links. Sent ones are remembered for a week, given up
    /// ones for 90 days.
    #[command(
        after_help = "Examples:\n  latchkey deliveries list\n  latchkey deliveries list --state dead --json"
    )]
    List {
        /// Which.
        #[arg(long, value_enum, default_value = "open")]
        state: Which,
        /// At most so many.
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: u32,
        /// Print them as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Try deliveries again that were given up or wait for their next attempt. It is on the record.
    ///
    /// The server sends them after its next start; with --send this command tries at once.
    #[command(
        after_help = "Examples:\n  latchkey deliveries retry    all that were given up\n  \
                            latchkey deliveries retry msg_5f0c… --send"
    )]
    Retry {
        /// Names, as `list` shows them [default: all that were given up].
        #[arg(value_name = "ID")]
        ids: Vec<String>,
        /// Send what is due now.
        #[arg(long)]
        send: bool,
        /// Print what was done as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Which deliveries.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Which {
    /// Owed or given up.
    Open,
    /// Still to be sent.
    Owed,
    /// Given up.
    Dead,
    /// Sent.
    Sent,
    /// All.
    All,
}

impl Which {
    fn states(self) -> &'static [DeliveryState] {
        match self {
            Self::Open => &[DeliveryState::Owed, DeliveryState::Dead],
            Self::Owed => &[DeliveryState::Owed],
            Self::Dead => &[DeliveryState::Dead],
            Self::Sent => &[DeliveryState::Sent],
            Self::All => &[DeliveryState::Owed, DeliveryState::Dead, DeliveryState::Sent],
        }
    }
}

impl Command {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let app = global.open()?;
        let services = &app.services;
        match self {
            Self::List { state, limit, json } => {
                let found = deliveries::list_deliveries(services, state.states(), limit)?;
                if json {
                    return output::json(&found);
                }
                let rows: Vec<_> = found
                    .into_iter()
                    .map(|delivery| {
                        let next = delivery.next_attempt_at.map(|at| format!("{at:.0}"));
                        [
                            delivery.id,
                            delivery.channel.as_str().to_owned(),
                            delivery.state.as_str().to_owned(),
                            delivery.attempts.to_string(),
                            next.unwrap_or_default(),
                            delivery.organization.unwrap_or_default(),
                            delivery.last_error.unwrap_or_default(),
                        ]
                    })
                    .collect();
                let headings = ["ID", "CHANNEL", "STATE", "TRIED", "NEXT", "ORGANISATION", "WHY"];
                output::table(headings, &rows)
            }
            Self::Retry { ids, send, json } => {
                let again = deliveries::retry_deliveries(services, &ids)?;
                let mut tried = 0;
                if send {
                    for channel in Channel::ALL {
                        tried += super::wait_for(deliveries::send_due(services, channel))?;
                    }
                }
                let open = deliveries::list_deliveries(services, Which::Open.states(), u32::MAX)?.len();
                if json {
                    return output::json(&json!({ "again": again, "tried": tried, "open": open }));
                }
                output::line(format_args!(
                    "{again} to be tried again, {tried} tried now, {open} still open"
                ))
            }
        }
    }
}
