//! Checks of an installation (`latchkey doctor`) that change nothing but the plugin cache, which gets the policies that
//! were not compiled yet.

mod place;

use std::sync::Arc;

use jiff::Timestamp;

use super::backup::Schedule;
use super::trail::{self, Way};
use super::{Services, plugins};
use crate::domain::audit::{Filter, OWN_KEYS};
use crate::domain::policy::Mode;
use crate::domain::{Error, Result};
use crate::plugin_host::BoundPlugin;
use crate::store::plugins::find_plugins;
use crate::store::{accounts, audit, integrity};

/// Number of audit entries checked between two reports of progress; fewer take only a moment.
const TOLD_EVERY: u64 = 10_000;

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it should be.
    Fine,
    /// Works, but needs attention.
    Doubtful,
    /// Must be repaired.
    Broken,
}

/// The result of one check.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Severity.
    pub grade: Grade,
    /// The subject of the check.
    pub what: &'static str,
    /// The result, and what to do about it.
    pub text: String,
}

impl Finding {
    /// Returns a finding that everything is as it should be.
    pub fn fine(what: &'static str, text: impl Into<String>) -> Self {
        Self {
            grade: Grade::Fine,
            what,
            text: text.into(),
        }
    }

    /// Returns a finding that something works but needs attention.
    pub fn doubtful(what: &'static str, text: impl Into<String>) -> Self {
        Self {
            grade: Grade::Doubtful,
            what,
            text: text.into(),
        }
    }

    /// Returns a finding that something must be repaired.
    pub fn broken(what: &'static str, text: impl Into<String>) -> Self {
        Self {
            grade: Grade::Broken,
            what,
            text: text.into(),
        }
    }
}

