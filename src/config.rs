//! What the operator configured: as typed ([`RawConfig`]) and as checked ([`Config`]).
//!
//! Sources, the later the stronger: built-in values, the configuration file, `LATCHKEY_…` variables,
//! command-line flags. Every problem is reported at once, with the place it comes from.

mod raw;
mod sources;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use ipnet::IpNet;

use crate::limiter::Limits;
use crate::service::Settings;
pub use raw::{LogFormat, RawConfig};
pub use sources::{Flags, Sources};

/// The annotated configuration file with every key at its built-in value.
pub const EXAMPLE: &str = include_str!("config/example.toml");

/// A configuration that was checked: what is in here can be used as it is.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it was read from, if there is one.
    pub file: Option<PathBuf>,
    /// Where the database, the keys and the plugin cache live.
    pub data_dir: PathBuf,
    /// Where to listen.
    pub listen: SocketAddr,
    /// How to log.
    pub log: LogConfig,
    /// What services may know: lifetimes, names, the public URL.
    pub settings: Settings,
    /// Rate limits.
    pub limits: Limits,
    /// Networks whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Bounds on connections and requests.
    pub http: HttpConfig,
    /// Bounds on plugins.
    pub plugins: PluginConfig,
}

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Text for people or JSON for collectors.
    pub format: LogFormat,
    /// Directives in the syntax of `tracing_subscriber::EnvFilter`: `info`, `latchkey=debug,hyper=warn`.
    pub filter: String,
}

/// Bounds on connections and requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Largest request body, in bytes.
    pub body_limit_bytes: usize,
    /// Largest plugin upload, in bytes.
    pub plugin_limit_bytes: usize,
    /// Most headers in a request.
    pub max_headers: usize,
    /// How long a request's head may take, and how long a kept connection may be idle.
    pub header_timeout: Duration,
    /// How long a request's body may take.
    pub body_timeout: Duration,
    /// How long a client may leave an answer unread.
    pub write_timeout: Duration,
    /// Most connections at a time.
    pub max_connections: usize,
    /// Most connections at a time from one address, trusted proxies apart.
    pub max_connections_per_address: usize,
    /// How long requests under way may go on after SIGTERM.
    pub shutdown_grace: Duration,
}

/// Bounds on plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginConfig {
    /// How long one hook call may take.
    pub deadline: Duration,
    /// Most memory of one hook call, in bytes.
    pub memory_bytes: usize,
    /// Most hook calls at a time.
    pub max_concurrent: usize,
    /// Where compiled plugins are kept; they are made anew when it is lost.
    pub cache_dir: PathBuf,
}

impl Config {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// One text with every problem: unknown keys with the nearest known one, wrong types, values out
    /// of range, each with the file or variable it comes from.
    pub fn load(sources: &Sources) -> Result<Self> {
        let (raw, file) = sources.read()?;
        Self::check(raw, file)
    }

    /// The built-in configuration with another data directory, for tests and the demo.
    ///
    /// # Panics
    /// Never: the built-in values pass the checks (a test holds them to it).
    #[must_use]
    pub fn for_data_dir(data_dir: &Path) -> Self {
        let raw = RawConfig {
            data_dir: data_dir.to_owned(),
            ..RawConfig::default()
        };
        Self::check(raw, None).expect("the built-in configuration passes its own checks")
    }

