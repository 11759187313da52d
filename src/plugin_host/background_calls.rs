//! Calls that no reset waits for: at installation, when a configuration is saved, golden cases, replays.
//!
//! They never take an instance or memory that a reset needs, and they run on the low-priority threads, since nothing but
//! their own budgets bounds how long they take.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cases::{Case, CaseError, CaseReport};
use super::engine::{CpuClock, Limits, Party};
use super::manifest::{self, ConfigError, check_config};
use super::package::PackageError;
use super::record::CallEnd;
use super::v1::{self, Asked, Call, Ran, Reply};
use super::{PluginHost, Prepared};
use crate::domain::policy::{History, Manifest, Outcome, Question};

/// A call that owns its arguments, so that it can run on another thread than the one that requested it.
pub(super) enum Errand {
    Describe,
    CheckConfig(String),
    BeforeReset(Box<Question>, String),
    AfterReset(Box<Question>, Box<Outcome>, String),
}

impl Errand {
    fn call(&self) -> Call<'_> {
        match self {
            Self::Describe => Call::Describe,
            Self::CheckConfig(config) => Call::CheckConfig(config),
            Self::BeforeReset(question, config) => Call::BeforeReset(whole(question), config),
            Self::AfterReset(question, outcome, config) => Call::AfterReset(whole(question), outcome, config),
        }
    }
}

/// A question of which the plugin is shown all that there is.
fn whole(question: &Question) -> Asked<'_> {
    Asked {
        question,
        history_days: History::WHOLE,
    }
}

impl PluginHost {
    /// Calls `describe` and checks the manifest.
    ///
    /// # Errors
    /// `describe` failed, or the manifest is not acceptable.
    pub async fn describe(&self, prepared: &Arc<Prepared>) -> Result<Manifest, PackageError> {
        let ran = self
            .aside(prepared, Limits::at_installation(), Errand::Describe)
            .await;
        match ran.reply.map_err(PackageError::Describe)? {
            Reply::Manifest(manifest) => manifest::check(manifest),
            Reply::Answer(_) | Reply::Config(_) => unreachable!("describe replies with a manifest"),
        }
    }

    /// Checks a configuration against the plugin's schema, then with its own `check-config`.
    ///
    /// # Errors
    /// What is wrong with it, with the path inside the configuration where the schema reports it.
    pub async fn check_config(
        &self,
        prepared: &Arc<Prepared>,
        manifest: &Manifest,
        config: &str,
    ) -> Result<(), ConfigError> {
        check_config(manifest, config)?;
        let errand = Errand::CheckConfig(config.to_owned());
        let ran = self.aside(prepared, Limits::at_installation(), errand).await;
        match ran.reply.map_err(ConfigError::Failed)? {
            Reply::Config(verdict) => verdict.map_err(ConfigError::Refused),
            Reply::Answer(_) | Reply::Manifest(_) => unreachable!("check-config replies with ok or an error"),
        }
    }

    /// Asks a recorded question again, of the module that answered it or of one that may replace it. Not
    /// counted in the metrics.
    pub async fn ask_again(
        &self,
        prepared: &Arc<Prepared>,
        limits: Limits,
        config: &str,
        question: &Question,
        history_days: u16,
        outcome: Option<&Outcome>,
    ) -> CallEnd {
        let (mut question, config) = (Box::new(question.clone()), config.to_owned());
        question.limit_history(history_days);
        let errand = match outcome {
            None => Errand::BeforeReset(question, config),
            Some(outcome) => Errand::AfterReset(question, Box::new(outcome.clone()), config),
        };
        self.aside(prepared, limits, errand).await.end().0
    }

    /// Runs a resolved case on the calling thread, so that a benchmark can measure that thread.
    ///
    /// # Errors
    /// The case is not resolved.
    pub async fn run_case(
        &self,
        prepared: &Prepared,
        limits: Limits,
        case: &Case,
    ) -> Result<CaseReport, CaseError> {
        let errand = case.errand()?;
        let _turn = self.turn_aside().await;
        let (limits, clock) = (limits.bounded(), Arc::default());
        let ran = v1::run(
            &self.0.ticked,
            prepared,
            Party::Aside,
            limits,
            &clock,
            errand.call(),
        )
        .await;
        case.judge(ran)
    }

    /// Runs the resolved cases embedded in a file, as each installation does, and calls `done` after each.
    /// Stops at the first case that fails and returns it.
    ///
    /// # Errors
    /// A case is not resolved, or the cases together exceed the installation's time limit. Each single case may
    /// use its whole budget, as an author may expect.
    pub async fn run_cases(
        &self,
        prepared: &Arc<Prepared>,
        cases: &[Case],
        mut done: impl FnMut(u64),
    ) -> Result<Option<CaseReport>, CaseError> {
        let limit = self.0.cases_limit;
        let (started, mut cpu) = (Instant::now(), Duration::ZERO);
        for (nth, case) in (1..).zip(cases) {
            // CPU time, as for compilation, so that a busy machine is not held against them; wall clock as a
            // backstop.
            if cpu > limit || started.elapsed() > limit * WALL_PER_CPU {
                return Err(CaseError::TooLong {
                    limit_secs: limit.as_secs(),
                });
            }
            let ran = self
                .aside(prepared, Limits::at_installation(), case.errand()?)
                .await;
            cpu += ran.cpu;
            let report = case.judge(ran)?;
            if !report.passed {
                return Ok(Some(report));
            }
            done(nth);
        }
        Ok(None)
    }

    async fn aside(&self, prepared: &Arc<Prepared>, limits: Limits, errand: Errand) -> Ran {
        let _turn = self.turn_aside().await;
        let (host, prepared, clock) = (
            Arc::clone(&self.0),
            Arc::clone(prepared),
            Arc::<CpuClock>::default(),
        );
        let (own, limits) = (Arc::clone(&clock), limits.bounded());
        let call =
            async move { v1::run(&host.ticked, &prepared, Party::Aside, limits, &own, errand.call()).await };
        self.0.lanes.run(true, &clock, call).await
    }

    async fn turn_aside(&self) -> tokio::sync::SemaphorePermit<'_> {
        let turn = self.0.aside.acquire().await;
        turn.expect("the semaphore is never closed")
    }
}

/// Maximum concurrent calls that no reset waits for.
pub(super) const ASIDE: u32 = 4;
const WALL_PER_CPU: u32 = 10;
