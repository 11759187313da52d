//! `latchkey plugin decisions`: shows the recorded question and answers of a reset.

use anyhow::Result;
use serde_json::Value;

use super::replay::answer;
use super::texts;
use crate::cli::output;
use crate::domain::printable::printable;

/// Prints the question and each call.
pub(super) fn print(decisions: &Value) -> Result<()> {
    let text = |field: &str| decisions[field].as_str().unwrap_or_default();
    let question = &decisions["question"];
    let asked = |person: &str| printable(question[person]["email"].as_str().unwrap_or_default());
    output::line(format_args!(
        "{}, entry {}: {} asked for a reset of {}",
        text("at"),
        text("entryId"),
        asked("actor"),
        asked("target"),
    ))?;
    let calls = decisions["calls"].as_array().map_or(&[][..], Vec::as_slice);
    if calls.is_empty() {
        output::line("No policy was asked")?;
    }
    calls.iter().try_for_each(print_call)?;
    output::line(format_args!(
        "\nquestion  {}",
        output::escaped(&question.to_string())
    ))?;
    if !decisions["outcome"].is_null() {
        let outcome = decisions["outcome"].to_string();
        output::line(format_args!("outcome   {}", output::escaped(&outcome)))?;
    }
    Ok(())
}

fn print_call(call: &Value) -> Result<()> {
    let text = |field: &str| printable(call[field].as_str().unwrap_or_default());
    let share = match (call["asked"].as_str(), &call["canary"]) {
        (Some("fallback"), _) => ", the previous version, because the bound one failed".to_owned(),
        (Some(_), share) => format!(", the previous version, beside a canary of {share} %"),
        (None, Value::Null) => String::new(),
        (None, share) => format!(", a canary of {share} %"),
    };
    output::line(format_args!(
        "\n{} {} at {} ({}{share})",
        text("plugin"),
        text("version"),
        text("hook"),
        text("mode"),
    ))?;
    let end = call["end"].get("answer").cloned().unwrap_or_else(|| {
        let failure = &call["end"]["failure"];
        serde_json::json!({ "failure": failure["cause"], "detail": failure["detail"] })
    });
    let usage = &call["usage"];
    let mut rows = vec![
        ("end", answer(&end)),
        (
            "used",
            format!(
                "{} µs, {} bytes of memory",
                usage["elapsedMicros"], usage["peakMemoryBytes"]
            ),
        ),
        ("binding", text("bindingId")),
        ("digest", text("digest")),
        ("config", output::escaped(&call["config"].to_string())),
        ("of digest", text("configDigest")),
    ];
    if call["endDigest"].is_string() {
        rows.insert(
            1,
            (
                "cut short",
                format!("the complete text had the digest {}", text("endDigest")),
            ),
        );
    }
    let items = |field: &str| call[field].as_array().cloned().unwrap_or_default();
    rows.extend(
        items("refused")
            .iter()
            .map(|refused| ("refused", printable(refused["why"].as_str().unwrap_or_default()))),
    );
    rows.extend(texts(&call["repaired"]).map(|repaired| ("repaired", printable(repaired))));
    for line in items("log") {
        let of = |field: &str| printable(line[field].as_str().unwrap_or_default());
        rows.push(("log", format!("{:5} {}", of("level"), of("message"))));
    }
    if call["logDropped"].as_u64().is_some_and(|dropped| dropped > 0) {
        rows.push((
            "log",
            format!("{} further lines dropped, beyond the quota", call["logDropped"]),
        ));
    }
    for (name, value) in rows {
        output::line(format_args!("  {name:9}  {value}"))?;
    }
    Ok(())
}
