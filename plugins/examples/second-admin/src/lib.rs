//! A second admin has to agree where the user is privileged or on a list.

use latchkey_policy::prelude::*;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Config {
    #[serde(default = "yes")]
    privileged: bool,
    #[serde(default)]
    emails: Vec<String>,
    #[serde(default = "one")]
    approvals: u8,
    #[serde(default = "a_day")]
    expires_hours: u32,
}

fn yes() -> bool {
    true
}

fn one() -> u8 {
    1
}

fn a_day() -> u32 {
    24
}

struct SecondAdmin;

impl Policy for SecondAdmin {
    type Config = Config;

    const MANIFEST: Manifest = Manifest {
        name: "second-admin",
        version: env!("CARGO_PKG_VERSION"),
        summary: "A second admin has to agree to reset privileged or listed users.",
        hooks: &[Hook::BeforeReset],
        wants: &[],
        history_days: 0,
        config_schema: include_str!("../config.schema.json"),
    };

    fn check(config: &Config) -> Result<(), String> {
        // As many as the host ever asks for.
        ensure((1..=3).contains(&config.approvals), "/approvals", "must be from 1 to 3")?;
        ensure((1..=168).contains(&config.expires_hours), "/expiresHours", "must be from 1 to 168")?;
        for (at, pattern) in config.emails.iter().enumerate() {
            let address = pattern.strip_prefix('*').unwrap_or(pattern);
            let sound = address.contains('@') && !address.contains('*') && !address.contains(char::is_whitespace);
            ensure(sound, &format!("/emails/{at}"), "must be an address, or * and the end of one, as in *@board.example")?;
        }
        let some = config.privileged || !config.emails.is_empty();
        if some { Ok(()) } else { Err("would never ask for anyone: set privileged or emails".into()) }
    }

    fn before_reset(question: &Question, config: &Config) -> Decision {
        let target = &question.target;
        let reason = if config.privileged && target.role != Role::Member {
            let role = match target.role {
                Role::HelpDesk => "a help-desk agent",
                Role::OrgAdmin => "an administrator",
                _ => "an operator",
            };
            format!("{} is {role}", target.email)
        } else if config.emails.iter().any(|pattern| matches(pattern, &target.email)) {
            format!("{} is on the list of protected users", target.email)
        } else {
            return allow();
        };
        require_approval(format!("{reason}, so a second admin has to agree."))
            .approvals(config.approvals)
            .expires_secs(config.expires_hours.saturating_mul(3600))
            .into()
    }
}

// Case does not matter in an address as people use it.
fn matches(pattern: &str, email: &str) -> bool {
    match pattern.strip_prefix('*') {
        None => pattern.eq_ignore_ascii_case(email),
        Some(end) => {
            let at = email.len().wrapping_sub(end.len());
            email.get(at..).is_some_and(|tail| tail.eq_ignore_ascii_case(end))
        }
    }
}

latchkey_policy::export!(SecondAdmin);

#[cfg(test)]
mod tests {
    use super::{SecondAdmin, matches};

    #[test]
    fn golden_cases() {
        latchkey_policy::golden::run::<SecondAdmin>("cases");
    }

    #[test]
    fn patterns_match_whole_addresses_or_ends() {
        for (pattern, email, matched) in [
            ("ceo@acme.example", "CEO@Acme.example", true),
            ("ceo@acme.example", "xceo@acme.example", false),
            ("*@board.example", "ada@BOARD.example", true),
            ("*@board.example", "@board.example", true),
            ("*@board.example", "d.example", false),
            ("*@board.example", "ada@board.example.evil.example", false),
            ("*é@x", "©@x", false),
        ] {
            assert_eq!(matches(pattern, email), matched, "{pattern} {email}");
        }
    }
}
