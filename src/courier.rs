//! Outgoing messages: one mail, one webhook call or one syslog message at a time.
//!
//! The courier is given a destination, a content and a delivery id, tries once, and returns the outcome. It
//! does not know which deliveries are pending nor when to retry: `service/deliveries.rs` does.

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

/// The configuration of the courier, checked.
#[derive(Clone, Debug, Default)]
pub struct CourierConfig {
    /// Mail server and sender; `None` disables mail.
    pub mail: Option<MailConfig>,
    /// Hosts and networks that webhooks may reach.
    pub webhooks: Reach,
    /// Syslog target; `None` disables syslog.
    pub syslog: Option<SyslogTarget>,
}

/// Why a delivery failed. The text is for operators and names no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undelivered {
    /// A temporary failure: retry later.
    #[error("{0}")]
    Later(String),
    /// The receiver did not answer in time: retry later, and let other deliveries to it wait as well.
    #[error("{0}")]
    Unanswered(String),
    /// The receiver refused this content; it may accept it one day.
    #[error("{0}")]
    Refused(String),
    /// A permanent failure: it can never be delivered as it is.
    #[error("{0}")]
    Never(String),
}

/// Sends mail, webhook calls and syslog messages. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Courier {
    mailer: Option<mail::Mailer>,
    webhooks: webhook::Webhooks,
    syslog: Option<Arc<syslog::Syslog>>,
}

impl Courier {
    /// Sets up the configured channels; opens no connection.
    ///
    /// # Errors
    /// What is wrong with the TLS configuration.
    pub fn new(config: &CourierConfig) -> Result<Self, String> {
        Ok(Self {
            mailer: config.mail.as_ref().map(mail::Mailer::new).transpose()?,
            webhooks: webhook::Webhooks::new(config.webhooks.clone())?,
            syslog: config.syslog.clone().map(|to| Arc::new(syslog::Syslog::new(to))),
        })
    }

    /// Returns the hosts and networks that webhooks may reach.
    #[must_use]
    pub fn webhook_reach(&self) -> &Reach {
        self.webhooks.reach()
    }

    /// Hands a mail to the mail server. `name` becomes its `Message-ID` (RFC 5322 §3.6.4), without the angle
    /// brackets, so that a receiver can recognise a duplicate.
    ///
    /// # Errors
    /// [`Undelivered`], with the reason.
    pub async fn send_mail(&self, name: &str, mail: &Mail, at: Timestamp) -> Result<(), Undelivered> {
        match &self.mailer {
            Some(mailer) => mailer.send(name, mail, at).await,
            None => Err(Undelivered::Later("no mail server is configured".into())),
        }
    }

    /// Calls a webhook, signed according to Standard Webhooks. Any 2xx response counts as delivered.
    ///
    /// # Errors
    /// [`Undelivered`], with the reason.
    pub async fn call_webhook(&self, call: &WebhookCall<'_>) -> Result<(), Undelivered> {
        self.webhooks.call(call).await
    }

    /// Writes a message to the syslog target. Success over UDP does not prove that it arrived, over TCP only
    /// that the connection was open.
    ///
    /// # Errors
    /// [`Undelivered`], with the reason.
    pub async fn write_syslog(&self, message: &SyslogMessage<'_>) -> Result<(), Undelivered> {
        match &self.syslog {
            Some(syslog) => syslog.write(message).await,
            None => Err(Undelivered::Later("no syslog target is configured".into())),
        }
    }
}

/// Returns an error and its causes as one line of bounded length.
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

/// Makes text from another server fit for a log, an audit entry and a table.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST_REASON)
        .collect()
}

/// Longest reason that is stored, in characters.
const LONGEST_REASON: usize = 300;
