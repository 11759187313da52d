//! The configuration: as typed ([`RawConfig`]) and as checked ([`Config`]).
//!
//! Sources, in increasing precedence: built-in values, the configuration file, `LATCHKEY_…` variables,
//! command-line flags. All problems are reported at once, each with its source.

mod courier;
mod external;
mod metrics;
mod ranges;
mod raw;
mod sources;
mod trail;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow};
use ipnet::IpNet;
use jiff::SignedDuration;

use crate::courier::CourierConfig;
use crate::limiter::Limits;
use crate::passkeys::{RelyingParty, Written};
use crate::plugin_host::{CompilerProgram, SignerKey};
use crate::service::backup::{KeyChoice, Schedule};
use crate::service::plugins::PluginSettings;
use crate::service::{Settings, StoreOptions};
use courier::first_line;
pub use external::ExternalConfig;
pub use metrics::MetricsConfig;
use ranges::out_of_range;
pub use raw::{LogFormat, RawConfig};
use raw::{RawBackup, RawHttp, RawPlugins};
use sources::Read;
pub use sources::{Flags, Sources};

/// The annotated example configuration, with every key at its built-in value.
pub const EXAMPLE: &str = include_str!("config/example.toml");

/// The checked configuration: every value can be used as it is.
#[derive(Clone, Debug)]
pub struct Config {
    /// The configuration file, if one was read.
    pub file: Option<PathBuf>,
    /// Directory of the database and the keys.
    pub data_dir: PathBuf,
    /// Address and port that the API listens on.
    pub listen: SocketAddr,
    /// Log format and filter.
    pub log: LogConfig,
    /// Settings that services use: lifetimes, names, the public URL.
    pub settings: Settings,
    /// Rate limits.
    pub limits: Limits,
    /// Networks of proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Mail, webhooks and syslog.
    pub courier: CourierConfig,
    /// The relying party that passkeys are bound to.
    pub passkeys: RelyingParty,
    /// External issuer whose access tokens are accepted, if there is one.
    pub external_issuer: Option<ExternalConfig>,
    /// Checkpointing and the queue of the database.
    pub database: StoreOptions,
    /// Scheduled backups, if configured.
    pub backup: Option<Schedule>,
    /// Bounds on connections and requests.
    pub http: HttpConfig,
    /// Bounds on plugins.
    pub plugins: PluginConfig,
    /// Address and token of the metrics listener, if configured.
    pub metrics: Option<MetricsConfig>,
}

/// Log format and filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Format of the log lines.
    pub format: LogFormat,
    /// Directives in the syntax of `tracing_subscriber::EnvFilter`: `info`, `latchkey=debug,hyper=warn`.
    pub filter: String,
}

/// Bounds on connections and requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Largest request body, in bytes.
    pub body_limit_bytes: usize,
    /// Largest head of a request, in bytes.
    pub head_limit_bytes: usize,
    /// Largest number of headers in a request.
    pub max_headers: usize,
    /// How long a request head may take to arrive, and how long a kept-alive connection may be idle.
    pub header_timeout: Duration,
    /// How long a request body may take to arrive.
    pub body_timeout: Duration,
    /// How long a client may leave a response unread.
    pub write_timeout: Duration,
    /// Largest number of open connections.
    pub max_connections: usize,
    /// Largest number of open connections from one address, except trusted proxies.
    pub max_connections_per_address: usize,
    /// How long requests in progress may continue after SIGTERM.
    pub shutdown_grace: Duration,
}

/// Bounds on plugins for the whole node. The limits on one call are set with each binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginConfig {
    /// Largest number of concurrent evaluations in the whole node.
    pub total_concurrency: u32,
    /// Largest number of concurrent evaluations for one organisation; further ones wait.
    pub per_organization_concurrency: u32,
    /// How long an evaluation waits for its turn before it fails.
    pub slot_wait: Duration,
    /// Linear memory of all policy calls together, in bytes.
    pub memory_total_bytes: u64,
    /// Whether instructions are counted, so that `limits.fuel` of a binding applies.
    pub count_fuel: bool,
    /// Directory of compiled plugins, which are compiled again if it is lost.
    pub cache_dir: PathBuf,
    /// The program that compiles plugins; not configured, but named by the command line.
    pub compiler: Option<CompilerProgram>,
}

impl Config {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// One text that lists every problem: unknown keys with the nearest known one, wrong types, and values
    /// out of range, each with the file or variable it comes from.
    pub fn load(sources: &Sources) -> Result<Self> {
        Self::check(sources.read()?)
    }

