//! One evaluation: which plugins are asked, in which version, and what follows from a failure.

use std::borrow::Borrow;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::engine::{CpuClock, Limits, Party};
use super::metrics::Caller;
use super::record::{
    Asked, BoundPlugin, CallEnd, DecisionRecord, Evaluation, Failure, FailureAction, FailureCause,
    PluginFailure, PluginVersion, Usage,
};
use super::v1::{self, Call, Ran};
use super::{Inner, PluginHost, Prepared};
use crate::domain::policy::{
    Decision, Effect, Hook, Mode, Outcome, Question, Vetted, merge_effects, refuse_surplus, vet,
};

/// A version of a plugin that is to be asked.
#[derive(Clone, Copy)]
struct Turn<'a> {
    plugin: &'a BoundPlugin,
    version: &'a PluginVersion,
    asked: Asked,
    /// Whether the answer is enforced or only monitored.
    mode: Mode,
}

impl PluginHost {
    pub(super) async fn evaluate<P: Borrow<BoundPlugin>>(
        &self,
        plugins: &[P],
        hook: Hook,
        question: &Arc<Question>,
        outcome: Option<Outcome>,
        fell_back: &[Uuid],
    ) -> Evaluation {
        let mut shown = Shown {
            outcome: outcome.map(Arc::new),
            added: vec![],
        };
        let mut evaluation = Evaluation {
            decision: Decision::Allow,
            effects: vec![],
            records: vec![],
            fell_back: vec![],
            failure: None,
        };
        let turns: Vec<Turn<'_>> = plugins
            .iter()
            .map(|plugin| {
                let plugin = plugin.borrow();
                let turn = Turn::of(plugin, question);
                let fallback = turn.before(Asked::Fallback);
                fallback
                    .filter(|before| fell_back.contains(&plugin.binding_id) && before.is_called_at(hook))
                    .unwrap_or(turn)
            })
            .filter(|turn| turn.is_called_at(hook))
            .collect();
        if turns.is_empty() {
            return evaluation;
        }

        // One slot for the whole evaluation: its plugins run one after the other anyway.
        let Some(_slot) = self.0.slots.take(&question.organization.id).await else {
            self.0.metrics.note_busy();
            (evaluation.records, evaluation.failure) = not_asked(&turns, hook, &question.organization.id);
            return evaluation;
        };

        for turn in turns {
            let (turn, vetted) = self
                .take_turn(turn, hook, question, &mut shown, &mut evaluation.records)
                .await;
            if turn.asked == Asked::Fallback {
                evaluation.fell_back.push(turn.plugin.binding_id);
            }
            match vetted {
                Ok(Some(mut vetted)) => {
                    let so_far = shown.outcome.as_ref().map_or(&evaluation.effects, |o| &o.effects);
                    let surplus = refuse_surplus(so_far, &mut vetted.effects);
                    if let Some(record) = evaluation.records.last_mut() {
                        record.refused.extend(surplus);
                    }
                    shown.add(&vetted.effects);
                    merge_effects(&mut evaluation.effects, vetted.effects);
                    evaluation.decision = evaluation.decision.and(vetted.decision);
                    if matches!(evaluation.decision, Decision::Deny(_)) {
                        break;
                    }
                }
                Ok(None) => {}
                Err(failure) => {
                    evaluation.failure = Some(turn.failed(failure));
                    break;
                }
            }
        }
        evaluation
    }