    fn check(raw: RawConfig, file: Option<PathBuf>) -> Result<Self> {
        let mut problems = Vec::new();
        let mut must = |holds: bool, problem: String| {
            if !holds {
                problems.push(problem);
            }
        };
        let RawConfig {
            data_dir,
            listen,
            public_url,
            log,
            tokens,
            limits,
            proxies,
            http,
            plugins,
        } = raw;

        let listen_to = listen.parse::<SocketAddr>();
        must(
            listen_to.is_ok(),
            format!("listen: {listen:?} is not an address and port such as 127.0.0.1:8080"),
        );
        must(
            is_base_url(&public_url),
            format!("public_url: {public_url:?} is not a URL such as https://mfa.example.org"),
        );
        must(!data_dir.as_os_str().is_empty(), "data_dir: is empty".to_owned());
        if let Err(e) = tracing_subscriber::EnvFilter::try_new(&log.level) {
            must(false, format!("log.level: {:?} can't be read: {e}", log.level));
        }

        must(
            !tokens.issuer.trim().is_empty(),
            "tokens.issuer: is empty".to_owned(),
        );
        must(
            !tokens.issuer.contains(':'),
            "tokens.issuer: authenticator apps allow no colon in it".to_owned(),
        );
        let mut range = |name: &str, value: u64, least: u64, most: u64| {
            must(
                (least..=most).contains(&value),
                format!("{name}: {value} is not between {least} and {most}"),
            );
        };
        range("tokens.access_secs", tokens.access_secs.into(), 60, 24 * 3600);
        range(
            "tokens.refresh_secs",
            tokens.refresh_secs.into(),
            300,
            90 * 24 * 3600,
        );
        range(
            "tokens.mfa_challenge_secs",
            tokens.mfa_challenge_secs.into(),
            30,
            3600,
        );
        range(
            "tokens.enrolment_secs",
            tokens.enrolment_secs.into(),
            60,
            24 * 3600,
        );
        range(
            "http.body_limit_bytes",
            http.body_limit_bytes as u64,
            1024,
            64 << 20,
        );
        range(
            "http.plugin_limit_bytes",
            http.plugin_limit_bytes as u64,
            1024,
            256 << 20,
        );
        range("http.max_headers", http.max_headers as u64, 16, 1000);
        range(
            "http.header_timeout_secs",
            http.header_timeout_secs.into(),
            1,
            300,
        );
        range("http.body_timeout_secs", http.body_timeout_secs.into(), 1, 3600);
        range("http.write_timeout_secs", http.write_timeout_secs.into(), 1, 3600);
        range("http.max_connections", http.max_connections as u64, 1, 65_536);
        range(
            "http.max_connections_per_address",
            http.max_connections_per_address as u64,
            1,
            65_536,
        );
        range(
            "http.shutdown_grace_secs",
            http.shutdown_grace_secs.into(),
            0,
            600,
        );
        range("plugins.deadline_ms", plugins.deadline_ms.into(), 1, 60_000);
        range("plugins.memory_mib", plugins.memory_mib as u64, 1, 1024);
        range("plugins.max_concurrent", plugins.max_concurrent as u64, 1, 1024);
        for (name, limit) in limits.entries() {
            range(
                &format!("limits.{name}.window_secs"),
                limit.window_secs.into(),
                1,
                24 * 3600,
            );
            range(
                &format!("limits.{name}.requests"),
                limit.requests.into(),
                0,
                10_000_000,
            );
        }
        must(
            tokens.access_secs <= tokens.refresh_secs,
            "tokens.access_secs: is longer than tokens.refresh_secs".to_owned(),
        );
        let mut trusted_proxies = Vec::new();
        for network in &proxies.trusted {
            match parse_network(network) {
                Some(network) => trusted_proxies.push(network),
                None => must(
                    false,
                    format!(
                        "proxies.trusted: {network:?} is neither an address nor a network such as 10.0.0.0/8"
                    ),
                ),
            }
        }

        let (Ok(listen), true) = (listen_to, problems.is_empty()) else {
            let place = file
                .as_ref()
                .map_or_else(String::new, |file| format!(" ({})", file.display()));
            bail!(
                "the configuration{place} has {}:\n  {}",
                count(problems.len()),
                problems.join("\n  ")
            );
        };
        Ok(Self {
            file,
            listen,
            log: LogConfig {
                format: log.format,
                filter: log.level,
            },
            settings: Settings {
                access_token_secs: tokens.access_secs.into(),
                refresh_token_secs: tokens.refresh_secs.into(),
                mfa_challenge_secs: tokens.mfa_challenge_secs.into(),
                enrolment_secs: tokens.enrolment_secs.into(),
                issuer: tokens.issuer,
                public_url: public_url.trim_end_matches('/').to_owned(),
                ..Settings::default()
            },
            limits,
            trusted_proxies,
            http: HttpConfig {
                body_limit_bytes: http.body_limit_bytes,
                plugin_limit_bytes: http.plugin_limit_bytes,
                max_headers: http.max_headers,
                header_timeout: secs(http.header_timeout_secs),
                body_timeout: secs(http.body_timeout_secs),
                write_timeout: secs(http.write_timeout_secs),
                max_connections: http.max_connections,
                max_connections_per_address: http.max_connections_per_address,
                shutdown_grace: secs(http.shutdown_grace_secs),
            },
            plugins: PluginConfig {
                deadline: Duration::from_millis(plugins.deadline_ms.into()),
                memory_bytes: plugins.memory_mib * 1024 * 1024,
                max_concurrent: plugins.max_concurrent,
                cache_dir: plugins.cache_dir.unwrap_or_else(|| data_dir.join("plugin-cache")),
            },
            data_dir,
        })
    }
}

fn secs(n: u32) -> Duration {
    Duration::from_secs(n.into())
}

fn count(problems: usize) -> String {
    if problems == 1 {
        "a problem".to_owned()
    } else {
        format!("{problems} problems")
    }
}

/// `http://host[:port][/path]` without query, fragment or user.
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

