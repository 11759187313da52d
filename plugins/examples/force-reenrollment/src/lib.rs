//! After a reset the user must enrol a second factor within some hours, and is told so.

use latchkey_policy::prelude::*;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Config {
    hours: u32,
    #[serde(default)]
    require_code: bool,
}

struct ForceReenrollment;

impl Policy for ForceReenrollment {
    type Config = Config;

    const MANIFEST: Manifest = Manifest {
        name: "force-reenrollment",
        version: env!("CARGO_PKG_VERSION"),
        summary: "After a reset the user must enrol a second factor within some hours.",
        hooks: &[Hook::AfterReset],
        wants: &["require-enrolment", "require-enrolment-code", "notify"],
        history_days: 0,
        config_schema: include_str!("../config.schema.json"),
    };

    fn check(config: &Config) -> Result<(), String> {
        ensure((1..=720).contains(&config.hours), "/hours", "must be from 1 to 720")
    }

    fn after_reset(question: &Question, outcome: &Outcome, config: &Config) -> Effects {
        if outcome.kind != ResultKind::Done {
            return Ok(vec![]);
        }
        let mut effects = vec![Effect::RequireEnrolment(config.hours)];
        if config.require_code {
            effects.push(Effect::RequireEnrolmentCode);
        }
        effects.push(notify(Audience::Target, "Your second factor was reset", notice(question, config)));
        Ok(effects)
    }
}

// NIST SP 800-63B-4 §4.2: a notice of recovery says what to do if it was not you.
fn notice(question: &Question, config: &Config) -> String {
    let organization = &question.organization.name;
    let hours = match config.hours {
        1 => "1 hour".into(),
        hours => format!("{hours} hours"),
    };
    let code = if config.require_code { " You will be asked for a code that your administrator has." } else { "" };
    format!(
        "An administrator of {organization} reset your second factor. Sign in within {hours} and set up a new one.{code} \
         If you did not ask for this, tell your administrator at once."
    )
}

latchkey_policy::export!(ForceReenrollment);

#[cfg(test)]
mod tests {
    use super::ForceReenrollment;

    #[test]
    fn golden_cases() {
        latchkey_policy::golden::run::<ForceReenrollment>("cases");
    }
}
