//! `latchkey config`: checks the configuration and prints an example of it.

use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

use super::{Global, output};
use crate::config::{Config, EXAMPLE};
use crate::plugin_host::SignerKey;

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

fn in_force(config: &Config) -> serde_json::Value {
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
    json!({
        "file": file,
        "dataDir": data_dir,
        "listen": listen,
        "publicUrl": settings.public_url,
        "log": { "format": log.format, "level": log.filter },
        "tokens": {
            "accessSecs": settings.access_token_secs,
            "refreshSecs": settings.refresh_token_secs,
            "sessionMaxSecs": settings.session_max_secs,
            "mfaChallengeSecs": settings.mfa_challenge_secs,
            "algorithm": settings.token_algorithm,
            "keyRotationDays": settings.key_rotation_days,
        },
        "externalIssuer": external_issuer.as_ref().map(|external| json!({
            "issuer": external.rules.issuer,
            "audience": external.rules.audience,
            "organizationClaim": external.rules.organization_claim,
            "userClaim": external.rules.user_claim,
            "roleClaim": external.rules.role_claim,
            "roles": external.rules.roles,
        })),
        "factors": {
            "issuer": settings.issuer,
            "enrolmentSecs": settings.enrolment_secs,
            "recoveryCodeCharacters": settings.recovery_code_characters,
            "suspendedSecs": settings.suspended_factor_secs,
        },
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
