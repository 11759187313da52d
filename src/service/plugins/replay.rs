//! Recorded questions put once more: to the version that answered them, which must answer the same byte
//! for byte, or to one that may follow it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::bound::usable_plugin;
use super::replayed::{Difference, Follow, Replay, ReplayReport};
use super::terms::check_config;
use super::{Manager, Progress, Watch, blocking, from_json, off_the_path, prepare, to_json};
use crate::clock::Clock;
use crate::domain::account::OrganizationId;
use crate::domain::policy::{Answer, Hook, Manifest, Mode, Outcome, Question, ResultKind};
use crate::domain::{Error, Result};
use crate::plugin_host::{CallEnd, DecisionRecord, Digest, PluginHost, Prepared};
use crate::service::Services;
use crate::store::decisions::{self, AskedRow, DecidedRow};
use crate::store::{Store, accounts, bindings};

/// Resets that one replay looks at, the newest first.
const RESETS_MAX: u32 = 10_000;
/// How long one replay may take.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Differences that a report shows.
const DIFFERENCES_SHOWN: usize = 100;

/// Runs an installed plugin against the recorded questions of past resets, off every request's path. One
/// at a time.
///
/// # Errors
/// [`Error::NotFound`] for an unknown plugin or binding, [`Error::Validation`] for a configuration that the
/// plugin refuses, [`Error::Busy`] while another replay runs.
pub async fn replay_plugin(
    services: &Services,
    manager: &Manager,
    mut replay: Replay,
    watch: Watch,
) -> Result<ReplayReport> {
    manager.admit(services)?;
    if let Some(organization) = manager.organization() {
        replay.organization = Some(organization);
    }
    let (plugin, organizations) = services.store.read(|db| {
        if let Follow::Binding(id) = replay.follow {
            bindings::find_binding(db, id)?
                .filter(|row| manager.sees(row.organization_id))
                .ok_or_else(|| super::bound::unknown_binding(id))?;
        }
        let organizations = match replay.organization {
            Some(id) => vec![id],
            None => accounts::find_organizations(db)?
                .into_iter()
                .map(|o| o.id)
                .collect(),
        };
        Ok((
            usable_plugin(db, replay.plugin_digest, replay.organization)?,
            organizations,
        ))
    })?;
    replay_manifest(services, plugin.manifest, organizations, replay, watch).await
}

/// [`replay_plugin`] for a plugin that may be replayed.
pub(super) async fn replay_manifest(
    services: &Services,
    manifest: Manifest,
    organizations: Vec<OrganizationId>,
    replay: Replay,
    watch: Watch,
) -> Result<ReplayReport> {
    let config = replay.config.as_ref().map(to_json).transpose()?;
    let candidate = match &config {
        Some(config) => check_config(services, replay.plugin_digest, &manifest, config).await?,
        None => prepare(services, replay.plugin_digest).await?,
    };
    let turn = services
        .bindings
        .replay_turn()
        .ok_or(Error::Busy { retry_after_secs: 10 })?;
    let run = Run {
        store: services.store.clone(),
        host: services.plugin_host.clone(),
        clock: services.clock.clone(),
        started: services.clock.monotonic(),
        candidate,
        manifest,
        config: config.map(Into::into),
        replay,
        configurations: HashMap::new(),
    };
    off_the_path(move || async move {
        let _turn = turn;
        run.run(&organizations, &watch).await
    })
    .await?
}

struct Run {
    store: Store,
    host: PluginHost,
    clock: Clock,
    started: Duration,
    candidate: Arc<Prepared>,
    manifest: Manifest,
    config: Option<Arc<str>>,
    replay: Replay,
    configurations: HashMap<[u8; 32], Arc<str>>,
}

