//! The valid range of each number.

use super::RawConfig;

/// Lists each key once, for its value and for its name in the message.
macro_rules! ranges {
    ($raw:ident, $problems:ident: $($section:ident . $key:ident in $range:expr;)*) => {$(
        let (value, range) = ($raw.$section.$key, $range);
        if !range.contains(&value) {
            let name = concat!(stringify!($section), ".", stringify!($key));
            let (least, most) = (range.start(), range.end());
            $problems.push(format!("{name}: {value} is not between {least} and {most}"));
        }
    )*};
}

/// Returns a problem for each value out of range, with the range.
pub(super) fn out_of_range(raw: &RawConfig) -> Vec<String> {
    let mut problems = Vec::new();
    ranges! { raw, problems:
        tokens.access_secs in 60..=86_400;
        tokens.refresh_secs in 300..=7_776_000;
        tokens.session_max_secs in 300..=31_536_000;
        tokens.mfa_challenge_secs in 30..=3600;
        tokens.key_rotation_days in 0..=3650;
        factors.enrolment_secs in 60..=86_400;
        factors.suspended_secs in 0..=7_776_000;
        factors.recovery_code_characters in 8..=32;
        http.body_limit_bytes in 1024..=67_108_864;
        http.head_limit_bytes in 8192..=1_048_576;
        database.queue_length in 16..=65_536;
        http.max_headers in 16..=1000;
        http.header_timeout_secs in 1..=300;
        http.body_timeout_secs in 1..=3600;
        http.write_timeout_secs in 1..=3600;
        http.max_connections in 1..=65_536;
        http.max_connections_per_address in 1..=65_536;
        http.shutdown_grace_secs in 0..=600;
        plugins.total_concurrency in 1..=256;
        plugins.per_organization_concurrency in 1..=256;
        plugins.slot_wait_ms in 0..=60_000;
        plugins.memory_total_mib in 64..=1_048_576;
        plugins.decision_days in 1..=3650;
        plugins.alarm_after in 1..=1000;
        plugins.recheck_one_in in 0..=1_000_000;
        audit.checkpoint_entries in 1..=1_000_000;
        audit.checkpoint_secs in 1..=86_400;
        backup.every_hours in 1..=8760;
        backup.keep in 1..=10_000;
    }
    for (name, limit) in raw.limits.entries() {
        if !(1..=86_400).contains(&limit.window_secs) {
            problems.push(format!(
                "limits.{name}.window_secs: {} is not between 1 and 86400",
                limit.window_secs
            ));
        }
        if limit.requests > 10_000_000 {
            problems.push(format!(
                "limits.{name}.requests: {} is not between 0 and 10000000",
                limit.requests
            ));
        }
    }
    problems
}