fn parse_network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>()
        .ok()
        .or_else(|| text.parse().ok().map(|address: std::net::IpAddr| address.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(toml: &str) -> String {
        Config::load(&Sources::from_text(toml)).unwrap_err().to_string()
    }

    #[test]
    fn the_example_is_the_built_in_configuration_with_every_key() {
        let built_in = serde_json::to_value(RawConfig::default()).unwrap();
        let (example, _) = Sources::from_text(EXAMPLE).read().unwrap();
        assert_eq!(serde_json::to_value(example).unwrap(), built_in);
        let written: toml::Table = EXAMPLE.parse().unwrap();
        let mut keys = Vec::new();
        sources::known_keys(&built_in, "", &mut keys);
        for key in keys {
            let found = key
                .split('.')
                .try_fold(&toml::Value::Table(written.clone()), |value, part| {
                    value.get(part)
                })
                .is_some();
            let commented = EXAMPLE.contains(&format!("#{} = ", key.rsplit('.').next().unwrap()));
            assert!(found || commented, "{key} is missing in the example");
        }
    }

    #[test]
    fn the_built_in_values_pass() {
        let config = Config::for_data_dir(Path::new("/tmp/x"));
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.plugins.cache_dir, Path::new("/tmp/x/plugin-cache"));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name_and_the_nearest() {
        let text = problems("[http]\nbody_limit_byte = 5\n");
        assert!(
            text.contains("http.body_limit_byte is unknown; did you mean http.body_limit_bytes?"),
            "{text}"
        );
        let text = problems("refresh_secs = 5\n");
        assert!(
            text.contains("refresh_secs is unknown; did you mean tokens.refresh_secs?"),
            "{text}"
        );
        let text = problems("[limits.reset_by_user]\nrequests = 1\nwindow_secs = 1\n");
        assert!(text.contains("limits.reset_by_user is unknown"), "{text}");
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let text = problems(
            "listen = \"8080\"\npublic_url = \"ftp://x\"\n[tokens]\naccess_secs = 5\nissuer = \"a:b\"\n\
             [proxies]\ntrusted = [\"10.0.0.0/8\", \"nonsense\"]\n[log]\nlevel = \"latchkey=loud\"\n",
        );
        for part in [
            "6 problems",
            "listen: \"8080\"",
            "public_url: \"ftp://x\"",
            "tokens.access_secs: 5 is not between 60 and 86400",
            "tokens.issuer",
            "proxies.trusted: \"nonsense\"",
            "log.level",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_wrong_type_names_key_and_source() {
        let text = problems("[http]\nmax_headers = \"many\"\n");
        assert!(
            text.contains("http.max_headers") && text.contains("found string \"many\", expected usize"),
            "{text}"
        );
        let text = problems("[http\n");
        assert!(text.contains("TOML"), "{text}");
    }

    #[test]
    fn variables_beat_the_file_and_flags_beat_both() {
        let mut sources =
            Sources::from_text("listen = \"127.0.0.1:1\"\ndata_dir = \"file\"\n[log]\nformat = \"json\"\n");
        sources.variables = [
            ("LATCHKEY_LISTEN", "127.0.0.1:2"),
            ("LATCHKEY_LOG__LEVEL", "debug"),
            ("LATCHKEY_LIMITS__RESET_BY_TARGET__REQUESTS", "7"),
            ("LATCHKEY_PROXIES__TRUSTED", "[\"10.0.0.0/8\", \"::1\"]"),
            ("HOME", "/root"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        sources.flags.listen = Some("127.0.0.1:3".to_owned());
        let config = Config::load(&sources).unwrap();
        assert_eq!(config.listen.port(), 3);
        assert_eq!(config.data_dir, Path::new("file"));
        assert_eq!(
            config.log,
            LogConfig {
                format: LogFormat::Json,
                filter: "debug".to_owned()
            }
        );
        assert_eq!(config.limits.reset_by_target.requests, 7);
        assert_eq!(config.limits.reset_by_target.window_secs, 3600);
        assert_eq!(config.trusted_proxies.len(), 2);
        sources.flags.listen = None;
        assert_eq!(Config::load(&sources).unwrap().listen.port(), 2);
    }

    #[test]
    fn an_unknown_variable_is_refused_by_its_own_name() {
        let mut sources = Sources::from_text("");
        sources.variables = vec![("LATCHKEY_LOG__LEVLE".to_owned(), "debug".to_owned())];
        let text = Config::load(&sources).unwrap_err().to_string();
        assert!(
            text.contains("LATCHKEY_LOG__LEVLE is unknown; did you mean LATCHKEY_LOG__LEVEL?"),
            "{text}"
        );
    }
}
