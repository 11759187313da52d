//! Sends mail by SMTP (RFC 5321).

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{Address, AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{Undelivered, told};

/// Timeout of the connection to one address of the mail server, in seconds. lettre gives the rest of the
/// conversation no time limit: [`MailConfig::timeout`] does.
const CONNECT_TIMEOUT_SECS: u64 = 30;

/// A mail to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mail {
    /// E-mail address of the recipient.
    pub to: String,
    /// Subject line.
    pub subject: String,
    /// Plain text.
    pub body: String,
}

/// How the connection to the mail server is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MailTls {
    /// STARTTLS: the connection begins in clear and must be upgraded before anything else (RFC 3207); port
    /// 587.
    #[default]
    Starttls,
    /// TLS from the first byte (RFC 8314 §3); port 465.
    Tls,
    /// No protection, for a mail server on the same machine; port 25.
    None,
}

impl MailTls {
    /// Returns the default port.
    #[must_use]
    pub fn port(self) -> u16 {
        match self {
            Self::Starttls => 587,
            Self::Tls => 465,
            Self::None => 25,
        }
    }
}

/// The mail configuration, checked.
#[derive(Clone)]
pub struct MailConfig {
    /// Host name or address of the mail server.
    pub host: String,
    /// Port of the mail server.
    pub port: u16,
    /// How the connection is protected.
    pub tls: MailTls,
    /// User name and password, if the server requires them.
    pub credentials: Option<(String, Zeroizing<String>)>,
    /// Sender: `Latchkey <mfa@example.org>`.
    pub from: Mailbox,
    /// Certificates trusted in addition to the system's, as PEM.
    pub ca: Option<Vec<u8>>,
    /// Timeout of an attempt, from the connection to the answer to QUIT.
    pub timeout: Duration,
}

impl MailConfig {
    /// Timeout of an attempt unless a test needs a shorter one. Shorter than RFC 5321 §4.5.3.2 advises for each
    /// command, because other mail waits meanwhile; longer than the pauses that servers make to slow down spam.
    pub const TIMEOUT: Duration = Duration::from_secs(120);

    /// Parses a sender.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_from(text: &str) -> Result<Mailbox, String> {
        text.parse().map_err(|error| told(&error))
    }
}

impl fmt::Debug for MailConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailConfig")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// Sends mail.
#[derive(Clone)]
pub(super) struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    timeout: Duration,
}

prints_no_secret!(Mailer);

impl Mailer {
    pub(super) fn new(config: &MailConfig) -> Result<Self, String> {
        let parameters = || {
            let mut parameters = TlsParameters::builder(config.host.clone());
            if let Some(pem) = &config.ca {
                let certificate = Certificate::from_pem(pem).map_err(|error| told(&error))?;
                parameters = parameters.add_root_certificate(certificate);
            }
            parameters.build().map_err(|error| told(&error))
        };
        let tls = match config.tls {
            MailTls::Starttls => Tls::Required(parameters()?),
            MailTls::Tls => Tls::Wrapper(parameters()?),
            MailTls::None => Tls::None,
        };
        let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&config.host)
            .port(config.port)
            .tls(tls)
            .timeout(Some(Duration::from_secs(CONNECT_TIMEOUT_SECS)));
        if let Some((user, password)) = &config.credentials {
            transport = transport.credentials(Credentials::new(user.clone(), password.to_string()));
        }
        Ok(Self {
            transport: transport.build(),
            from: config.from.clone(),
            timeout: config.timeout,
        })
    }

    pub(super) async fn send(&self, name: &str, mail: &Mail, at: Timestamp) -> Result<(), Undelivered> {
        let message = self.message(name, mail, at).map_err(Undelivered::Never)?;
        let Ok(sent) = timeout(self.timeout, self.transport.send(message)).await else {
            return Err(Undelivered::Unanswered(format!(
                "the mail server did not end the conversation within {:?}",
                self.timeout
            )));
        };
        let Err(error) = sent else { return Ok(()) };
        let why = without_addresses(&told(&error));
        Err(if error.is_timeout() {
            Undelivered::Unanswered(why)
        } else if error.is_permanent() && !is_about_us(&error) {
            Undelivered::Never(why)
        } else {
            Undelivered::Later(why)
        })
    }

    fn message(&self, name: &str, mail: &Mail, at: Timestamp) -> Result<Message, String> {
        let to: Address = mail
            .to
            .parse()
            .map_err(|_| "the recipient's address can't be written to".to_owned())?;
        // The subject may contain names and text from policies: none of it may start a header.
        let subject: String = mail
            .subject
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let mut message = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(subject)
            .message_id(Some(format!("<{name}@{}>", self.from.email.domain())))
            .date(std::time::SystemTime::from(at))
            .header(ContentType::TEXT_PLAIN)
            .body(mail.body.clone())
            .map_err(|error| told(&error))?;
        // RFC 3834 §5: suppresses automatic replies.
        let auto = HeaderValue::new(
            HeaderName::new_from_ascii_str("Auto-Submitted"),
            "auto-generated".to_owned(),
        );
        message.headers_mut().insert_raw(auto);
        Ok(message)
    }
}

