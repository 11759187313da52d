//! The configuration as typed. `example.toml` beside this file explains each key.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::courier::{RawMail, RawSyslog, RawWebhooks};
use super::metrics::RawMetrics;
use crate::limiter::Limits;
use crate::service::backup::KeyChoice;
use crate::service::{Checkpoints, TokenAlgorithm};

/// The configuration as typed, before it is checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "example.toml documents each key, and a test holds it complete"
)]
pub struct RawConfig {
    pub data_dir: PathBuf,
    pub listen: String,
    pub public_url: String,
    pub log: RawLog,
    pub tokens: RawTokens,
    pub external_issuer: RawExternalIssuer,
    pub factors: RawFactors,
    pub passkeys: RawPasskeys,
    pub limits: Limits,
    pub proxies: RawProxies,
    pub http: RawHttp,
    pub plugins: RawPlugins,
    pub audit: RawAudit,
    pub mail: RawMail,
    pub webhooks: RawWebhooks,
    pub syslog: RawSyslog,
    pub database: RawDatabase,
    pub backup: RawBackup,
    pub metrics: RawMetrics,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text per event.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct RawLog {
    pub format: LogFormat,
    pub level: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct RawTokens {
    pub access_secs: u64,
    pub refresh_secs: u64,
    pub session_max_secs: u64,
    pub mfa_challenge_secs: u64,
    pub algorithm: TokenAlgorithm,
    pub key_rotation_days: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct RawExternalIssuer {
    pub issuer: String,
    pub audience: String,
    pub jwks_file: PathBuf,
    pub organization_claim: String,
    pub user_claim: String,
    pub role_claim: String,
    pub roles: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct RawFactors {
    pub issuer: String,
    pub enrolment_secs: u64,
    pub recovery_code_characters: u64,
    pub suspended_secs: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RawPasskeys {
    pub relying_party_id: String,
    pub origins: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RawProxies {
    pub trusted: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct RawHttp {
    pub body_limit_bytes: u64,
    pub head_limit_bytes: u64,
    pub max_headers: u64,
    pub header_timeout_secs: u64,
    pub body_timeout_secs: u64,
    pub write_timeout_secs: u64,
    pub max_connections: u64,
    pub max_connections_per_address: u64,
    pub shutdown_grace_secs: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct RawPlugins {
    pub total_concurrency: u64,
    pub per_organization_concurrency: u64,
    pub slot_wait_ms: u64,
    pub memory_total_mib: u64,
    pub count_fuel: bool,
    pub cache_dir: Option<PathBuf>,
    pub trusted_keys: Vec<String>,
    pub decision_days: u64,
    pub alarm_after: u64,
    pub recheck_one_in: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct RawAudit {
    pub checkpoint_entries: u64,
    pub checkpoint_secs: u64,
    pub witness_dir: Option<PathBuf>,
    pub witness_url: String,
    pub forward_syslog: bool,
    pub forward_webhook: String,
    pub forward_organizations: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct RawDatabase {
    pub checkpoints: Checkpoints,
    pub queue_length: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct RawBackup {
    pub directory: Option<PathBuf>,
    pub every_hours: u64,
    pub keep: u64,
    pub keys: KeyChoice,
    pub passphrase_file: Option<PathBuf>,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("latchkey-data"),
            listen: "127.0.0.1:8080".to_owned(),
            public_url: "http://127.0.0.1:8080".to_owned(),
            log: RawLog::default(),
            tokens: RawTokens::default(),
            external_issuer: RawExternalIssuer::default(),
            factors: RawFactors::default(),
            passkeys: RawPasskeys::default(),
            limits: Limits::default(),
            proxies: RawProxies::default(),
            http: RawHttp::default(),
            plugins: RawPlugins::default(),
            audit: RawAudit::default(),
            mail: RawMail::default(),
            webhooks: RawWebhooks::default(),
            syslog: RawSyslog::default(),
            database: RawDatabase::default(),
            backup: RawBackup::default(),
            metrics: RawMetrics::default(),
        }
    }
}

impl Default for RawLog {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".to_owned(),
        }
    }
}

impl Default for RawTokens {
    fn default() -> Self {
        Self {
            access_secs: 15 * 60,
            refresh_secs: 7 * 24 * 3600,
            session_max_secs: 30 * 24 * 3600,
            mfa_challenge_secs: 5 * 60,
            algorithm: TokenAlgorithm::default(),
            key_rotation_days: 0,
        }
    }
}

impl Default for RawExternalIssuer {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audience: "latchkey".to_owned(),
            jwks_file: PathBuf::new(),
            organization_claim: "organization".to_owned(),
            user_claim: "email".to_owned(),
            role_claim: "roles".to_owned(),
            roles: Vec::new(),
        }
    }
}

impl Default for RawFactors {
    fn default() -> Self {
        Self {
            issuer: "Latchkey".to_owned(),
            enrolment_secs: 15 * 60,
            recovery_code_characters: 16,
            suspended_secs: 7 * 24 * 3600,
        }
    }
}

impl Default for RawHttp {
    fn default() -> Self {
        Self {
            body_limit_bytes: 64 * 1024,
            head_limit_bytes: 32 * 1024,
            max_headers: 64,
            header_timeout_secs: 15,
            body_timeout_secs: 30,
            write_timeout_secs: 30,
            max_connections: 1024,
            max_connections_per_address: 256,
            shutdown_grace_secs: 20,
        }
    }
}

impl Default for RawPlugins {
    fn default() -> Self {
        Self {
            total_concurrency: 32,
            per_organization_concurrency: 2,
            slot_wait_ms: 2000,
            memory_total_mib: 1024,
            count_fuel: false,
            cache_dir: None,
            trusted_keys: Vec::new(),
            decision_days: 400,
            alarm_after: 5,
            recheck_one_in: 100,
        }
    }
}

impl Default for RawDatabase {
    fn default() -> Self {
        Self {
            checkpoints: Checkpoints::default(),
            queue_length: 1024,
        }
    }
}

impl Default for RawBackup {
    fn default() -> Self {
        Self {
            directory: None,
            every_hours: 24,
            keep: 14,
            keys: KeyChoice::default(),
            passphrase_file: None,
        }
    }
}

impl Default for RawAudit {
    fn default() -> Self {
        Self {
            checkpoint_entries: 1000,
            checkpoint_secs: 60,
            witness_dir: None,
            witness_url: String::new(),
            forward_syslog: false,
            forward_webhook: String::new(),
            forward_organizations: Vec::new(),
        }
    }
}
