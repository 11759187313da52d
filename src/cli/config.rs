//! `latchkey config`: checks the configuration and prints an example of it.

use anyhow::Result;
use clap::Subcommand;
use serde_json::{Value, json};

use super::{Global, output};
use crate::config::{Config, EXAMPLE};
use crate::plugin_host::SignerKey;
use crate::service::Settings;
use crate::service::trail::{self, ForwardTo};

/// `latchkey config …`
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Check the configuration and list every problem.
    ///
    /// Reads the sources that `serve` reads: the file, LATCHKEY_… variables and flags. Exits with 3 if
    /// anything is wrong.
    #[command(
        after_help = "Examples:\n  latchkey config check\n  latchkey --config-file new.toml config check --json"
    )]
    Check {
        /// Print the effective configuration as JSON; secrets are left out.
        #[arg(long)]
        json: bool,
    },
    /// Print an annotated configuration file with every key at its default value.
    #[command(after_help = "Examples:\n  latchkey config example > latchkey.toml")]
    Example,
}

impl Command {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        match self {
            Self::Check { json: false } => {
                let config = global.load(None)?;
                let file = config.file.as_ref().map(|file| file.display().to_string());
                output::line(format_args!(
                    "{}: no problem found",
                    file.as_deref().unwrap_or("built-in configuration")
                ))
            }
            Self::Check { json: true } => output::json(&in_force(&global.load(None)?)),
            Self::Example => output::line(EXAMPLE.trim_end()),
        }
    }
}

fn in_force(config: &Config) -> Value {
    let Config {
        file,
        data_dir,
        listen,
        log,
        settings,
        external_issuer,
        limits,
        trusted_proxies,
        database,
        backup,
        http,
        plugins,
        courier,
        passkeys,
        metrics,
    } = config;
    let (tokens, factors, audit) = rules_in_force(settings);
    json!({
        "file": file,
        "dataDir": data_dir,
        "listen": listen,
        "publicUrl": settings.public_url,
        "log": { "format": log.format, "level": log.filter },
        "tokens": tokens,
        "externalIssuer": external_issuer.as_ref().map(|external| json!({
            "issuer": external.rules.issuer,
            "audience": external.rules.audience,
            "organizationClaim": external.rules.organization_claim,
            "userClaim": external.rules.user_claim,
            "roleClaim": external.rules.role_claim,
            "roles": external.rules.roles,
        })),
        "factors": factors,
        "audit": audit,
        "passkeys": { "relyingPartyId": passkeys.id(), "origins": passkeys.origins() },
        "limits": limits,
        "trustedProxies": trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "http": {
            "bodyLimitBytes": http.body_limit_bytes,
            "headLimitBytes": http.head_limit_bytes,
            "maxHeaders": http.max_headers,
            "headerTimeoutSecs": http.header_timeout.as_secs(),
            "bodyTimeoutSecs": http.body_timeout.as_secs(),
            "writeTimeoutSecs": http.write_timeout.as_secs(),
            "maxConnections": http.max_connections,
            "maxConnectionsPerAddress": http.max_connections_per_address,
            "shutdownGraceSecs": http.shutdown_grace.as_secs(),
        },
        "plugins": {
            "totalConcurrency": plugins.total_concurrency,
            "perOrganizationConcurrency": plugins.per_organization_concurrency,
            "memoryTotalMib": plugins.memory_total_bytes >> 20,
            "countFuel": plugins.count_fuel,
            "slotWaitMs": u64::try_from(plugins.slot_wait.as_millis()).unwrap_or(u64::MAX),
            "cacheDir": plugins.cache_dir,
            "trustedKeys": settings.plugins.trusted_keys.iter().map(SignerKey::id).collect::<Vec<_>>(),
            "decisionDays": settings.plugins.decision_days,
            "alarmAfter": settings.plugins.alarm_after,
            "recheckOneIn": settings.plugins.recheck_one_in,
        },
        "mail": courier.mail.as_ref().map(|mail| json!({
            "host": mail.host,
            "port": mail.port,
            "tls": mail.tls,
            "username": mail.credentials.as_ref().map(|(user, _)| user),
            "from": mail.from.to_string(),
            "ownCertificates": mail.ca.is_some(),
        })),
        "webhooks": { "hosts": courier.webhooks.hosts(), "networks": courier.webhooks.networks() },
        "syslog": courier.syslog.as_ref().map(ToString::to_string),
        "database": { "checkpoints": database.checkpoints, "queueLength": database.queue_length },
        "backup": backup.as_ref().map(|schedule| json!({
            "directory": schedule.directory,
            "everyHours": schedule.every.as_hours(),
            "keep": schedule.keep,
            "keys": schedule.keys,
        })),
        "metrics": metrics.as_ref().map(|metrics| json!({
            "listen": metrics.listen,
            "withToken": metrics.token.is_some(),
        })),
    })
}

