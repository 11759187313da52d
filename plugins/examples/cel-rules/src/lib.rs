//! Rules in CEL, the Common Expression Language, written into the configuration: no compiler needed.
//!
//! Before a reset the first rule that holds and says `allow`, `deny` or `require-approval` decides.
//! After one that was done, each rule that holds and names an effect asks for it.

mod evaluate;
mod rule;
mod schema;
mod types;

use evaluate::{Evaluator, Trial};
use latchkey_policy::prelude::*;
use rule::{Rule, Then};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    rules: Vec<Rule>,
}

struct CelRules;

impl Policy for CelRules {
    type Config = Config;

    const MANIFEST: Manifest = Manifest {
        name: "cel-rules",
        version: env!("CARGO_PKG_VERSION"),
        summary: "Rules in CEL, written into the configuration.",
        hooks: &[Hook::BeforeReset, Hook::AfterReset],
        wants: &["require-enrolment", "require-enrolment-code", "lock-account", "notify", "annotate"],
        history_days: 30,
        config_schema: include_str!("../config.schema.json"),
    };

    fn check(config: &Config) -> Result<(), String> {
        ensure((1..=100).contains(&config.rules.len()), "/rules", "must have 1 to 100 rules")?;
        let trial = Trial::new()?;
        for (at, rule) in config.rules.iter().enumerate() {
            let path = format!("/rules/{at}");
            rule.check(&path, &trial)?;
            let twice = config.rules[..at].iter().any(|earlier| earlier.name == rule.name);
            ensure(!twice, &format!("{path}/name"), "is another rule's name, too")?;
        }
        Ok(())
    }

    fn before_reset(question: &Question, config: &Config) -> Decision {
        let deciding = |rule: &&Rule| matches!(rule.then, Then::Allow | Then::Deny | Then::RequireApproval);
        let mut rules = config.rules.iter().filter(deciding).peekable();
        if rules.peek().is_none() {
            return allow();
        }
        let evaluator = Evaluator::new(question, None)?;
        for rule in rules {
            if !evaluator.holds(rule)? {
                continue;
            }
            return match rule.then {
                Then::Deny => deny(&*rule.name, rule.message()).because("rule", &*rule.when).into(),
                Then::RequireApproval => require_approval(rule.message())
                    .approvals(rule.approvals.unwrap_or(1))
                    .expires_secs(rule.expires_hours.unwrap_or(24).saturating_mul(3600))
                    .into(),
                _ => allow(),
            };
        }
        allow()
    }

    fn after_reset(question: &Question, outcome: &Outcome, config: &Config) -> Effects {
        let mut effects = Vec::new();
        if outcome.kind != ResultKind::Done || config.rules.iter().all(|rule| rule.effect().is_none()) {
            return Ok(effects);
        }
        let evaluator = Evaluator::new(question, Some(outcome))?;
        for rule in &config.rules {
            if let Some(effect) = rule.effect()
                && evaluator.holds(rule)?
            {
                effects.push(effect);
            }
        }
        Ok(effects)
    }
}

latchkey_policy::export!(CelRules);

#[cfg(test)]
mod tests {
    use super::CelRules;

    #[test]
    fn golden_cases() {
        latchkey_policy::golden::run::<CelRules>("cases");
    }
}
