//! Terms of a binding: the options that `latchkey plugin bind` and `change` share, and their output.

use std::ops::RangeInclusive;

use anyhow::Result;
use clap::{Args, ValueEnum, value_parser};
use serde_json::Value;

use super::{config, list};
use crate::cli::output;
use crate::domain::policy::{Hook, Mode};
use crate::plugin_host::{FailureAction, FailureCause};
use crate::service::plugins::{FailureRule, Limit, TermsOrder};

/// Range of positions, the same as in the API.
const POSITIONS: RangeInclusive<i64> = i32::MIN as i64..=i32::MAX as i64;

#[derive(Debug, Args)]
pub(in crate::cli) struct Terms {
    /// Configuration: JSON, a file that holds it, or - for standard input.
    #[arg(long, value_name = "JSON|@FILE|FILE|-")]
    config: Option<String>,
    /// Position among the policies of the same owner; the lowest is asked first.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = value_parser!(i64).range(POSITIONS))]
    position: Option<i64>,
    /// Hook at which it is asked. May be given twice.
    #[arg(long, value_enum)]
    hook: Vec<HookName>,
    /// Effect that the plugin may request: require-enrolment, require-enrolment-code, revoke-sessions,
    /// lock-account, notify or annotate. May be repeated.
    #[arg(long, value_name = "EFFECT")]
    pub(super) grant: Vec<String>,
    /// Whether answers are enforced: enforce, monitor (recorded, but decide nothing), or canary:10 (enforced
    /// for 10 % of the users).
    #[arg(long, value_parser = mode, conflicts_with = "monitor")]
    mode: Option<Mode>,
    /// Same as --mode monitor.
    #[arg(long)]
    monitor: bool,
    /// What to do when it fails: deny (refuse the reset), skip (continue as if it were not bound) or
    /// last-good-version (ask the previous version; without one, refuse the reset). ACTION alone applies to
    /// every cause without a rule of its own; CAUSE=ACTION applies to trap, deadline, memory, fuel, stack,
    /// bad-answer, hook-error or instantiation. May be repeated.
    #[arg(long, value_name = "[CAUSE=]ACTION", value_parser = failure_rule)]
    on_failure: Vec<FailureRule>,
    /// Limit on one call: deadline-ms (5–1000), memory-bytes (1 to 256 MiB), table-elements (at most 200000),
    /// fuel (if the node counts it; 0: no limit), answer-bytes (4 KiB to 4 MiB), log-lines (at most 1000) or
    /// log-bytes (at most 256 KiB). May be repeated.
    #[arg(long, value_name = "NAME=N", value_parser = limit)]
    limit: Vec<Limit>,
    /// Same as --limit deadline-ms=MS.
    #[arg(long, value_name = "MS")]
    deadline_ms: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum HookName {
    /// Before the reset: decides whether it happens.
    BeforeReset,
    /// After the decision: adds effects to it.
    AfterReset,
}

impl Terms {
    pub(super) fn order(self) -> Result<TermsOrder> {
        let mut hooks = Vec::new();
        for name in self.hook {
            let hook = match name {
                HookName::BeforeReset => Hook::BeforeReset,
                HookName::AfterReset => Hook::AfterReset,
            };
            if !hooks.contains(&hook) {
                hooks.push(hook);
            }
        }
        let mut limits = self.limit;
        limits.extend(self.deadline_ms.map(Limit::DeadlineMs));
        Ok(TermsOrder {
            config: self.config.as_deref().map(config).transpose()?,
            position: self.position,
            hooks: (!hooks.is_empty()).then_some(hooks),
            mode: if self.monitor {
                Some(Mode::Monitor)
            } else {
                self.mode
            },
            grants: (!self.grant.is_empty()).then_some(self.grant),
            on_failure: self.on_failure,
            limits,
        })
    }
}

/// Parses a mode as typed.
pub(super) fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "enforce" => Ok(Mode::Enforce),
        "monitor" => Ok(Mode::Monitor),
        _ => text
            .strip_prefix("canary:")
            .and_then(|percent| percent.trim_end_matches('%').parse().ok())
            .filter(|percent| (1..=99).contains(percent))
            .map(Mode::Canary)
            .ok_or_else(|| "must be enforce, monitor, or canary:N with N from 1 to 99".to_owned()),
    }
}

fn failure_rule(text: &str) -> Result<FailureRule, String> {
    let (cause, action) = match text.split_once('=') {
        Some((cause, action)) => (Some(failure_cause(cause)?), action),
        None => (None, text),
    };
    let action = match action {
        "deny" => FailureAction::Deny,
        "skip" => FailureAction::Skip,
        "last-good-version" => FailureAction::LastGoodVersion,
        _ => return Err("must be deny, skip or last-good-version, or CAUSE= and one of these".to_owned()),
    };
    Ok(FailureRule { cause, action })
}