/// Returns the sections `tokens`, `factors` and `audit`.
fn rules_in_force(settings: &Settings) -> (Value, Value, Value) {
    let Settings {
        access_token_secs,
        refresh_token_secs,
        token_algorithm,
        key_rotation_days,
        session_max_secs,
        mfa_challenge_secs,
        enrolment_secs,
        suspended_factor_secs,
        recovery_code_characters,
        issuer,
        trail,
        // Printed in other sections.
        plugins: _,
        mail: _,
        public_url: _,
    } = settings;
    let tokens = json!({
        "accessSecs": access_token_secs,
        "refreshSecs": refresh_token_secs,
        "sessionMaxSecs": session_max_secs,
        "mfaChallengeSecs": mfa_challenge_secs,
        "algorithm": token_algorithm,
        "keyRotationDays": key_rotation_days,
    });
    let factors = json!({
        "issuer": issuer,
        "enrolmentSecs": enrolment_secs,
        "recoveryCodeCharacters": recovery_code_characters,
        "suspendedSecs": suspended_factor_secs,
    });
    let trail::Settings {
        checkpoint_entries,
        checkpoint_secs,
        witness_dir,
        witness_url,
        forward_to: ForwardTo {
            syslog,
            webhook,
            organizations,
        },
    } = trail;
    let audit = json!({
        "checkpointEntries": checkpoint_entries,
        "checkpointSecs": checkpoint_secs,
        "witnessDir": witness_dir,
        "witnessUrl": witness_url.as_deref().map(host),
        "forwardSyslog": syslog,
        "forwardWebhook": webhook.as_deref().map(host),
        "forwardOrganizations": organizations,
    });
    (tokens, factors, audit)
}

/// Returns the host, with the port, of a valid URL. Path and query are omitted because they may hold a secret.
fn host(url: &str) -> &str {
    let behind = url.split_once("://").map_or(url, |(_, behind)| behind);
    behind.split(['/', '?']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{RawConfig, Sources};

    fn camel_case(key: &str) -> String {
        let mut words = key.split('_');
        let first = words.next().unwrap().to_owned();
        words.fold(first, |name, word| name + &word[..1].to_uppercase() + &word[1..])
    }

    #[test]
    fn every_section_and_every_key_of_the_trails_is_told() {
        let told = in_force(&Config::for_data_dir(Path::new("/tmp/x")));
        let built_in = serde_json::to_value(RawConfig::default()).unwrap();
        for key in built_in.as_object().unwrap().keys() {
            let name = match key.as_str() {
                "proxies" => "trustedProxies".to_owned(),
                other => camel_case(other),
            };
            assert!(told.get(&name).is_some(), "{key}: {told}");
        }
        for key in built_in["audit"].as_object().unwrap().keys() {
            assert!(told["audit"].get(camel_case(key)).is_some(), "{key}: {told}");
        }
    }

    #[test]
    fn of_addresses_the_host_is_told() {
        let text = "[audit]\nforward_webhook = \"https://siem.example.org/in/s3cret\"\n\
                    witness_url = \"https://siem.example.org:8443/s3cret\"\n\
                    [webhooks]\nhosts = [\"siem.example.org\"]\n";
        let told = in_force(&Config::load(&Sources::from_text(text)).unwrap());
        assert_eq!(told["audit"]["forwardWebhook"], "siem.example.org");
        assert_eq!(told["audit"]["witnessUrl"], "siem.example.org:8443");
        assert!(!told.to_string().contains("s3cret"), "{told}");
    }
}