/// Callback for the progress of [`examine`]: the name of the current check, and for the audit trail also the
/// numbers of entries checked and in total.
pub type Watch<'a> = &'a dyn Fn(&'static str, Option<(u64, u64)>);

/// Checks the database, disk, trail and its witness, clock, backups, policies and organisations. Takes as long as
/// reading the whole database. Reports its progress to `watch`.
#[must_use]
pub fn examine(services: &Services, backup: Option<&Schedule>, watch: Watch<'_>) -> Vec<Finding> {
    let trail = |services: &Services| trail(services, watch);
    let checks: [(&'static str, &dyn Fn(&Services) -> Result<Vec<Finding>>); 10] = [
        ("database", &database),
        ("disk", &place::room),
        ("audit trail", &trail),
        ("trail's name", &place::name),
        ("witness", &place::witness),
        ("forwarding", &forwarding),
        ("clock", &clock),
        ("policies", &policies),
        ("signatures", &signatures),
        ("organisations", &organizations),
    ];
    let mut findings = Vec::new();
    for (what, check) in checks {
        watch(what, None);
        findings.extend(check(services).unwrap_or_else(|error| {
            let cause = match error {
                // The caller is the operator, who may see the internal cause.
                Error::Internal(cause) => cause,
                other => other.to_string(),
            };
            vec![Finding::broken(what, cause)]
        }));
    }
    if let Some(schedule) = backup {
        watch("backup", None);
        findings.extend(place::backups(services, schedule));
    }
    findings
}

fn database(services: &Services) -> Result<Vec<Finding>> {
    let (damage, orphans) = services
        .store
        .read(|db| Ok((integrity::find_damage(db)?, integrity::find_orphans(db)?)))?;
    let place = services.store.path().display();
    Ok(match (damage.first(), orphans.first()) {
        (Some(first), _) => {
            let text = format!("{place} is damaged ({first}); restore it from a backup");
            vec![Finding::broken("database", text)]
        }
        (None, Some(table)) => {
            let text =
                format!("{place} has rows in {table} that refer to missing rows; restore it from a backup");
            vec![Finding::broken("database", text)]
        }
        (None, None) => vec![Finding::fine("database", format!("{place} is sound"))],
    })
}

fn trail(services: &Services, watch: Watch<'_>) -> Result<Vec<Finding>> {
    let report = services.store.read(|db| {
        let size = audit::size(db)?;
        audit::verify_watched(db, |done| {
            if done > 0 && done.is_multiple_of(TOLD_EVERY) {
                watch("audit trail", Some((done, size)));
            }
        })
    })?;
    Ok(if report.findings.is_empty() {
        vec![Finding::fine(
            "audit trail",
            format!(
                "{} entries, none edited, moved or missing, checked against {OWN_KEYS}; to check against one that you \
                 kept: latchkey audit verify DATA-DIR --key KEY",
                report.entries
            ),
        )]
    } else {
        let text = format!(
            "{} places were tampered with; latchkey audit verify names them",
            report.findings.len()
        );
        vec![Finding::broken("audit trail", text)]
    })
}

/// Reports entries not yet forwarded to a SIEM; empty unless forwarding is configured.
fn forwarding(services: &Services) -> Result<Vec<Finding>> {
    let ways = services.settings.trail.forward_to.ways();
    let places = services.store.read(|db| {
        let size = audit::size(db)?;
        let place = |way: &Way| Ok(audit::find_forwarding(db, way.as_str())?.map(|place| (size, place)));
        ways.iter().map(place).collect::<Result<Vec<_>>>()
    })?;
    let unknown = trail::find_unknown_slugs(services)?.into_iter().map(|slug| {
        let text = format!("audit.forward_organizations names {slug}, but no organisation has that slug");
        Finding::doubtful("forwarding", text)
    });
    Ok(places
        .into_iter()
        .flatten()
        .map(|(size, place)| {
            let behind = size.saturating_sub(place.next);
            let text = format!("{}: {behind} entries wait", place.channel);
            match place.last_error {
                None => Finding::fine("forwarding", text),
                Some(why) => Finding::doubtful("forwarding", format!("{text}; the last attempt: {why}")),
            }
        })
        .chain(unknown)
        .collect())
}

fn clock(services: &Services) -> Result<Vec<Finding>> {
    let now = services.clock.now();
    let newest = services.store.read(newest_entry)?;
    Ok(match newest {
        Some(newest) if newest > now => {
            let text = format!(
                "the clock says {now}, but the newest audit entry is from {newest}; set the host's clock, or tokens and \
                 codes are judged wrongly"
            );
            vec![Finding::broken("clock", text)]
        }
        _ => vec![Finding::fine(
            "clock",
            format!("{now}; codes need it to be right within half a minute"),
        )],
    })
}

fn newest_entry(db: &crate::store::Connection) -> Result<Option<Timestamp>> {
    let organizations = accounts::find_organizations(db)?;
    let mut newest = None;
    for organization in organizations.iter().map(|o| Some(o.id)).chain([None]) {
        let page = audit::page_entries_after(db, organization, &Filter::default(), None, 1)?;
        newest = newest.max(page.first().map(|entry| entry.at));
    }
    Ok(newest)
}

fn policies(services: &Services) -> Result<Vec<Finding>> {
    plugins::reload(services)?;
    let mut findings = Vec::new();
    for organization in services.store.read(accounts::find_organizations)? {
        let bound = services.bindings.of(organization.id);
        if bound.plugins.is_empty() {
            let text = format!(
                "{} has none: any of its admins may reset anybody at any time",
                organization.slug
            );
            findings.push(Finding::doubtful("policies", text));
            continue;
        }
        let named = bound.plugins.iter().map(|plugin| match plugin.mode {
            Mode::Enforce => plugin.name.clone(),
            Mode::Monitor => format!("{} (monitor)", plugin.name),
            Mode::Canary(percent) => format!("{} (canary, {percent} %)", plugin.name),
        });
        let text = format!("{}: {}", organization.slug, named.collect::<Vec<_>>().join(", "));
        let uncounted = |plugin: &&Arc<BoundPlugin>| !services.plugin_host.applies(plugin.limits);
        if let Some(plugin) = bound.plugins.iter().find(uncounted) {
            let text = format!(
                "{}: the limit of fuel of {} limits nothing: switch plugins.count_fuel on, or latchkey plugin change \
                 {} --limit fuel=0",
                organization.slug, plugin.name, plugin.binding_id
            );
            findings.push(Finding::doubtful("policies", text));
        }
        if bound.plugins.iter().any(|plugin| plugin.mode == Mode::Enforce) {
            findings.push(Finding::fine("policies", text));
        } else {
            let text =
                format!("{text}; none of them is enforced for all: latchkey plugin mode BINDING enforce");
            findings.push(Finding::doubtful("policies", text));
        }
    }
    Ok(findings)
}

/// Reports plugins installed before keys were trusted, which remain active; empty unless trusted keys are
/// configured.
fn signatures(services: &Services) -> Result<Vec<Finding>> {
    let settings = &services.settings.plugins;
    if settings.trusted_keys.is_empty() {
        return Ok(Vec::new());
    }
    let installed = services.store.read(|db| find_plugins(db, None))?;
    let unsigned: Vec<_> = installed
        .iter()
        .filter(|plugin| plugins::is_unsigned(settings, plugin))
        .map(|plugin| format!("{} {}", plugin.manifest.name, plugin.manifest.version))
        .collect();
    Ok(vec![if unsigned.is_empty() {
        Finding::fine("signatures", "a trusted key has signed every installed plugin")
    } else {
        let text = format!(
            "no key of plugins.trusted_keys has signed {}; install it again with its signature, or remove it: latchkey \
             plugin uninstall",
            unsigned.join(", ")
        );
        Finding::doubtful("signatures", text)
    }])
}

fn organizations(services: &Services) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    services.store.read(|db| {
        for organization in accounts::find_organizations(db)? {
            let slug = &organization.slug;
            let admins = accounts::find_active_admins(db, organization.id)?;
            let without: Vec<_> = admins
                .iter()
                .filter(|admin| !admin.mfa_enabled)
                .map(|a| a.email.as_str())
                .collect();
            if admins.is_empty() {
                let text = format!(
                    "{slug} has no active admin, so nobody there can reset anybody; \
                     latchkey user create --org {slug} --email ADDRESS --admin"
                );
                findings.push(Finding::doubtful("organisations", text));
            } else if admins.len() == 1 {
                let text = format!(
                    "{slug} has a single active admin, {}, whom nobody can reset; make a second one",
                    admins[0].email
                );
                findings.push(Finding::doubtful("organisations", text));
            } else {
                findings.push(Finding::fine(
                    "organisations",
                    format!("{slug} has {} active admins", admins.len()),
                ));
            }
            if !without.is_empty() {
                let text = format!("{slug} has admins without MFA: {}", without.join(", "));
                findings.push(Finding::doubtful("organisations", text));
            }
        }
        Ok(())
    })?;
    if findings.is_empty() {
        let text = "there is none yet; create one: latchkey org create SLUG";
        findings.push(Finding::doubtful("organisations", text));
    }
    Ok(findings)
}
