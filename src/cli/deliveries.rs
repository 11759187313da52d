//! `latchkey deliveries`: lists and retries mail, webhook calls and syslog messages.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, bail};
use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::signals::Interruption;
use super::{Global, Progress, output};
use crate::service::Services;
use crate::service::deliveries::{self, Channel, DeliveryState, Failed, Sent};

/// `latchkey deliveries …`
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List deliveries that are pending or were given up, the newest first.
    ///
    /// KIND is the event type of the audit entry that the delivery reports. The content is not shown: it may
    /// hold names and links. Sent deliveries are kept for a week, given-up ones for 90 days.
    #[command(
        after_help = "Examples:\n  latchkey deliveries list\n  latchkey deliveries list --state dead --json"
    )]
    List {
        /// Show only deliveries in this state.
        #[arg(long, value_enum, default_value = "open")]
        state: Which,
        /// Show at most N deliveries.
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: u32,
        /// Print the deliveries as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Retry deliveries that were given up or wait for their next attempt. Recorded in the audit trail.
    ///
    /// The server sends them after its next start. With --send this command tries at once, and exits with 1
    /// if any of them fails. A signal lets the attempts under way finish; the remaining deliveries stay owed.
    #[command(
        after_help = "Examples:\n  latchkey deliveries retry    all that were given up\n  \
                            latchkey deliveries retry msg_5f0c… --send"
    )]
    Retry {
        /// Ids, as `list` shows them [default: all that were given up].
        #[arg(value_name = "ID")]
        ids: Vec<String>,
        /// Send everything that is due now.
        #[arg(long)]
        send: bool,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// The states that `list` can show.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Which {
    /// Pending or given up.
    Open,
    /// Pending: still to be sent.
    Owed,
    /// Given up: no further attempt is made.
    Dead,
    /// Sent, in the last week.
    Sent,
    /// All of them.
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
                            delivery.kind.unwrap_or_default(),
                            delivery.channel.as_str().to_owned(),
                            delivery.recipient.unwrap_or_default(),
                            delivery.state.as_str().to_owned(),
                            delivery.attempts.to_string(),
                            next.unwrap_or_default(),
                            delivery.organization.unwrap_or_default(),
                            delivery.last_error.unwrap_or_default(),
                        ]
                    })
                    .collect();
                output::table(HEADINGS, &rows)
            }
            Self::Retry { ids, send, json } => {
                let again = deliveries::retry_deliveries(services, &ids)?;
                let (sent, stopped) = if send {
                    send_all(services)?
                } else {
                    Default::default()
                };
                let open = deliveries::list_deliveries(services, Which::Open.states(), u32::MAX)?.len();
                let Sent { tried, failed } = &sent;
                if json {
                    output::json(&json!({ "again": again, "tried": tried, "failed": failed, "open": open }))?;
                } else {
                    output::line(format_args!(
                        "{again} to be retried, {tried} tried now, {open} still open"
                    ))?;
                }
                match &failed[..] {
                    [] if stopped => bail!("stopped; the deliveries not tried yet are still owed"),
                    [] => Ok(()),
                    [first, ..] => bail!("{} failed: {}", failed.len(), causes(failed, &first.why)),
                }
            }
        }
    }
}

/// Sends all due deliveries, and returns the result and whether a signal stopped it. Takes long if receivers do
/// not respond.
fn send_all(services: &Services) -> Result<(Sent, bool)> {
    let mut interruption = Interruption::watch()?;
    let owed = deliveries::list_deliveries(services, Which::Owed.states(), u32::MAX)?.len();
    let progress = Progress::new("deliveries", owed as u64);
    let tried = AtomicU64::new(0);
    let attempted = || progress.reach(tried.fetch_add(1, Ordering::Relaxed) + 1);
    let mut sent = Sent::default();
    for channel in Channel::ALL {
        let go_on = &mut || interruption.go_on();
        let of_channel = super::wait_for(deliveries::send_all_due(services, channel, &attempted, go_on))?;
        sent.tried += of_channel.tried;
        sent.failed.extend(of_channel.failed);
    }
    progress.finish();
    Ok((sent, interruption.go_on().is_break()))
}

const HEADINGS: [&str; 9] = [
    "ID",
    "KIND",
    "CHANNEL",
    "RECIPIENT",
    "STATE",
    "TRIED",
    "NEXT",
    "ORGANISATION",
    "WHY",
];

/// Returns why deliveries failed: the reason once if it is the same for all, otherwise one line for each.
fn causes(failed: &[Failed], first: &str) -> String {
    if failed.iter().all(|failed| failed.why == first) {
        return first.to_owned();
    }
    let lines = failed.iter().map(|Failed { id, why }| format!("\n  {id}: {why}"));
    lines.collect()
}
