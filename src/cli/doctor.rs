//! `latchkey doctor`: checks whether this installation is in order.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;

use super::{Global, Progress, output};
use crate::config::Config;
use crate::service::doctor::{self, Finding, Grade};
use crate::store::OpenError;

/// Arguments of `latchkey doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  latchkey doctor --data-dir /var/lib/latchkey\n  latchkey doctor --json")]
pub(super) struct Doctor {
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let config = global.load(None)?;
        let mut findings = exposure(&config);
        findings.extend(data_directory(&config));
        let app = match global.open_to_examine() {
            Ok(app) => app,
            Err(error) => {
                // With `--json` the findings so far are printed even if the database is in use by a server;
                // the exit code is the same either way.
                let unopened = format!("not examined: {error:#}");
                let known = error.downcast_ref();
                findings.push(match known {
                    Some(OpenError::InUse(_) | OpenError::Older { .. }) => {
                        Finding::doubtful("database", unopened)
                    }
                    _ => Finding::broken("database", unopened),
                });
                // As it should be before the first start of a new version.
                if matches!(known, Some(OpenError::Older { .. })) {
                    return self.print(&findings);
                }
                if self.json {
                    print_json(&findings)?;
                }
                return Err(error);
            }
        };
        findings.push(Finding::fine(
            "keys",
            format!("fingerprint {}", app.services.keys.fingerprint()),
        ));
        let progress = Progress::of_steps("doctor");
        let watch = |what, entries| match entries {
            None => progress.step(what),
            Some((done, of)) => progress.reach_of(done, of),
        };
        let examined = doctor::examine(&app.services, app.config.backup.as_ref(), &watch);
        progress.finish(); // before the findings are printed
        findings.extend(examined);
        self.print(&findings)
    }

    /// Prints the findings; fails if anything is broken.
    fn print(&self, findings: &[Finding]) -> Result<()> {
        if self.json {
            print_json(findings)?;
        } else {
            let rows: Vec<_> = findings
                .iter()
                .map(|f| [grade(f.grade).to_owned(), f.what.to_owned(), f.text.clone()])
                .collect();
            output::table(["", "WHAT", "FOUND"], &rows)?;
        }
        let broken = findings.iter().filter(|f| f.grade == Grade::Broken).count();
        if broken > 0 {
            bail!("checks that failed: {broken}");
        }
        Ok(())
    }
}

fn print_json(findings: &[Finding]) -> Result<()> {
    let all: Vec<_> = findings
        .iter()
        .map(|f| json!({ "grade": grade(f.grade), "what": f.what, "text": f.text }))
        .collect();
    output::json(&all)
}

fn grade(grade: Grade) -> &'static str {
    match grade {
        Grade::Fine => "ok",
        Grade::Doubtful => "doubtful",
        Grade::Broken => "BROKEN",
    }
}

/// Checks from where the server can be reached, and over what.
fn exposure(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (listen, url) = (config.listen, &config.settings.public_url);
    if listen.ip().is_loopback() {
        findings.push(Finding::fine("listen", format!("{listen}, this machine only")));
    } else {
        let text = format!(
            "{listen} speaks plain HTTP to anyone who can reach it; keep it behind a proxy that speaks TLS"
        );
        findings.push(Finding::doubtful("listen", text));
    }
    if url.starts_with("https://") && config.trusted_proxies.is_empty() {
        let text = format!(
            "{url} is behind a TLS proxy, but proxies.trusted is empty: every client counts as one address in limits \
             and in the audit trail"
        );
        findings.push(Finding::doubtful("proxies", text));
    }
    findings
}

fn data_directory(config: &Config) -> Option<Finding> {
    let place = config.data_dir.display();
    let mode = std::fs::metadata(&config.data_dir).ok()?.permissions().mode() & 0o777;
    Some(if mode & 0o077 == 0 {
        Finding::fine("data directory", format!("{place}, for its owner alone"))
    } else {
        let text = format!("{place} has mode {mode:03o}, which lets other users in; run: chmod 700 {place}");
        Finding::doubtful("data directory", text)
    })
}
