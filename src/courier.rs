//! What leaves the appliance: one mail, one webhook call or one syslog message at a time.
//!
//! The courier is told where, what and under which name, tries once, and says how it went. It knows
//! nothing of what is owed to whom, nor when to try again: `service/deliveries.rs` does.

pub mod mail;
mod reach;
pub mod syslog;
pub mod webhook;

pub use mail::{Mail, MailConfig, MailTls};
pub use reach::Reach;
pub use syslog::{Severity, SyslogMessage, SyslogTarget};
pub use webhook::WebhookCall;

use std::sync::Arc;

use jiff::Timestamp;

/// What the operator configured, checked.
#[derive(Clone, Debug, Default)]
pub struct CourierConfig {
    /// How mail is sent; `None`: it is not.
    pub mail: Option<MailConfig>,
    /// Which hosts webhooks may reach.
    pub webhooks: Reach,
    /// Where syslog messages go; `None`: nowhere.
    pub syslog: Option<SyslogTarget>,
}

/// Why something did not arrive. The text is for operators: it names no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undelivered {
    /// Trying again makes sense.
    #[error("{0}")]
    Later(String),
    /// So does it here, but nobody answered within the time there is: what else goes there had better wait.
    #[error("{0}")]
    Unanswered(String),
    /// The receiver does not want it as it is; it may one day.
    #[error("{0}")]
    Refused(String),
    /// It will never arrive as it is.
    #[error("{0}")]
    Never(String),
}

/// Sends. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Courier {
    mailer: Option<mail::Mailer>,
    webhooks: webhook::Webhooks,
    syslog: Option<Arc<syslog::Syslog>>,
}

impl Courier {
    /// Makes ready what is configured; connects to nothing.
    ///
    /// # Errors
    /// What is wrong with the TLS set-up.
    pub fn new(config: &CourierConfig) -> Result<Self, String> {
        Ok(Self {
            mailer: config.mail.as_ref().map(mail::Mailer::new).transpose()?,
            webhooks: webhook::Webhooks::new(config.webhooks.clone())?,
            syslog: config.syslog.clone().map(|to| Arc::new(syslog::Syslog::new(to))),
        })
    }

    /// Whether mail is configured.
    #[must_use]
    pub fn sends_mail(&self) -> bool {
        self.mailer.is_some()
    }

    /// Whether a syslog target is configured.
    #[must_use]
    pub fn sends_syslog(&self) -> bool {
        self.syslog.is_some()
    }

    /// Which hosts webhooks may reach.
    #[must_use]
    pub fn webhook_reach(&self) -> &Reach {
        self.webhooks.reach()
    }

    /// Hands a mail to the mail server. `name` is its `Message-ID` (RFC 5322 §3.6.4), without the angle
    /// brackets: whoever gets it twice can tell.
    ///
    /// # Errors
    /// [`Undelivered`].
    pub async fn send_mail(&self, name: &str, mail: &Mail, at: Timestamp) -> Result<(), Undelivered> {
        match &self.mailer {
            Some(mailer) => mailer.send(name, mail, at).await,
            None => Err(Undelivered::Later("no mail server is configured".into())),
        }
    }

    /// Calls a webhook, signed (Standard Webhooks). It arrived when the answer is a 2xx.
    ///
    /// # Errors
    /// [`Undelivered`].
    pub async fn call_webhook(&self, call: &WebhookCall<'_>) -> Result<(), Undelivered> {
        self.webhooks.call(call).await
    }

    /// Writes a message to the syslog target. Over UDP nobody knows whether it arrived, over TCP only that
    /// the connection was open.
    ///
    /// # Errors
    /// [`Undelivered`].
    pub async fn write_syslog(&self, message: &SyslogMessage<'_>) -> Result<(), Undelivered> {
        match &self.syslog {
            Some(syslog) => syslog.write(message).await,
            None => Err(Undelivered::Later("no syslog target is configured".into())),
        }
    }
}

/// An error and what it came from, in one line of bounded length.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    one_line(&text)
}

/// Other servers' words, fit for a log, an entry and a table.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST_REASON)
        .collect()
}

/// Longest reason that is kept, in characters.
const LONGEST_REASON: usize = 300;
