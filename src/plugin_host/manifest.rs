//! Checks plugin manifests, and configurations against their schemas.

mod effort;

use std::collections::BTreeSet;

use semver::Version;

use super::package::PackageError;
use super::printable::printable;
use super::record::Failure;
use crate::domain::policy::{Manifest, is_kebab};

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The text is not JSON.
    #[error("the configuration is not JSON: {0}")]
    NotJson(String),
    /// The text is too long.
    #[error("the configuration has {size} bytes; at most {limit} are allowed")]
    TooLarge {
        /// Bytes of the text.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The configuration violates the plugin's schema.
    #[error("configuration{}: {reason}", at(.path))]
    Schema {
        /// JSON Pointer into the configuration; empty for the whole.
        path: String,
        /// What is wrong at that position.
        reason: String,
    },
    /// The plugin's own `check-config` refused it.
    #[error("the plugin refuses this configuration: {0}")]
    Refused(String),
    /// The plugin's `check-config` failed.
    #[error("the plugin failed on this configuration, {0}")]
    Failed(#[source] Failure),
}

fn at(path: &str) -> String {
    if path.is_empty() {
        String::new()
    } else {
        format!(" at {path}")
    }
}

/// Returns the manifest if it is acceptable.
///
/// # Errors
/// [`PackageError::Manifest`] names the field.
pub fn check(manifest: Manifest) -> Result<Manifest, PackageError> {
    let bad = |field, reason: String| {
        let reason = printable(&reason);
        Err(PackageError::Manifest { field, reason })
    };
    if !is_kebab(&manifest.name) {
        return bad(
            "name",
            format!(
                "{:?} is not kebab-case of 1 to 64 characters",
                short(&manifest.name)
            ),
        );
    }
    // The version is part of every record, log line and metric series of the plugin.
    if manifest.version.len() > VERSION_BYTES {
        return bad("version", format!("it has more than {VERSION_BYTES} characters"));
    }
    if let Err(error) = Version::parse(&manifest.version) {
        return bad(
            "version",
            format!(
                "{:?} is not a semantic version: {error}",
                short(&manifest.version)
            ),
        );
    }
    if manifest.summary.chars().count() > SUMMARY_CHARS || manifest.summary.chars().any(char::is_control) {
        return bad(
            "summary",
            format!("it must be one line of at most {SUMMARY_CHARS} characters"),
        );
    }
    if manifest.hooks.is_empty() {
        return bad("hooks", "it names none, so it would never be called".to_owned());
    }
    if manifest.hooks.iter().collect::<BTreeSet<_>>().len() != manifest.hooks.len() {
        return bad("hooks", "it names a hook twice".to_owned());
    }
    if manifest.wants.len() > WANTS_MAX {
        return bad("wants", format!("it names more than {WANTS_MAX} effects"));
    }
    // Effects that this host does not know are allowed: the plugin may support newer hosts, too.
    if let Some(name) = manifest.wants.iter().find(|name| !is_kebab(name)) {
        return bad("wants", format!("{:?} is not the name of an effect", short(name)));
    }
    if manifest.history_days > HISTORY_DAYS_MAX {
        return bad(
            "history-days",
            format!(
                "it asks for {} days; a question covers at most {HISTORY_DAYS_MAX}",
                manifest.history_days
            ),
        );
    }
    if let Err(reason) = read_schema(&manifest.config_schema).and_then(|schema| compile(&schema).map(drop)) {
        return bad("config-schema", reason);
    }
    Ok(manifest)
}

/// Checks a configuration against the manifest's schema.
///
/// # Errors
/// [`ConfigError`], except for the variants that need a call of the plugin.
pub fn check_config(manifest: &Manifest, config: &str) -> Result<(), ConfigError> {
    if config.len() > CONFIG_BYTES_MAX {
        return Err(ConfigError::TooLarge {
            size: config.len(),
            limit: CONFIG_BYTES_MAX,
        });
    }
    let value: serde_json::Value =
        serde_json::from_str(config).map_err(|e| ConfigError::NotJson(e.to_string()))?;
    let refused = |reason| ConfigError::Schema {
        path: String::new(),
        reason,
    };
    let unusable = |reason: String| refused(format!("the plugin's schema: {reason}"));
    let schema = read_schema(&manifest.config_schema).map_err(unusable)?;
    effort::judge_config(&schema, &value).map_err(refused)?;
    let validator = compile(&schema).map_err(unusable)?;
    validator.validate(&value).map_err(|error| ConfigError::Schema {
        path: error.instance_path().to_string(),
        reason: error.to_string().chars().take(REASON_CHARS).collect(),
    })
}

fn read_schema(text: &str) -> Result<serde_json::Value, String> {
    if text.len() > SCHEMA_BYTES_MAX {
        return Err(format!("it has more than {SCHEMA_BYTES_MAX} bytes"));
    }
    let schema = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
    effort::judge_schema(&schema)?;
    Ok(schema)
}

fn compile(schema: &serde_json::Value) -> Result<jsonschema::Validator, String> {
    jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        // The `regex` engine matches in linear time, with bounded memory: a plugin's schema must not stall the
        // host.
        .with_pattern_options(
            jsonschema::PatternOptions::regex()
                .size_limit(PATTERN_BYTES_MAX)
                .dfa_size_limit(PATTERN_CACHE_BYTES),
        )
        .build(schema)
        .map_err(|error| {
            let at = at(&error.instance_path().to_string());
            format!("it is not a JSON Schema{at}: {error}")
                .chars()
                .take(REASON_CHARS)
                .collect()
        })
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Longest version; a semantic version is ASCII.
const VERSION_BYTES: usize = 64;
const SUMMARY_CHARS: usize = 300;
const WANTS_MAX: usize = 16;
/// The furthest back that a question's history can reach, in days.
pub const HISTORY_DAYS_MAX: u16 = 90;
const SCHEMA_BYTES_MAX: usize = 64 << 10;
const CONFIG_BYTES_MAX: usize = 64 << 10;
/// Maximum size of a compiled pattern: letters of every script twice, or about a thousand states.
const PATTERN_BYTES_MAX: usize = 128 << 10;
/// Maximum cache that matching keeps for each pattern.
const PATTERN_CACHE_BYTES: usize = 256 << 10;
const REASON_CHARS: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::Hook;

    fn manifest() -> Manifest {
        Manifest {
            name: "reset-budget".into(),
            version: "1.0.0".into(),
            summary: "At most so many resets.".into(),
            hooks: vec![Hook::BeforeReset],
            wants: vec!["notify".into()],
            history_days: 30,
            config_schema:
                r#"{"type":"object","properties":{"max":{"type":"integer","minimum":1}},"required":["max"],
                "additionalProperties":false}"#
                    .into(),
        }
    }

    fn field(change: impl FnOnce(&mut Manifest)) -> &'static str {
        let mut manifest = manifest();
        change(&mut manifest);
        match check(manifest) {
            Err(PackageError::Manifest { field, .. }) => field,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn a_good_manifest_passes_and_each_bad_field_is_named() {
        assert!(check(manifest()).is_ok());
        assert_eq!(field(|m| m.name = "Reset Budget".into()), "name");
        assert_eq!(field(|m| m.version = "1.0".into()), "version");
        let build = |length: usize| format!("1.0.0+{}", "b".repeat(length - "1.0.0+".len()));
        assert_eq!(field(|m| m.version = build(65)), "version");
        let longest = Manifest {
            version: build(64),
            ..manifest()
        };
        assert!(check(longest).is_ok());
        assert_eq!(field(|m| m.summary = "two\nlines".into()), "summary");
        assert_eq!(field(|m| m.hooks = vec![]), "hooks");
        assert_eq!(field(|m| m.hooks = vec![Hook::AfterReset; 2]), "hooks");
        assert_eq!(field(|m| m.wants = vec!["rm -rf".into()]), "wants");
        assert_eq!(field(|m| m.history_days = 91), "history-days");
        let longest = Manifest {
            history_days: 90,
            ..manifest()
        };
        assert!(check(longest).is_ok());
        assert_eq!(field(|m| m.config_schema = "{".into()), "config-schema");
        assert_eq!(
            field(|m| m.config_schema = r#"{"type":"nonsense"}"#.into()),
            "config-schema"
        );
    }

    #[test]
    fn a_schema_cannot_reach_out() {
        for reference in ["https://example.com/s.json", "file:///etc/passwd"] {
            assert_eq!(
                field(|m| m.config_schema = format!(r#"{{"$ref":"{reference}"}}"#)),
                "config-schema"
            );
        }
    }

    #[test]
    fn patterns_that_would_take_gigabytes_are_refused_before_they_do() {
        let each = |count: usize| {
            let schemas: Vec<_> = (0..count)
                .map(|n| format!(r#"{{"pattern":"(?:\\p{{L}}{{200}}{n})+"}}"#))
                .collect();
            format!(r#"{{"anyOf":[{}]}}"#, schemas.join(","))
        };
        for count in [1, 64, 1_600] {
            assert_eq!(field(|m| m.config_schema = each(count)), "config-schema");
        }
        for honest in [r"^\\p{L}[\\p{L} '-]*$", r"^[A-Za-z0-9_-]{1,64}$", r"^\\w+@\\w+$"] {
            let good = Manifest {
                config_schema: format!(r#"{{"pattern":"{honest}"}}"#),
                ..manifest()
            };
            assert!(check(good).is_ok(), "{honest}");
        }
    }

    #[test]
    fn a_configuration_is_refused_with_its_path() {
        let refused = |config: &str| {
            check_config(&manifest(), config)
                .expect_err("refused")
                .to_string()
        };
        assert!(check_config(&manifest(), r#"{"max":3}"#).is_ok());
        assert_eq!(
            refused(r#"{"max":0}"#),
            "configuration at /max: 0 is less than the minimum of 1"
        );
        assert!(refused("{}").contains("\"max\" is a required property"));
        assert!(refused("{max}").contains("not JSON"));
        assert!(refused(&"x".repeat(CONFIG_BYTES_MAX + 1)).contains("at most"));
    }
}