    /// Asks one plugin. Returns the vetted answer, `None` if its failure is skipped, or the failure that ends
    /// the reset.
    async fn take_turn<'a>(
        &self,
        turn: Turn<'a>,
        hook: Hook,
        question: &Arc<Question>,
        shown: &mut Shown,
        records: &mut Vec<DecisionRecord>,
    ) -> (Turn<'a>, Result<Option<Vetted>, Failure>) {
        let first = self.ask(turn, hook, question, shown, records).await;
        let Err(failure) = first else {
            return (turn, first.map(Some));
        };
        if turn.mode != Mode::Enforce {
            return (turn, Ok(None));
        }
        let Some(before) = turn.fallback(&failure) else {
            return (turn, turn.after_failure(failure));
        };
        if !before.is_called_at(hook) {
            return (before, Ok(None)); // the version before has no say here
        }
        match self.ask(before, hook, question, shown, records).await {
            Ok(vetted) => (before, Ok(Some(vetted))),
            Err(failure) => (before, before.after_failure(failure)),
        }
    }

    /// Calls one plugin, vets its answer and records the call.
    async fn ask(
        &self,
        turn: Turn<'_>,
        hook: Hook,
        question: &Arc<Question>,
        shown: &mut Shown,
        records: &mut Vec<DecisionRecord>,
    ) -> Result<Vetted, Failure> {
        let (plugin, version) = (turn.plugin, turn.version);
        let call = OwnCall {
            host: Arc::clone(&self.0),
            prepared: Arc::clone(&version.prepared),
            limits: plugin.limits.bounded(),
            clock: Arc::default(),
            question: Arc::clone(question),
            history_days: version.history_days,
            outcome: shown.outcome.clone(),
            config: Arc::clone(&version.config),
        };
        let digest = version.prepared.digest;
        let starts_apart = self
            .0
            .metrics
            .slow((plugin.binding_id, digest, version.config_digest));
        let clock = Arc::clone(&call.clock);
        let ran = self.0.lanes.run(starts_apart, &clock, call.run()).await;
        let (usage, log_dropped, longest) = (ran.usage, ran.log_dropped, ran.longest);
        let (end, log) = ran.end();
        let caller = Caller {
            binding_id: plugin.binding_id,
            plugin: &plugin.name,
            version: &version.version,
            digest,
            config_digest: version.config_digest,
            hook,
            asked: turn.asked,
        };
        let failures_in_a_row = self.0.metrics.note(caller, &end, usage, longest);
        let vetted = match &end {
            CallEnd::Answer(answer) => Ok(vet(answer.clone(), &version.grants, turn.mode)),
            CallEnd::Failure(failure) => {
                tracing::warn!(
                    plugin = %plugin.name, version = %version.version, %digest, binding = %plugin.binding_id,
                    cause = failure.cause.as_str(), failures_in_a_row, "a policy plugin failed"
                );
                Err(failure.clone())
            }
        };
        let counted = vetted.as_ref().ok();
        records.push(DecisionRecord {
            effects_added: std::mem::take(&mut shown.added),
            refused: counted.map_or_else(Vec::new, |v| v.refused.clone()),
            repaired: counted.map_or_else(Vec::new, |v| v.repaired.clone()),
            log,
            log_dropped,
            usage,
            failures_in_a_row,
            ..turn.record(hook, end)
        });
        vetted
    }
}