    /// Returns the built-in configuration with another data directory, for tests and the demo.
    ///
    /// # Panics
    /// Never: the built-in values pass the checks, as a test ensures.
    #[must_use]
    pub fn for_data_dir(data_dir: &Path) -> Self {
        let raw = RawConfig {
            data_dir: data_dir.to_owned(),
            ..RawConfig::default()
        };
        let read = Read {
            raw,
            file: None,
            problems: Vec::new(),
        };
        Self::check(read).expect("the built-in configuration passes its own checks")
    }

    fn check(read: Read) -> Result<Self> {
        let Read {
            raw,
            file,
            mut problems,
        } = read;
        problems.extend(out_of_range(&raw));
        problems.extend(level_problems(&raw.log.level));
        problems.extend(unfit(&raw));
        let RawConfig {
            data_dir,
            listen,
            public_url,
            log,
            tokens,
            external_issuer,
            factors,
            passkeys,
            limits,
            proxies,
            http,
            plugins,
            audit,
            mail,
            webhooks,
            syslog,
            database,
            backup,
            metrics,
        } = raw;
        let trusted_proxies = proxies.trusted.iter().filter_map(|n| parse_network(n)).collect();
        let passkeys = RelyingParty::read(&Written {
            id: &passkeys.relying_party_id,
            origins: &passkeys.origins,
            public_url: &public_url,
            name: &factors.issuer,
        })
        .unwrap_or_else(|found| {
            problems.extend(found);
            RelyingParty::default()
        });
        let trusted_keys = trusted_keys(&plugins.trusted_keys, &mut problems);
        let courier = courier::check(mail, &webhooks, &syslog, &mut problems);
        let trail = trail::check(audit, &courier, &mut problems);
        let external_issuer = ExternalConfig::check(external_issuer, &mut problems);
        let metrics = metrics::check(&metrics, &mut problems);
        let (Ok(listen), true) = (listen.parse(), problems.is_empty()) else {
            return Err(refusal(file.as_deref(), &problems));
        };
        Ok(Self {
            file,
            listen,
            log: LogConfig {
                format: log.format,
                filter: log.level,
            },
            settings: Settings {
                access_token_secs: whole(tokens.access_secs),
                refresh_token_secs: whole(tokens.refresh_secs),
                token_algorithm: tokens.algorithm,
                key_rotation_days: whole(tokens.key_rotation_days),
                session_max_secs: whole(tokens.session_max_secs),
                mfa_challenge_secs: whole(tokens.mfa_challenge_secs),
                enrolment_secs: whole(factors.enrolment_secs),
                suspended_factor_secs: whole(factors.suspended_secs),
                recovery_code_characters: whole(factors.recovery_code_characters),
                issuer: factors.issuer,
                plugins: PluginSettings {
                    trusted_keys,
                    decision_days: whole(plugins.decision_days),
                    alarm_after: whole(plugins.alarm_after),
                    recheck_one_in: whole(plugins.recheck_one_in),
                },
                mail: courier.mail.is_some(),
                public_url: public_url.trim_end_matches('/').to_owned(),
                trail,
            },
            courier,
            passkeys,
            external_issuer,
            limits,
            trusted_proxies,
            database: StoreOptions {
                checkpoints: database.checkpoints,
                queue_length: whole(database.queue_length),
            },
            backup: schedule(backup),
            http: http_config(&http),
            metrics,
            plugins: plugin_config(plugins, &data_dir),
            data_dir,
        })
    }
}

/// Returns what is wrong with values that no other part checks, beyond their ranges.
fn unfit(raw: &RawConfig) -> Vec<String> {
    let RawConfig {
        listen,
        public_url,
        tokens,
        factors,
        backup,
        ..
    } = raw;
    let mut problems = Vec::new();
    let mut must = |holds: bool, problem: String| {
        if !holds {
            problems.push(problem);
        }
    };
    must(
        listen.parse::<SocketAddr>().is_ok(),
        format!("listen: {listen:?} is not an address and port such as 127.0.0.1:8080"),
    );
    must(
        is_base_url(public_url),
        format!("public_url: {public_url:?} is not a URL such as https://mfa.example.org"),
    );
    must(
        !raw.data_dir.as_os_str().is_empty(),
        "data_dir: is empty".to_owned(),
    );
    must(
        tokens.access_secs <= tokens.refresh_secs,
        "tokens.access_secs: is longer than tokens.refresh_secs".to_owned(),
    );
    must(
        !factors.issuer.trim().is_empty() && !factors.issuer.contains(':'),
        "factors.issuer: must be a name without a colon, which authenticator apps don't allow".to_owned(),
    );
    for network in &raw.proxies.trusted {
        must(
            parse_network(network).is_some(),
            format!("proxies.trusted: {network:?} is neither an address nor a network such as 10.0.0.0/8"),
        );
    }
    must(
        backup.keys != KeyChoice::Sealed || backup.passphrase_file.is_some(),
        "backup.passphrase_file: is needed for backup.keys = \"sealed\"".to_owned(),
    );
    problems
}