/// Returns whether a refusal is about our right to send rather than about this mail; the operator can then fix
/// it.
fn is_about_us(error: &lettre::transport::smtp::Error) -> bool {
    let answer = error.source().map(ToString::to_string).unwrap_or_default();
    error
        .status()
        .is_some_and(|code| concerns_sender(u16::from(code), &answer))
}

/// Returns whether a permanent answer is about the sender's right to send, by its reply code (RFC 4954 §6) and
/// the enhanced code with which its text may begin (RFC 3463 §3). Servers give the codes of a policy (X.7) and
/// 554 to a relay that they do not know, and to spam, too: trying that again for three days does no harm, while
/// giving up every notice at once because of a server's changed configuration does.
fn concerns_sender(code: u16, answer: &str) -> bool {
    let first = answer.split_whitespace().next().unwrap_or_default();
    let parts: Vec<Option<u16>> = first
        .trim_matches(|c: char| !c.is_ascii_digit()) // some servers write #5.7.1
        .split('.')
        .map(|part| part.parse().ok())
        .collect();
    match parts[..] {
        // Policy; the sender's address or its domain.
        [Some(5), Some(7), Some(_)] | [Some(5), Some(1), Some(7 | 8)] => true,
        // Any other address, or the recipient's mailbox.
        [Some(5), Some(1 | 2), Some(_)] if code == 554 => false,
        _ => matches!(code, 500..=504 | 521 | 530 | 534 | 535 | 538 | 554),
    }
}

/// Removes the addresses that a server's answer quotes: the answer is stored, and must not keep a recipient
/// whose data is erased.
fn without_addresses(answer: &str) -> String {
    let is_end = |c: char| c.is_whitespace() || "<>()[]{},;:\"'`=".contains(c);
    answer
        .split_inclusive(is_end)
        .map(|word| {
            let name = word.trim_end_matches(is_end);
            if name.contains('@') {
                format!("(address){}", &word[name.len()..])
            } else {
                word.to_owned()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_kept_without_the_addresses_that_it_quotes() {
        for (answer, kept) in [
            (
                "550 5.1.1 <Dev@acme.example>: user unknown",
                "550 5.1.1 <(address)>: user unknown",
            ),
            ("no dev@acme.example here", "no (address) here"),
            ("to=dev+x@acme.example, refused", "to=(address), refused"),
            ("421 try again", "421 try again"),
        ] {
            assert_eq!(without_addresses(answer), kept);
        }
    }

    #[test]
    fn a_refusal_of_the_sender_is_told_from_one_of_the_mail() {
        for (code, answer, is_about_us) in [
            (554, "5.7.1 <dev@acme.example>: Relay access denied", true),
            (554, "not now", true),
            (554, "", true),
            (550, "5.7.1 Unable to relay", true),
            (550, "#5.7.1 Unable to relay", true),
            (550, "5.7.23 SPF validation failed", true),
            (553, "5.1.8 Domain of sender address does not exist", true),
            (550, "5.1.7 Sender rejected", true),
            (530, "5.7.0 Authentication required", true),
            (535, "wrong", true),
            (550, "5.1.1 User unknown", false),
            (550, "5.1.10 Null MX", false),
            (554, "5.1.2 Bad destination system", false),
            (554, "5.2.1 Mailbox disabled", false),
            (552, "5.2.2 Mailbox full", false),
            (552, "5.3.4 Message too big", false),
            (550, "Mailbox unavailable", false),
            (550, "5.7 is no enhanced code", false),
        ] {
            assert_eq!(concerns_sender(code, answer), is_about_us, "{code} {answer}");
        }
    }

    #[test]
    fn a_subject_begins_no_header_and_the_message_has_its_name() {
        let config = MailConfig {
            host: "localhost".into(),
            port: 25,
            tls: MailTls::None,
            credentials: None,
            from: MailConfig::parse_from("Latchkey <mfa@acme.example>").unwrap(),
            ca: None,
            timeout: MailConfig::TIMEOUT,
        };
        let mailer = Mailer::new(&config).unwrap();
        let mail = Mail {
            to: "dev@acme.example".into(),
            subject: "Reset\r\nBcc: evil@evil.test".into(),
            body: "Grüße\n".into(),
        };
        let at = "2026-02-18T10:30:00Z".parse().unwrap();
        let message = mailer.message("msg_1", &mail, at).unwrap();
        let text = String::from_utf8(message.formatted()).unwrap();
        assert!(text.contains("Message-ID: <msg_1@acme.example>\r\n"), "{text}");
        assert!(text.contains("Date: Wed, 18 Feb 2026 10:30:00"), "{text}");
        assert!(!text.contains("\r\nBcc"), "{text}");
        let nowhere = Mail {
            to: "no address".into(),
            ..mail
        };
        assert!(mailer.message("msg_1", &nowhere, at).is_err());
    }
}