impl Run {
    async fn run(mut self, organizations: &[OrganizationId], watch: &Watch) -> Result<ReplayReport> {
        let mut report = ReplayReport {
            plugin: self.manifest.name.clone(),
            version: self.manifest.version.clone(),
            digest: self.replay.plugin_digest,
            since: self.replay.since,
            asked_before: false,
            resets: 0,
            compared: 0,
            same: 0,
            differing: 0,
            failed: 0,
            not_comparable: 0,
            complete: true,
            differences: Vec::new(),
        };
        let mut sequences = Vec::new();
        for organization in organizations {
            let found = self.store.read(|db| {
                decisions::find_decided_sequences(db, *organization, self.replay.since, RESETS_MAX + 1)
            })?;
            sequences.extend(found);
        }
        sequences.sort_unstable_by(|one, other| other.cmp(one));
        report.complete = sequences.len() <= RESETS_MAX as usize;
        sequences.truncate(RESETS_MAX as usize);
        report.asked_before = self.was_asked(&sequences)?;
        if !report.asked_before && self.replay.follow != Follow::Name {
            return Ok(report); // bindings that were never asked have decided nothing
        }

        let of = sequences.len() as u64;
        for (done, sequence) in (1..).zip(sequences) {
            if self.clock.monotonic().saturating_sub(self.started) > TIME_MAX {
                report.complete = false;
                break;
            }
            if let Some(decided) = self.store.read(|db| decisions::find_decided(db, sequence))? {
                self.reset(&decided, &mut report).await?;
                report.resets += 1;
            }
            watch(Progress::Done(done, of));
        }
        Ok(report)
    }

