//! `latchkey plugin replay`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::Value;
use uuid::Uuid;

use super::{config, list};
use crate::cli::{Global, files, orders, output};
use crate::domain::printable::printable;
use crate::service::plugins::{FileText, PolicyOrder, ReplayOrder};

#[derive(Debug, Args)]
pub(in crate::cli) struct Replay {
    /// Plugin file of the candidate; it need not be installed.
    file: PathBuf,
    /// Replay resets since then: a duration such as 30d or 12h, or an RFC 3339 time.
    #[arg(long, default_value = "30d", value_name = "WHEN")]
    since: String,
    /// Only the resets of this organisation [default: all].
    #[arg(long, value_name = "SLUG")]
    org: Option<String>,
    /// Only the decisions of this binding [default: of every plugin with the candidate's name]. Answers in
    /// monitor mode are compared only if no enforced answer exists.
    #[arg(long, value_name = "ID")]
    binding: Option<Uuid>,
    /// Configuration: JSON, a file that holds it, or - for standard input [default: the one with which each
    /// decision was made].
    #[arg(long, value_name = "JSON|@FILE|FILE|-")]
    config: Option<String>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

impl Replay {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let bytes = files::plugin(&self.file)?;
        let order = ReplayOrder {
            file: FileText::of(&bytes),
            organization: self.org,
            since: self.since,
            binding: self.binding,
            config: self.config.as_deref().map(config).transpose()?,
        };
        let report = orders::carry_out_shown(global, PolicyOrder::Replay(order), "replaying")?;
        if self.json {
            output::json(&report)?;
        } else {
            print(&report)?;
        }
        verdict(&report)
    }
}

/// Decides how the command ends: a replay that compared nothing proves nothing.
fn verdict(report: &Value) -> Result<()> {
    let number = |field: &str| report[field].as_u64().unwrap_or_default();
    if number("compared") == 0 {
        bail!("{}", nothing_compared(report));
    }
    if report["clean"] == true {
        return Ok(());
    }
    let not_all = if report["complete"] == true {
        ""
    } else {
        ", and not all could be replayed"
    };
    if number("differing") == 0 && number("notComparable") > 0 {
        bail!(
            "{} of {} calls can't be compared: they failed when they were made, and might not fail again{not_all}",
            report["notComparable"],
            number("compared") + number("notComparable")
        );
    }
    bail!(
        "{} of {} decisions would have differed{not_all}",
        report["differing"],
        report["compared"],
    )
}

/// Returns why nothing was compared, and what to do about it.
fn nothing_compared(report: &Value) -> String {
    let since = report["since"].as_str().unwrap_or_default();
    let failed = report["notComparable"].as_u64().unwrap_or_default();
    if failed > 0 {
        return format!(
            "nothing was compared: all {failed} calls since {since} failed when they were made, so there is no \
             answer to compare with"
        );
    }
    format!(
        "nothing was compared: no reset since {since} asked what this is to be compared with; go back further with \
         --since, or without --binding and --org where they are named"
    )
}

fn print(report: &Value) -> Result<()> {
    let text = |field: &str| report[field].as_str().unwrap_or_default().to_owned();
    output::quoted(format_args!(
        "{} {} over {} resets since {}: {} answers compared, {} the same, {} different ({} of them failures)",
        text("plugin"),
        text("version"),
        report["resets"],
        text("since"),
        report["compared"],
        report["same"],
        report["differing"],
        report["failed"],
    ))?;
    if report["notComparable"] != 0 {
        output::line(format_args!(
            "{} more calls failed when they were made, and might not fail again: they can't be compared",
            report["notComparable"]
        ))?;
    }
    if report["watched"] != 0 {
        output::line(format_args!(
            "{} answers in monitor mode decided nothing and were left out",
            report["watched"]
        ))?;
    }
    if report["askedBefore"] == false && report["compared"] != 0 {
        output::line("No plugin of this name was asked in that time: it is compared with \"allow\"")?;
    }
    let differences = report["differences"].as_array().map_or(&[][..], Vec::as_slice);
    for difference in differences {
        let text = |field: &str| difference[field].as_str().unwrap_or_default();
        output::quoted(format_args!(
            "\n{} {} of {} (entry {})\n  recorded  {}\n  replayed  {}",
            text("at"),
            text("hook"),
            printable(text("target")),
            text("entryId"),
            answer(&difference["recorded"]),
            answer(&difference["replayed"]),
        ))?;
        if let Some(version) = difference["recordedVersion"].as_str() {
            output::quoted(format_args!(
                "  by        {version} ({}), binding {}, {}",
                text("recordedDigest").get(..12).unwrap_or_default(),
                text("bindingId"),
                list::mode(&difference["mode"]),
            ))?;
        }
    }
    Ok(())
}

/// Returns an answer as one printable line: its text comes from a plugin.
pub(super) fn answer(end: &Value) -> String {
    printable(&verdict_and_why(end))
}

fn verdict_and_why(end: &Value) -> String {
    if let Some(denial) = end.get("deny") {
        let word = |field: &str| denial[field].as_str().unwrap_or_default();
        return format!("deny [{}] {}", word("code"), word("message"));
    }
    if let Some(failure) = end.get("failure") {
        let cause = failure.as_str().unwrap_or_default();
        return match end["detail"].as_str() {
            Some(detail) if !detail.is_empty() => format!("failed, {cause}: {detail}"),
            _ => format!("failed, {cause}"),
        };
    }
    match end.as_object().and_then(|answer| answer.iter().next()) {
        Some((verdict, with)) if with.as_array().is_some_and(Vec::is_empty) => verdict.clone(),
        Some((verdict, with)) => format!("{verdict} {with}"),
        None => "nobody was asked".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_replay_that_compared_everything_ends_with_nought() {
        let ends = |differing: u64, not_comparable: u64, complete: bool| {
            let clean = differing == 0 && not_comparable == 0 && complete;
            verdict(&json!({
                "compared": 32, "differing": differing, "notComparable": not_comparable, "complete": complete,
                "clean": clean,
            }))
            .map_err(|error| error.to_string())
        };
        assert_eq!(ends(0, 0, true), Ok(()));
        for (differing, not_comparable, complete, says) in [
            (0, 11, true, "11 of 43 calls can't be compared"),
            (0, 11, false, "and not all could be replayed"),
            (2, 11, true, "2 of 32 decisions would have differed"),
            (0, 0, false, "and not all could be replayed"),
        ] {
            let said = ends(differing, not_comparable, complete).expect_err(says);
            assert!(said.contains(says), "{said}");
        }
    }
}
