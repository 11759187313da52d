//! Policy counters since the start, in the Prometheus text format (exposition format 0.0.4): by binding for
//! `latchkey plugin metrics`, whose output can be fed to a text-file collector unchanged, and by version of a
//! plugin for [`crate::service::metrics`].

use std::fmt::Write as _;

use super::orders::slug_of;
use super::{BindingView, FailureCause, Manager, PluginCounters, alarm_count, list_bindings};
use crate::domain::Result;
use crate::service::Services;
use crate::service::metrics::{write_family, write_head};
use crate::store::accounts;

/// Labels (without braces), each with the counters that they describe.
type Labelled<'a> = [(String, &'a PluginCounters)];

/// Returns every binding's counters and the number of alarms raised, as text.
pub(super) async fn metrics(services: &Services, manager: &Manager) -> Result<String> {
    let views = list_bindings(services, manager).await?;
    let organizations = services.store.read(accounts::find_organizations)?;
    let labelled: Vec<(String, &PluginCounters)> = views
        .iter()
        .map(|view| {
            let slug = slug_of(&organizations, view.row.organization_id);
            (labels(view, slug.unwrap_or_default()), &view.counters)
        })
        .collect();
    let mut text = String::new();
    family(
        &mut text,
        &labelled,
        ("latchkey_policy_failures_in_a_row", "gauge"),
        "Failures since the last answer.",
        |c| c.failures_in_a_row.into(),
    );
    families(&mut text, &labelled);
    alarms(&mut text, services);
    Ok(text)
}

/// Returns the counters of each version of each plugin across all bindings, and the number of alarms raised: for
/// a collector, whose labels must be few and must not identify anybody.
pub fn metrics_by_version(services: &Services) -> String {
    let versions = services.plugin_host.version_counters();
    let labelled: Vec<(String, &PluginCounters)> = versions
        .iter()
        .map(|of| {
            let labels = format!(
                "plugin=\"{}\",version=\"{}\",digest=\"{}\"",
                escaped(&of.plugin),
                escaped(&of.version),
                of.digest
            );
            (labels, &of.counters)
        })
        .collect();
    let mut text = String::new();
    families(&mut text, &labelled);
    alarms(&mut text, services);
    text
}

fn families(text: &mut String, labelled: &Labelled<'_>) {
    let mut one = |of: (&str, &str), help: &str, value: fn(&PluginCounters) -> u64| {
        family(text, labelled, of, help, value);
    };
    one(
        ("latchkey_policy_calls_total", "counter"),
        "Calls of hooks.",
        |c| c.calls,
    );
    one(
        ("latchkey_policy_denials_total", "counter"),
        "Calls that denied, or with mode monitor would have.",
        |c| c.denials,
    );
    one(
        ("latchkey_policy_fallbacks_total", "counter"),
        "Calls of the previous version because the bound one had failed.",
        |c| c.fallbacks,
    );
    one(
        ("latchkey_policy_peak_memory_bytes", "gauge"),
        "The largest linear memory of a call.",
        |c| c.peak_memory_bytes,
    );
    failures(text, labelled);
    durations(text, labelled);
}

fn family(
    text: &mut String,
    labelled: &Labelled<'_>,
    of: (&str, &str),
    help: &str,
    value: fn(&PluginCounters) -> u64,
) {
    let samples = labelled
        .iter()
        .map(|(labels, counters)| (format!("{{{labels}}}"), value(counters)));
    write_family(text, of, help, samples);
}

fn alarms(text: &mut String, services: &Services) {
    let all = [(String::new(), alarm_count(services))];
    write_family(
        text,
        ("latchkey_policy_alarms_total", "counter"),
        "Alarms raised.",
        all,
    );
}

/// Writes every cause from the start: a series that only begins with its first failure hides that failure from a
/// rate query.
fn failures(text: &mut String, labelled: &Labelled<'_>) {
    let causes = FailureCause::ALL
        .into_iter()
        .filter(|cause| *cause != FailureCause::Busy);
    let samples = labelled.iter().flat_map(|(labels, counters)| {
        causes.clone().map(move |cause| {
            let count = counters.failures.get(&cause).copied().unwrap_or_default();
            (format!("{{{labels},cause=\"{}\"}}", cause.as_str()), count)
        })
    });
    write_family(
        text,
        ("latchkey_policy_failures_total", "counter"),
        "Calls that gave no answer.",
        samples,
    );
}

fn durations(text: &mut String, labelled: &Labelled<'_>) {
    let name = "latchkey_policy_call_duration_seconds";
    write_head(text, (name, "histogram"), "Wall clock of calls.");
    for (labels, counters) in labelled {
        let mut below = 0;
        for (bound, count) in PluginCounters::BUCKETS.iter().zip(counters.buckets) {
            below += count;
            let _ = writeln!(
                text,
                "{name}_bucket{{{labels},le=\"{}\"}} {below}",
                seconds(*bound)
            );
        }
        let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", counters.calls);
        let _ = writeln!(text, "{name}_sum{{{labels}}} {}", seconds(counters.micros));
        let _ = writeln!(text, "{name}_count{{{labels}}} {}", counters.calls);
    }
}

/// Formats microseconds as seconds, exactly.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn labels(view: &BindingView, organization: &str) -> String {
    let manifest = &view.version.manifest;
    format!(
        "binding=\"{}\",organization=\"{}\",plugin=\"{}\",version=\"{}\",digest=\"{}\"",
        view.row.id,
        escaped(organization),
        escaped(&manifest.name),
        escaped(&manifest.version),
        view.version.digest
    )
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_labels_as_collectors_read_them() {
        assert_eq!(
            [0, 25, 2_500, 1_000_000, 1_250_000].map(seconds),
            ["0", "0.000025", "0.0025", "1", "1.25"]
        );
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
