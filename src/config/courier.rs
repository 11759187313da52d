//! Mail, webhooks and syslog, as configured.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::parse_network;
use super::sources::read_named;
use crate::courier::{CourierConfig, MailConfig, MailTls, Reach, SyslogTarget};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct RawMail {
    pub host: String,
    pub port: u64,
    pub tls: MailTls,
    pub username: String,
    pub password_file: PathBuf,
    pub from: String,
    pub ca_file: PathBuf,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RawWebhooks {
    pub hosts: Vec<String>,
    pub networks: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RawSyslog {
    pub target: String,
}

impl Default for RawMail {
    fn default() -> Self {
        Self {
            host: String::new(),
            port: 0,
            tls: MailTls::default(),
            username: String::new(),
            password_file: PathBuf::new(),
            from: "Latchkey <latchkey@localhost>".to_owned(),
            ca_file: PathBuf::new(),
        }
    }
}

/// Checks the three sections.
pub(super) fn check(
    mail: RawMail,
    webhooks: &RawWebhooks,
    syslog: &RawSyslog,
    problems: &mut Vec<String>,
) -> CourierConfig {
    CourierConfig {
        mail: check_mail(mail, problems),
        webhooks: check_webhooks(webhooks, problems),
        syslog: check_syslog(syslog, problems),
    }
}

fn check_mail(raw: RawMail, problems: &mut Vec<String>) -> Option<MailConfig> {
    if raw.host.is_empty() {
        return None;
    }
    let before = problems.len();
    let port = match u16::try_from(raw.port) {
        Ok(0) => raw.tls.port(),
        Ok(port) => port,
        Err(_) => {
            problems.push(format!("mail.port: {} is not between 0 and 65535", raw.port));
            0
        }
    };
    let from = MailConfig::parse_from(&raw.from)
        .map_err(|problem| problems.push(format!("mail.from: {:?}: {problem}", raw.from)))
        .ok()?;
    let password = first_line("mail.password_file", &raw.password_file, problems);
    let credentials = match (raw.username.is_empty(), password) {
        (true, None) => None,
        (false, Some(password)) => Some((raw.username, password)),
        (no_name, _) => {
            let (is, not) = if no_name {
                ("password_file", "username")
            } else {
                ("username", "password_file")
            };
            problems.push(format!("mail.{not}: is missing, where mail.{is} is set"));
            None
        }
    };
    if credentials.is_some() && raw.tls == MailTls::None {
        problems.push("mail.tls: \"none\" would send the password in clear".to_owned());
    }
    if raw.tls == MailTls::None && !is_this_machine(&raw.host) {
        problems.push(format!(
            "mail.tls: \"none\" is for a mail server on this machine, and {:?} is none: links and notices would go \
             in clear; use \"starttls\" or \"tls\"",
            raw.host
        ));
    }
    let ca = read("mail.ca_file", &raw.ca_file, problems);
    let config = MailConfig {
        host: raw.host,
        port,
        tls: raw.tls,
        credentials,
        from,
        ca,
        timeout: MailConfig::TIMEOUT,
    };
    if problems.len() > before {
        return None;
    }
    let probe = CourierConfig {
        mail: Some(config.clone()),
        ..CourierConfig::default()
    };
    if let Err(problem) = crate::courier::Courier::new(&probe) {
        problems.push(format!("mail: {problem}"));
        return None;
    }
    Some(config)
}

fn is_this_machine(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = host
        .parse()
        .map(|address: IpAddr| address.to_canonical().is_loopback());
    address.unwrap_or_else(|_| host.eq_ignore_ascii_case("localhost"))
}

fn check_webhooks(raw: &RawWebhooks, problems: &mut Vec<String>) -> Reach {
    for host in &raw.hosts {
        let name = host.strip_prefix("*.").unwrap_or(host);
        if name.is_empty() || name.contains(['/', '*', '@', ' ']) {
            problems.push(format!(
                "webhooks.hosts: {host:?} is neither a host name nor *. and a domain"
            ));
        }
    }
    let networks: Vec<IpNet> = raw
        .networks
        .iter()
        .filter_map(|text| {
            let network = parse_network(text);
            if network.is_none() {
                problems.push(format!(
                    "webhooks.networks: {text:?} is neither an address nor a network such as 10.0.0.0/8"
                ));
            }
            network
        })
        .collect();
    Reach::new(&raw.hosts, networks)
}

fn check_syslog(raw: &RawSyslog, problems: &mut Vec<String>) -> Option<SyslogTarget> {
    if raw.target.is_empty() {
        return None;
    }
    SyslogTarget::parse(&raw.target)
        .map_err(|problem| problems.push(format!("syslog.target: {:?} {problem}", raw.target)))
        .ok()
}

/// Returns the secret in the first line of a file; `None` if no file is named.
pub(super) fn first_line(key: &str, file: &Path, problems: &mut Vec<String>) -> Option<Zeroizing<String>> {
    let text = Zeroizing::new(String::from_utf8_lossy(&read(key, file, problems)?).into_owned());
    Some(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

fn read(key: &str, file: &Path, problems: &mut Vec<String>) -> Option<Vec<u8>> {
    if file.as_os_str().is_empty() {
        return None;
    }
    read_named(file)
        .map_err(|error| problems.push(format!("{key}: {}: {error}", file.display())))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_in_clear_leaves_this_machine_for_nothing() {
        let problems = |host: &str, tls: MailTls| {
            let mut problems = Vec::new();
            let raw = RawMail {
                host: host.to_owned(),
                tls,
                ..RawMail::default()
            };
            check_mail(raw, &mut problems);
            problems
        };
        for here in [
            "127.0.0.1",
            "127.0.0.53",
            "::1",
            "[::1]",
            "localhost",
            "LOCALHOST",
            "::ffff:127.0.0.1",
        ] {
            let found = problems(here, MailTls::None);
            assert!(
                !found.iter().any(|problem| problem.contains("mail.tls")),
                "{found:?}"
            );
        }
        for elsewhere in ["mail.example.org", "192.0.2.1", "localhost.example.org", "::"] {
            let found = problems(elsewhere, MailTls::None);
            assert!(
                found[0].starts_with("mail.tls: \"none\" is for a mail server on this machine"),
                "{found:?}"
            );
            assert!(problems("mail.example.org", MailTls::Starttls).is_empty());
        }
    }
}