fn refusal(file: Option<&Path>, problems: &[String]) -> anyhow::Error {
    let place = file.map_or_else(String::new, |file| format!(" ({})", file.display()));
    let count = if problems.len() == 1 {
        "a problem".to_owned()
    } else {
        format!("{} problems", problems.len())
    };
    anyhow!(
        "the configuration{place} has {count}:\n  {}",
        problems.join("\n  ")
    )
}

fn plugin_config(plugins: RawPlugins, data_dir: &Path) -> PluginConfig {
    PluginConfig {
        total_concurrency: whole(plugins.total_concurrency),
        per_organization_concurrency: whole(plugins.per_organization_concurrency),
        slot_wait: Duration::from_millis(plugins.slot_wait_ms),
        memory_total_bytes: plugins.memory_total_mib << 20,
        count_fuel: plugins.count_fuel,
        cache_dir: plugins.cache_dir.unwrap_or_else(|| data_dir.join("plugin-cache")),
        compiler: None,
    }
}

fn http_config(http: &RawHttp) -> HttpConfig {
    HttpConfig {
        body_limit_bytes: whole(http.body_limit_bytes),
        head_limit_bytes: whole(http.head_limit_bytes),
        max_headers: whole(http.max_headers),
        header_timeout: Duration::from_secs(http.header_timeout_secs),
        body_timeout: Duration::from_secs(http.body_timeout_secs),
        write_timeout: Duration::from_secs(http.write_timeout_secs),
        max_connections: whole(http.max_connections),
        max_connections_per_address: whole(http.max_connections_per_address),
        shutdown_grace: Duration::from_secs(http.shutdown_grace_secs),
    }
}

fn schedule(backup: RawBackup) -> Option<Schedule> {
    Some(Schedule {
        directory: backup.directory?,
        every: SignedDuration::from_hours(whole(backup.every_hours)),
        keep: whole(backup.keep),
        keys: backup.keys,
        passphrase_file: backup.passphrase_file,
    })
}

fn whole<T: TryFrom<u64>>(n: u64) -> T {
    T::try_from(n)
        .ok()
        .expect("the range was checked, and every type here holds it")
}

/// Levels that a directive of `log.level` without a module may be.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Returns the problems of `log.level`. `EnvFilter` would take an unknown word for the name of a module, so a
/// mistyped level would silence everything.
fn level_problems(filter: &str) -> Vec<String> {
    let unreadable = tracing_subscriber::EnvFilter::try_new(filter)
        .err()
        .map(|error| format!("log.level: {filter:?} can't be read: {error}"));
    let directives = filter.split(',').map(str::trim).filter(|word| !word.is_empty());
    let no_levels = directives
        .filter(|word| !word.contains('=') && !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word)))
        .map(|word| {
            format!(
                "log.level: {word} is not a level; use {}, or one for a module: latchkey=debug",
                LEVELS.join(", ")
            )
        });
    unreadable.into_iter().chain(no_levels).collect()
}

/// Returns whether `url` is `http(s)://host[:port][/path]`, without query, fragment or user name.
fn is_base_url(url: &str) -> bool {
    let Ok(uri) = url.parse::<hyper::Uri>() else {
        return false;
    };
    matches!(uri.scheme_str(), Some("http" | "https"))
        && uri
            .authority()
            .is_some_and(|authority| !authority.as_str().contains('@') && !authority.host().is_empty())
        && uri.query().is_none()
        && !url.contains('#')
}

fn trusted_keys(written: &[String], problems: &mut Vec<String>) -> Vec<SignerKey> {
    let mut read = Vec::new();
    for key in written {
        match SignerKey::parse(key) {
            Ok(key) => read.push(key),
            Err(error) => problems.push(format!("plugins.trusted_keys: {key:?} is {error}")),
        }
    }
    read
}

fn parse_network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>()
        .ok()
        .or_else(|| text.parse().ok().map(|address: std::net::IpAddr| address.into()))
}

#[cfg(test)]
mod tests;