fn failure_cause(name: &str) -> Result<FailureCause, String> {
    // `busy` can't be configured: a flood of resets must not get its policies skipped, so a busy host always
    // denies.
    let mut causes = FailureCause::ALL
        .into_iter()
        .filter(|cause| *cause != FailureCause::Busy);
    let known: Vec<_> = causes.clone().map(FailureCause::as_str).collect();
    causes
        .find(|cause| cause.as_str() == name)
        .ok_or_else(|| format!("{name} is not a cause; the causes are {}", known.join(", ")))
}

fn limit(text: &str) -> Result<Limit, String> {
    let (name, number) = text
        .split_once('=')
        .ok_or("must be NAME=N, such as deadline-ms=20")?;
    let large = || {
        number
            .parse()
            .map_err(|_| format!("{number} is not a whole number"))
    };
    let small = || {
        number
            .parse()
            .map_err(|_| format!("{number} is not a whole number, or is too large"))
    };
    Ok(match name {
        "deadline-ms" => Limit::DeadlineMs(small()?),
        "memory-bytes" => Limit::MemoryBytes(large()?),
        "table-elements" => Limit::TableElements(small()?),
        "fuel" => Limit::Fuel(large()?),
        "answer-bytes" => Limit::AnswerBytes(small()?),
        "log-lines" => Limit::LogLines(small()?),
        "log-bytes" => Limit::LogBytes(small()?),
        _ => {
            return Err(format!(
                "{name} is not a limit; the limits are deadline-ms, memory-bytes, table-elements, fuel, answer-bytes, \
                 log-lines and log-bytes"
            ));
        }
    })
}

/// Prints the terms of a binding.
pub(super) fn print(binding: &Value) -> Result<()> {
    let words = |field: &str| match super::texts(&binding[field]).collect::<Vec<_>>() {
        words if words.is_empty() => "none".to_owned(),
        words => words.join(", "),
    };
    let pairs = |field: &str, but: &str| {
        let pairs = binding[field].as_object().into_iter().flatten();
        let pairs = pairs.filter(|(name, _)| *name != but);
        pairs
            .map(|(name, value)| match value.as_str() {
                Some(word) => format!("{name} {word}"),
                None => format!("{name} {value}"),
            })
            .collect::<Vec<_>>()
    };
    let mut failures = vec![
        binding["onFailure"]["otherwise"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    ];
    failures.extend(pairs("onFailure", "otherwise"));
    for (name, value) in [
        ("mode", list::mode(&binding["mode"])),
        ("position", binding["position"].to_string()),
        ("hooks", words("hooks")),
        ("grants", words("grants")),
        ("on failure", failures.join(", ")),
        ("limits", pairs("limits", "").join(", ")),
        ("configuration", output::escaped(&binding["config"].to_string())),
    ] {
        output::line(format_args!("  {name:13}  {value}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_as_they_are_typed() {
        assert_eq!(mode("enforce"), Ok(Mode::Enforce));
        assert_eq!(mode("canary:10"), Ok(Mode::Canary(10)));
        assert_eq!(mode("canary:10%"), Ok(Mode::Canary(10)));
        for bad in ["", "canary", "canary:0", "canary:100", "canary:-1", "Enforce"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn failures_as_they_are_typed() {
        let rule = |cause, action| Ok(FailureRule { cause, action });
        assert_eq!(failure_rule("skip"), rule(None, FailureAction::Skip));
        for cause in FailureCause::ALL {
            let said = failure_rule(&format!("{}=last-good-version", cause.as_str()));
            if cause == FailureCause::Busy {
                assert!(said.is_err(), "a busy host denies, whatever is said");
            } else {
                assert_eq!(said, rule(Some(cause), FailureAction::LastGoodVersion));
            }
        }
        for bad in ["", "trap", "trap=", "=deny", "fire=deny", "deny=trap", "Deny"] {
            assert!(failure_rule(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_as_they_are_typed() {
        assert_eq!(limit("deadline-ms=20"), Ok(Limit::DeadlineMs(20)));
        assert_eq!(limit("memory-bytes=8388608"), Ok(Limit::MemoryBytes(8 << 20)));
        for bad in [
            "",
            "20",
            "deadline-ms",
            "deadline-ms=",
            "deadline-ms=-1",
            "log-lines=4294967296",
            "speed=1",
        ] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }
}
