//! A reset needs a ticket of the organisation's form.

use latchkey_policy::prelude::*;
use regex_lite::Regex;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    prefixes: Option<Vec<String>>,
    pattern: Option<String>,
    example: Option<String>,
}

struct TicketRequired;

impl Policy for TicketRequired {
    type Config = Config;

    const MANIFEST: Manifest = Manifest {
        name: "ticket-required",
        version: env!("CARGO_PKG_VERSION"),
        summary: "A reset needs a ticket of the organisation's form.",
        hooks: &[Hook::BeforeReset],
        wants: &[],
        history_days: 0,
        config_schema: include_str!("../config.schema.json"),
    };

    fn check(config: &Config) -> Result<(), String> {
        let form = Form::new(config)?;
        // People are told to give one like it.
        let accepted = config.example.as_ref().is_none_or(|example| form.accepts(example.trim()));
        ensure(accepted, "/example", "is not a ticket that this configuration accepts")
    }

    fn before_reset(question: &Question, config: &Config) -> Decision {
        let such_as = config.example.as_ref().map_or(String::new(), |example| format!(" such as {example}"));
        let ticket = question.request.ticket.as_deref().map_or("", str::trim);
        if ticket.is_empty() {
            return deny("ticket-required", format!("A reset needs a ticket{such_as}.")).into();
        }
        if Form::new(config)?.accepts(ticket) {
            return allow();
        }
        deny("ticket-not-accepted", format!("This is not a ticket{such_as} that allows a reset."))
            .because("ticket", ticket)
            .into()
    }
}

enum Form<'a> {
    Prefixes(&'a [String]),
    Pattern(Regex),
}

impl<'a> Form<'a> {
    fn new(config: &'a Config) -> Result<Self, String> {
        match (&config.prefixes, &config.pattern) {
            (Some(prefixes), None) => {
                ensure(!prefixes.is_empty(), "/prefixes", "must name at least one")?;
                for (at, prefix) in prefixes.iter().enumerate() {
                    ensure(!prefix.trim().is_empty(), &format!("/prefixes/{at}"), "must not be empty")?;
                }
                Ok(Self::Prefixes(prefixes))
            }
            (None, Some(pattern)) => {
                // The whole ticket has to match: a pattern without anchors must not let anything through.
                let whole = Regex::new(&format!("^(?:{pattern})$"));
                whole.map(Self::Pattern).map_err(|error| format!("/pattern: {error}"))
            }
            _ => Err("needs either prefixes or pattern".into()),
        }
    }

    fn accepts(&self, ticket: &str) -> bool {
        match self {
            Self::Prefixes(prefixes) => {
                prefixes.iter().any(|prefix| ticket.len() > prefix.len() && ticket.starts_with(prefix.as_str()))
            }
            Self::Pattern(whole) => whole.is_match(ticket),
        }
    }
}

latchkey_policy::export!(TicketRequired);

#[cfg(test)]
mod tests {
    use super::{Config, Form, TicketRequired};

    #[test]
    fn golden_cases() {
        latchkey_policy::golden::run::<TicketRequired>("cases");
    }

    #[test]
    fn alternatives_are_anchored_as_a_whole() {
        let config = Config { prefixes: None, pattern: Some("INC-[0-9]+|CHG-[0-9]+".into()), example: None };
        let form = Form::new(&config).expect("a sound pattern");
        for (ticket, accepted) in [("INC-1", true), ("CHG-22", true), ("xINC-1", false), ("INC-1x", false), ("CHG-", false)] {
            assert_eq!(form.accepts(ticket), accepted, "{ticket}");
        }
    }
}
