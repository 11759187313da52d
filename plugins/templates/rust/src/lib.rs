//! At most so many resets by one admin in a day. Start here and make it yours.

use latchkey_policy::prelude::*;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Config {
    max_per_day: u32,
}

struct Plugin;

impl Policy for Plugin {
    type Config = Config;

    const MANIFEST: Manifest = Manifest {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        summary: "At most so many resets by one admin in a day.",
        hooks: &[Hook::BeforeReset],
        wants: &[],
        history_days: 1,
        config_schema: include_str!("../config.schema.json"),
    };

    fn check(config: &Config) -> Result<(), String> {
        ensure(config.max_per_day >= 1, "/maxPerDay", "must be at least 1")
    }

    fn before_reset(question: &Question, config: &Config) -> Decision {
        let used = question.history.actor_resets_last_day;
        if used < config.max_per_day {
            return allow();
        }
        deny("daily-limit", "You have reached today's number of resets.")
            .because("actor-resets-last-day", used)
            .into()
    }
}

latchkey_policy::export!(Plugin);

#[cfg(test)]
mod tests {
    use super::Plugin;

    #[test]
    fn golden_cases() {
        latchkey_policy::golden::run::<Plugin>("cases");
    }
}