    /// Whether any of these resets asked what the candidate is to follow.
    fn was_asked(&self, sequences: &[u64]) -> Result<bool> {
        for sequence in sequences {
            let Some(decided) = self.store.read(|db| decisions::find_decided(db, *sequence))? else {
                continue;
            };
            for row in &decided.decisions {
                if self.follows(&from_json(&row.record)?) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn follows(&self, record: &DecisionRecord) -> bool {
        match &self.replay.follow {
            Follow::Name => record.plugin == self.manifest.name,
            Follow::Binding(binding) => record.binding_id == *binding,
            Follow::Counted(bindings) => {
                record.plugin == self.manifest.name
                    && record.mode == Mode::Enforce
                    && record.digest != self.replay.plugin_digest
                    && bindings.contains(&record.binding_id)
            }
        }
    }

    async fn reset(&mut self, decided: &DecidedRow, report: &mut ReplayReport) -> Result<()> {
        let question: Question = from_json(&decided.asked.question)?;
        if !report.asked_before {
            return self.as_if_bound(decided, &question, report).await;
        }
        for row in &decided.decisions {
            let record: DecisionRecord = from_json(&row.record)?;
            if !self.follows(&record) {
                continue;
            }
            let CallEnd::Answer(_) = &record.end else {
                report.not_comparable += 1;
                continue;
            };
            let config = self.config(row.config_digest)?;
            let replayed = if self.manifest.hooks.contains(&record.hook) {
                let outcome = outcome_shown(&decided.asked, &record)?;
                self.host
                    .ask_again(&self.candidate, &config, &question, outcome.as_ref())
                    .await
            } else {
                // A version without the hook has nothing to say there.
                CallEnd::Answer(nothing_said(record.hook))
            };
            note(
                report,
                decided,
                &question,
                record.hook,
                Some(&record.end),
                &replayed,
            )?;
        }
        Ok(())
    }

    /// A plugin that nobody asked so far, against what happened without it.
    async fn as_if_bound(
        &mut self,
        decided: &DecidedRow,
        question: &Question,
        report: &mut ReplayReport,
    ) -> Result<()> {
        let config = self.config.clone().unwrap_or_else(|| "{}".into());
        let denied = decided
            .decisions
            .iter()
            .map(|row| from_json::<DecisionRecord>(&row.record))
            .any(|record| record.is_ok_and(|r| matches!(r.end, CallEnd::Answer(Answer::Deny(_)))));
        if self.manifest.hooks.contains(&Hook::BeforeReset) && !denied {
            let replayed = self
                .host
                .ask_again(&self.candidate, &config, question, None)
                .await;
            note(report, decided, question, Hook::BeforeReset, None, &replayed)?;
        }
        if self.manifest.hooks.contains(&Hook::AfterReset) && !denied {
            let outcome = match &decided.asked.outcome {
                Some(outcome) => from_json(outcome)?,
                None => Outcome {
                    kind: ResultKind::Done,
                    removed: question.target.factors.clone(),
                    effects: Vec::new(),
                    denial: None,
                    approved_by: Vec::new(),
                },
            };
            let replayed = self
                .host
                .ask_again(&self.candidate, &config, question, Some(&outcome))
                .await;
            note(report, decided, question, Hook::AfterReset, None, &replayed)?;
        }
        Ok(())
    }

    fn config(&mut self, recorded: [u8; 32]) -> Result<Arc<str>> {
        if let Some(config) = &self.config {
            return Ok(Arc::clone(config));
        }
        if let Some(config) = self.configurations.get(&recorded) {
            return Ok(Arc::clone(config));
        }
        let config: Arc<str> = configuration(&self.store, recorded)?.into();
        self.configurations.insert(recorded, Arc::clone(&config));
        Ok(config)
    }
}

fn configuration(store: &Store, digest: [u8; 32]) -> Result<String> {
    store
        .read(|db| bindings::find_configuration(db, &digest))?
        .ok_or_else(|| Error::Internal(format!("configuration {} is missing", hex::encode(digest))))
}

/// The outcome as this call was shown it.
fn outcome_shown(asked: &AskedRow, record: &DecisionRecord) -> Result<Option<Outcome>> {
    if record.hook == Hook::BeforeReset {
        return Ok(None);
    }
    let outcome = asked.outcome.as_deref();
    let outcome = outcome.ok_or_else(|| Error::Internal("a decision's outcome is missing".into()))?;
    let mut outcome: Outcome = from_json(outcome)?;
    if let Some(effects) = &record.effects_so_far {
        outcome.effects.clone_from(effects);
    }
    Ok(Some(outcome))
}

fn nothing_said(hook: Hook) -> Answer {
    match hook {
        Hook::BeforeReset => Answer::Allow(Vec::new()),
        Hook::AfterReset => Answer::Effects(Vec::new()),
    }
}

/// Compares texts, not values: what is recorded must come again byte for byte.
fn note(
    report: &mut ReplayReport,
    decided: &DecidedRow,
    question: &Question,
    hook: Hook,
    recorded: Option<&CallEnd>,
    replayed: &CallEnd,
) -> Result<()> {
    report.compared += 1;
    let expected = recorded
        .cloned()
        .unwrap_or_else(|| CallEnd::Answer(nothing_said(hook)));
    if to_json(&expected)? == to_json(replayed)? {
        report.same += 1;
        return Ok(());
    }
    report.differing += 1;
    report.failed += u64::from(matches!(replayed, CallEnd::Failure(_)));
    if report.differences.len() < DIFFERENCES_SHOWN {
        report.differences.push(Difference {
            at: decided.at,
            entry_id: decided.entry_id,
            target: question.target.email.clone(),
            hook,
            recorded: recorded.map_or(Value::Null, Value::from),
            replayed: Value::from(replayed),
        });
    }
    Ok(())
}

/// A recorded call whose module, asked again, answered something else.
pub(super) struct Deviation {
    pub(super) record: DecisionRecord,
    pub(super) replayed: CallEnd,
}

/// Puts every answered question of one reset once more to the very version that answered it.
pub(super) async fn deviations(services: &Services, sequence: u64) -> Result<Vec<Deviation>> {
    let (store, host) = (services.store.clone(), services.plugin_host.clone());
    let decided = services.store.read(|db| decisions::find_decided(db, sequence))?;
    let Some(decided) = decided else {
        return Ok(Vec::new());
    };
    off_the_path(move || async move {
        let question: Question = from_json(&decided.asked.question)?;
        let mut found = Vec::new();
        for row in &decided.decisions {
            let record: DecisionRecord = from_json(&row.record)?;
            if matches!(record.end, CallEnd::Failure(_)) {
                continue; // a deadline missed once may be kept the next time
            }
            let config = configuration(&store, row.config_digest)?;
            let outcome = outcome_shown(&decided.asked, &record)?;
            let (module_host, module_store) = (host.clone(), store.clone());
            let digest = Digest(row.plugin_digest);
            let prepared = blocking(move || super::prepare_blocking(&module_host, &module_store, digest))
                .await?
                .map_err(super::refused)?;
            let replayed = host
                .ask_again(&prepared, &config, &question, outcome.as_ref())
                .await;
            if to_json(&record.end)? != to_json(&replayed)? {
                found.push(Deviation { record, replayed });
            }
        }
        Ok(found)
    })
    .await?
}
