//! Asks recorded questions again: of the version that answered them, which must answer the same byte for byte, or
//! of one that may replace it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::comparison::{comes_again, note};
use super::listing::usable_plugin;
use super::recheck::{OutcomeShown, configuration, nothing_said, widest};
use super::replay_report::{Follow, Replay, ReplayReport};
use super::replay_turns::Turn;
use super::terms::{check_config, config_problem};
use super::{Manager, Progress, Watch, from_json, off_the_path, prepare, to_json};
use crate::clock::Clock;
use crate::domain::account::OrganizationId;
use crate::domain::policy::{Answer, Hook, Manifest, Mode, Outcome, Question, ResultKind};
use crate::domain::{Error, Result};
use crate::plugin_host::{
    Asked, CallEnd, DecisionRecord, Digest, FailureCause, Limits, PluginHost, Prepared,
};
use crate::service::Services;
use crate::store::decisions::{self, DecidedRow};
use crate::store::{Store, accounts, bindings};

/// Maximum resets that one replay examines, the newest first.
const RESETS_MAX: u32 = 10_000;
/// Maximum duration of one replay.
const TIME_MAX: Duration = Duration::from_secs(60);
/// The configuration of a plugin that was never bound.
const EMPTY: &str = "{}";
/// Maximum attempts for a candidate that exceeds its deadline.
const TRIES: u32 = 3;

/// Runs an installed plugin against the recorded questions of past resets, off every request's path. An
/// organisation can run one at a time.
///
/// # Errors
/// [`Error::NotFound`] for an unknown plugin or binding, [`Error::Validation`] for a configuration that the
/// plugin refuses, [`Error::Busy`] while another replay of the organisation is running.
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
                .ok_or_else(|| super::listing::unknown_binding(id))?;
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
    let whose = manager.organization();
    replay_manifest(services, whose, plugin.manifest, organizations, replay, watch).await
}

/// Like [`replay_plugin`], for a plugin that may be replayed; `whose` is the organisation whose turn it uses,
/// absent for the operator's.
pub(super) async fn replay_manifest(
    services: &Services,
    whose: Option<OrganizationId>,
    manifest: Manifest,
    organizations: Vec<OrganizationId>,
    replay: Replay,
    watch: Watch,
) -> Result<ReplayReport> {
    let turn = services
        .bindings
        .replays()
        .take_now(whose)
        .ok_or(Error::Busy { retry_after_secs: 10 })?;
    replay_on_terms(services, turn, manifest, organizations, replay, None, watch).await
}

/// The terms on which a candidate is to be bound.
pub(super) struct Terms {
    /// Hooks at which it is asked.
    pub(super) hooks: Vec<Hook>,
    /// Limits of one call.
    pub(super) limits: Limits,
    /// The binding, if any, whose configuration stays: its decisions are compared with the configuration that
    /// each was made with.
    pub(super) own_config: Option<Uuid>,
}