/// Returns the records of turns for which no slot became free, and the failure that ends the reset, if there is one.
fn not_asked(
    turns: &[Turn<'_>],
    hook: Hook,
    organization: &str,
) -> (Vec<DecisionRecord>, Option<PluginFailure>) {
    let failure = Failure {
        cause: FailureCause::Busy,
        detail: "all evaluation slots of the organisation are in use".to_owned(),
    };
    let unasked = |turn: &Turn<'_>| turn.record(hook, CallEnd::Failure(failure.clone()));
    let records = turns.iter().map(unasked).collect();
    // Monitored policies stop nothing, not even when no slot is free.
    let stopped = turns.iter().find(|turn| turn.mode == Mode::Enforce);
    let turn = stopped.unwrap_or(&turns[0]);
    tracing::warn!(
        plugin = %turn.plugin.name, version = %turn.version.version, digest = %turn.version.prepared.digest,
        binding = %turn.plugin.binding_id, cause = failure.cause.as_str(), policies = turns.len(),
        organization = %organization, enforced = stopped.is_some(),
        "policy plugins were not asked: no evaluation slot became free"
    );
    (records, stopped.map(|turn| turn.failed(failure)))
}

/// What an `after-reset` plugin is shown: each sees the effects that those before it added.
struct Shown {
    /// Absent before the reset.
    outcome: Option<Arc<Outcome>>,
    /// The effects added since the last call that was recorded.
    added: Vec<Effect>,
}

impl Shown {
    fn add(&mut self, effects: &[Effect]) {
        let Some(outcome) = &mut self.outcome else { return };
        for effect in effects {
            if !outcome.effects.contains(effect) {
                merge_effects(&mut Arc::make_mut(outcome).effects, vec![effect.clone()]);
                self.added.push(effect.clone());
            }
        }
    }
}

/// A call that owns its arguments, so that it can continue on another thread than it began on.
struct OwnCall {
    host: Arc<Inner>,
    prepared: Arc<Prepared>,
    limits: Limits,
    clock: Arc<CpuClock>,
    question: Arc<Question>,
    history_days: u16,
    outcome: Option<Arc<Outcome>>,
    config: Arc<str>,
}

impl OwnCall {
    async fn run(self) -> Ran {
        let asked = v1::Asked {
            question: &self.question,
            history_days: self.history_days,
        };
        let call = match &self.outcome {
            None => Call::BeforeReset(asked, &self.config),
            Some(outcome) => Call::AfterReset(asked, outcome, &self.config),
        };
        let party = Party::Organization(&self.question.organization.id);
        let (ticked, prepared) = (&self.host.ticked, &self.prepared);
        v1::run(ticked, prepared, party, self.limits, &self.clock, call).await
    }
}

impl<'a> Turn<'a> {
    /// Chooses the version to ask for this question: in a canary, the one in whose share the target is.
    fn of(plugin: &'a BoundPlugin, question: &Question) -> Self {
        let current = Self {
            plugin,
            version: &plugin.current,
            asked: Asked::Current,
            mode: plugin.mode,
        };
        let Mode::Canary(percent) = plugin.mode else {
            return current;
        };
        if in_share(plugin, &question.target.id, percent) {
            return Self {
                mode: Mode::Enforce,
                ..current
            };
        }
        current.before(Asked::VersionBefore).unwrap_or(Self {
            mode: Mode::Monitor,
            ..current
        })
    }

    fn is_called_at(&self, hook: Hook) -> bool {
        self.version.hooks.contains(&hook)
    }

    fn before(&self, asked: Asked) -> Option<Self> {
        Some(Self {
            plugin: self.plugin,
            version: self.plugin.before.as_ref()?,
            asked,
            mode: Mode::Enforce,
        })
    }

    /// Returns the previous version, if this failure falls back on it; a canary's failure always does.
    fn fallback(&self, failure: &Failure) -> Option<Self> {
        let canary = matches!(self.plugin.mode, Mode::Canary(_));
        let wanted = self.plugin.on_failure.action(failure.cause) == FailureAction::LastGoodVersion;
        if self.asked == Asked::Current && (canary || wanted) {
            self.before(Asked::Fallback)
        } else {
            None
        }
    }

    /// Applies the operator's choice for a failure that no previous version makes up for.
    fn after_failure(&self, failure: Failure) -> Result<Option<Vetted>, Failure> {
        match self.plugin.on_failure.action(failure.cause) {
            FailureAction::Skip => Ok(None),
            FailureAction::Deny | FailureAction::LastGoodVersion => Err(failure),
        }
    }

    /// Returns the record of a call that ended this way, with no usage and no log.
    fn record(&self, hook: Hook, end: CallEnd) -> DecisionRecord {
        DecisionRecord {
            binding_id: self.plugin.binding_id,
            plugin: self.plugin.name.clone(),
            version: self.version.version.clone(),
            digest: self.version.prepared.digest,
            config_digest: self.version.config_digest,
            hook,
            mode: self.mode,
            asked: self.asked,
            canary: match self.plugin.mode {
                Mode::Canary(percent) => Some(percent),
                Mode::Enforce | Mode::Monitor => None,
            },
            effects_so_far: None,
            effects_added: vec![],
            end,
            end_digest: None,
            refused: vec![],
            repaired: vec![],
            log: vec![],
            log_dropped: 0,
            usage: Usage::default(),
            failures_in_a_row: 0,
        }
    }

    fn failed(&self, failure: Failure) -> PluginFailure {
        PluginFailure {
            binding_id: self.plugin.binding_id,
            plugin: self.plugin.name.clone(),
            version: self.version.version.clone(),
            digest: self.version.prepared.digest,
            failure,
        }
    }
}

/// Returns whether a target is in a canary's share. By target, not by request: otherwise a caller who is denied
/// could ask again until the other version answers. Every version and binding has a different share of targets.
fn in_share(plugin: &BoundPlugin, target: &str, percent: u8) -> bool {
    let mut hash = Sha256::new();
    hash.update(plugin.binding_id.as_bytes());
    hash.update(plugin.current.prepared.digest.0);
    hash.update(plugin.current.config_digest.0);
    hash.update(target.as_bytes());
    let [a, b, c, d, ..] = <[u8; 32]>::from(hash.finalize());
    u32::from_be_bytes([a, b, c, d]) % 100 < u32::from(percent)
}
