//! The terms of a binding as an operator gives them. Absent terms have their default, or stay unchanged.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::domain::policy::{Grants, Hook, Mode};
use crate::plugin_host::{FailureAction, FailureCause, Limits, OnFailure};
use crate::service::plugins::{BindingPatch, BindingView};

/// The terms of a binding that an operator gives.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TermsOrder {
    /// Configuration, JSON.
    pub config: Option<Value>,
    /// Position in the order.
    pub position: Option<i64>,
    /// Hooks at which it is asked.
    pub hooks: Option<Vec<Hook>>,
    /// Whether its answers count.
    pub mode: Option<Mode>,
    /// Effects that it may ask for; this list replaces the previous one.
    pub grants: Option<Vec<String>>,
    /// What follows from a failure.
    pub on_failure: Vec<FailureRule>,
    /// Limits of one call.
    pub limits: Vec<Limit>,
}

/// The action for a cause of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureRule {
    /// Cause; absent: any cause that has no rule of its own beside this one.
    pub cause: Option<FailureCause>,
    /// Action for that cause.
    pub action: FailureAction,
}

/// One of the [`Limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// [`Limits::deadline_ms`].
    DeadlineMs(u32),
    /// [`Limits::memory_bytes`].
    MemoryBytes(u64),
    /// [`Limits::table_elements`].
    TableElements(u32),
    /// [`Limits::fuel`].
    Fuel(u64),
    /// [`Limits::answer_bytes`].
    AnswerBytes(u32),
    /// [`Limits::log_lines`].
    LogLines(u32),
    /// [`Limits::log_bytes`].
    LogBytes(u32),
}

impl TermsOrder {
    /// Returns the changes that these terms make to a binding.
    pub(super) fn patch(self, now: &BindingView) -> BindingPatch {
        BindingPatch {
            on_failure: (!self.on_failure.is_empty()).then(|| self.on_failure(now.on_failure.clone())),
            limits: (!self.limits.is_empty()).then(|| self.limits(now.limits)),
            config: self.config,
            position: self.position,
            hooks: self.hooks,
            mode: self.mode,
            grants: self.grants.map(Grants::of),
            ..BindingPatch::default()
        }
    }

    /// Returns `limits` with the given limits replaced. Bounds are checked later.
    pub(super) fn limits(&self, mut limits: Limits) -> Limits {
        for limit in &self.limits {
            match *limit {
                Limit::DeadlineMs(said) => limits.deadline_ms = said,
                Limit::MemoryBytes(said) => limits.memory_bytes = said,
                Limit::TableElements(said) => limits.table_elements = said,
                Limit::Fuel(said) => limits.fuel = said,
                Limit::AnswerBytes(said) => limits.answer_bytes = said,
                Limit::LogLines(said) => limits.log_lines = said,
                Limit::LogBytes(said) => limits.log_bytes = said,
            }
        }
        limits
    }

    /// Returns the failure actions. A rule for any cause replaces all previous ones: an operator who says "deny"
    /// must not find that some cause is still skipped.
    pub(super) fn on_failure(&self, now: OnFailure) -> OnFailure {
        let any = self.on_failure.iter().rfind(|rule| rule.cause.is_none());
        let mut on_failure = any.map_or(now, |rule| OnFailure::always(rule.action));
        for rule in &self.on_failure {
            if let Some(cause) = rule.cause {
                on_failure.causes.retain(|(named, _)| *named != cause);
                if rule.action != on_failure.otherwise {
                    on_failure.causes.push((cause, rule.action));
                }
            }
        }
        on_failure
    }
}

/// Returns the failure actions by cause, for people and scripts.
pub(super) fn failure_actions(on_failure: &OnFailure) -> Value {
    let causes = on_failure.causes.iter();
    let mut actions: Map<_, _> = causes
        .map(|(cause, action)| (cause.as_str().to_owned(), json!(action)))
        .collect();
    actions.insert("otherwise".to_owned(), json!(on_failure.otherwise));
    Value::Object(actions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_failure(now: &OnFailure, rules: &[(Option<FailureCause>, FailureAction)]) -> Value {
        let rules = rules.iter();
        let order = TermsOrder {
            on_failure: rules
                .map(|&(cause, action)| FailureRule { cause, action })
                .collect(),
            ..TermsOrder::default()
        };
        failure_actions(&order.on_failure(now.clone()))
    }

    #[test]
    fn a_rule_for_one_cause_leaves_the_others_and_one_for_any_sweeps_them_away() {
        use FailureAction::{Deny, LastGoodVersion, Skip};
        use FailureCause::{Deadline, Trap};
        let plain = OnFailure::default();
        assert_eq!(
            on_failure(&plain, &[(Some(Trap), Skip)]),
            json!({ "otherwise": "deny", "trap": "skip" })
        );
        let now = OnFailure {
            otherwise: Skip,
            causes: vec![(Trap, LastGoodVersion)],
        };
        assert_eq!(
            on_failure(&now, &[(Some(Deadline), Deny)]),
            json!({ "otherwise": "skip", "trap": "last-good-version", "deadline": "deny" })
        );
        assert_eq!(
            on_failure(&now, &[(Some(Trap), Skip)]),
            json!({ "otherwise": "skip" })
        );
        for rules in [
            [(None, Deny), (Some(Deadline), Skip)],
            [(Some(Deadline), Skip), (None, Deny)],
        ] {
            assert_eq!(
                on_failure(&now, &rules),
                json!({ "otherwise": "deny", "deadline": "skip" })
            );
        }
    }
}