/// Like [`replay_manifest`], on the candidate's own terms; absent: on those of each binding that it follows.
pub(super) async fn replay_on_terms(
    services: &Services,
    turn: Turn,
    mut manifest: Manifest,
    organizations: Vec<OrganizationId>,
    replay: Replay,
    terms: Option<Terms>,
    watch: Watch,
) -> Result<ReplayReport> {
    let config = replay.config.as_ref().map(to_json).transpose()?;
    let candidate = match &config {
        Some(config) => check_config(services, replay.plugin_digest, &manifest, config).await?,
        None => prepare(services, replay.plugin_digest).await?,
    };
    let limits = terms.as_ref().map(|terms| terms.limits);
    let own_config = terms.as_ref().and_then(|terms| terms.own_config);
    if let Some(terms) = terms {
        manifest.hooks = terms.hooks; // a hook at which it is not asked is not replayed
    }
    let run = Run {
        store: services.store.clone(),
        host: services.plugin_host.clone(),
        clock: services.clock.clone(),
        started: services.clock.monotonic(),
        candidate,
        manifest,
        config: config.map(Into::into),
        replay,
        limits,
        limits_of: HashMap::new(),
        own_config,
        configurations: HashMap::new(),
        counted_alone: false,
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
    /// Limits for the candidate; absent: those of each binding.
    limits: Option<Limits>,
    limits_of: HashMap<Uuid, Limits>,
    /// The binding whose decisions are compared with the configuration that each was made with.
    own_config: Option<Uuid>,
    configurations: HashMap<[u8; 32], Arc<str>>,
    /// Whether answers that did not count are left out, because there are some that did.
    counted_alone: bool,
}

/// Whether the plugin that a candidate is to replace was asked at all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WasAsked {
    Never,
    AndOnlyWatched,
    AndCounted,
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
            mended: 0,
            not_comparable: 0,
            watched: 0,
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
        let Some(asked) = self.was_asked(&sequences)? else {
            report.complete = false;
            return Ok(report);
        };
        report.asked_before = asked != WasAsked::Never;
        self.counted_alone = asked == WasAsked::AndCounted;
        if !report.asked_before && self.replay.follow != Follow::Name {
            return Ok(report); // bindings that were never asked made no decisions
        }
        if !report.asked_before && self.config.is_none() {
            self.takes_no_configuration().await?;
        }

        let of = sequences.len() as u64;
        for (done, sequence) in (1..).zip(sequences) {
            if self.is_over() {
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

    fn is_over(&self) -> bool {
        self.clock.monotonic().saturating_sub(self.started) > TIME_MAX
    }

    /// Refuses a candidate that could not be bound without a configuration; otherwise every answer would be the
    /// same error.
    async fn takes_no_configuration(&self) -> Result<()> {
        let checked = self
            .host
            .check_config(&self.candidate, &self.manifest, EMPTY)
            .await;
        checked.map_err(|error| {
            let (field, reason) = config_problem(error);
            let why = "this plugin was not asked in that time, so there is no recorded configuration to try it with";
            Error::field(field, format!("{reason}; {why}: name one (config, at the command line --config)"))
        })
    }

    /// Returns whether any of these resets asked what the candidate is to replace; `None` if finding out takes
    /// too long.
    fn was_asked(&self, sequences: &[u64]) -> Result<Option<WasAsked>> {
        let mut asked = WasAsked::Never;
        for sequence in sequences {
            if self.is_over() {
                return Ok(None);
            }
            let Some(decided) = self.store.read(|db| decisions::find_decided(db, *sequence))? else {
                continue;
            };
            for row in &decided.decisions {
                let record: DecisionRecord = from_json(&row.record)?;
                if self.follows(&record) {
                    if record.mode != Mode::Monitor {
                        return Ok(Some(WasAsked::AndCounted));
                    }
                    asked = WasAsked::AndOnlyWatched;
                }
            }
        }
        Ok(Some(asked))
    }

    fn follows(&self, record: &DecisionRecord) -> bool {
        match &self.replay.follow {
            Follow::Name => record.plugin == self.manifest.name,
            Follow::Binding(binding) => record.binding_id == *binding,
            Follow::Counted(bindings) => {
                record.plugin == self.manifest.name
                    && record.mode == Mode::Enforce
                    && bindings.contains(&record.binding_id)
            }
        }
    }

    async fn reset(&mut self, decided: &DecidedRow, report: &mut ReplayReport) -> Result<()> {
        let question: Question = from_json(&decided.asked.question)?;
        if !report.asked_before {
            return self.as_if_bound(decided, &question, report).await;
        }
        let calls = decided.decisions.iter();
        let calls: Vec<(_, DecisionRecord)> = calls
            .map(|row| Ok((row.config_digest, from_json(&row.record)?)))
            .collect::<Result<_>>()?;
        let mut shown = OutcomeShown::first(&decided.asked)?;
        for (config_digest, record) in &calls {
            let outcome = shown.next(record)?;
            if !self.follows(record) {
                continue;
            }
            if self.counted_alone && record.mode == Mode::Monitor {
                report.watched += 1;
                continue;
            }
            if let CallEnd::Failure(failure) = &record.end {
                let instead = |(_, other): &(_, DecisionRecord)| {
                    other.asked == Asked::Fallback
                        && (other.binding_id, other.hook) == (record.binding_id, record.hook)
                };
                if calls.iter().any(instead) {
                    continue; // the previous version answered instead; the candidate is compared with that answer
                }
                if !comes_again(failure.cause) {
                    report.not_comparable += 1;
                    continue;
                }
            }
            let config = self.config(record.binding_id, *config_digest)?;
            let replayed = if self.manifest.hooks.contains(&record.hook) {
                let limits = self.limits(record, &config)?;
                self.ask(limits, &config, &question, outcome.as_ref()).await
            } else {
                // A version without the hook adds nothing there.
                CallEnd::Answer(nothing_said(record.hook))
            };
            note(report, decided, &question, record.hook, Some(record), &replayed)?;
        }
        Ok(())
    }

    /// Compares a plugin that was never asked with what happened without it.
    async fn as_if_bound(
        &mut self,
        decided: &DecidedRow,
        question: &Question,
        report: &mut ReplayReport,
    ) -> Result<()> {
        let config = self.config.clone().unwrap_or_else(|| EMPTY.into());
        let limits = self.limits.unwrap_or_else(widest);
        // A reset that a monitored policy would have denied was carried out all the same, so the candidate is
        // asked.
        let denied = decided
            .decisions
            .iter()
            .map(|row| from_json::<DecisionRecord>(&row.record))
            .any(|record| {
                record.is_ok_and(|r| {
                    r.mode == Mode::Enforce && matches!(r.end, CallEnd::Answer(Answer::Deny(_)))
                })
            });
        if self.manifest.hooks.contains(&Hook::BeforeReset) && !denied {
            let replayed = self.ask(limits, &config, question, None).await;
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
            let replayed = self.ask(limits, &config, question, Some(&outcome)).await;
            note(report, decided, question, Hook::AfterReset, None, &replayed)?;
        }
        Ok(())
    }

    /// Asks the candidate. If it exceeds its deadline it is asked again, since the machine may be busy; it is too
    /// slow if it does so each time.
    async fn ask(
        &self,
        limits: Limits,
        config: &str,
        question: &Question,
        outcome: Option<&Outcome>,
    ) -> CallEnd {
        let days = self.manifest.history_days;
        let mut tries = 1;
        loop {
            let end = self
                .host
                .ask_again(&self.candidate, limits, config, question, days, outcome)
                .await;
            let late = matches!(&end, CallEnd::Failure(failure) if failure.cause == FailureCause::Deadline);
            if !late || tries == TRIES {
                return end;
            }
            tries += 1;
        }
    }

    /// Returns the limits under which the candidate is asked a recorded question. The version that answered it
    /// answers again under the widest limits, whatever the binding's are now; a replacement must keep to those of
    /// the binding.
    fn limits(&mut self, record: &DecisionRecord, config: &str) -> Result<Limits> {
        if let Some(limits) = self.limits {
            return Ok(limits);
        }
        let answered = record.digest == self.replay.plugin_digest
            && record.config_digest == Digest::of(config.as_bytes());
        if answered {
            return Ok(widest());
        }
        if let Some(limits) = self.limits_of.get(&record.binding_id) {
            return Ok(*limits);
        }
        let binding = self
            .store
            .read(|db| bindings::find_binding(db, record.binding_id))?;
        let limits = match binding {
            Some(binding) => from_json::<Limits>(&binding.limits)?.bounded(),
            None => widest(),
        };
        self.limits_of.insert(record.binding_id, limits);
        Ok(limits)
    }

    fn config(&mut self, binding: Uuid, recorded: [u8; 32]) -> Result<Arc<str>> {
        if let Some(config) = &self.config
            && self.own_config != Some(binding)
        {
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
