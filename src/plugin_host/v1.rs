//! The contract `latchkey:policy@1`: the only module that knows both its generated bindings and the domain's
//! types. A contract 2 would be a second module like this one.

mod lower;

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{Component, ComponentExportIndex, HasSelf, Instance, InstancePre};
use wasmtime::{Engine, Store};

use super::Prepared;
use super::engine::{CallState, CpuClock, Limits, Party, TickedEngine, metered};
use super::package::PackageError;
use super::printable::printable;
use super::record::{CallEnd, Failure, FailureCause, LogLevel, LogLine, Usage};
use crate::domain::policy::{self as domain, Answer, Manifest, Outcome, Question};
use bindings::latchkey::policy::{log, types};

mod bindings {
    wasmtime::component::bindgen!({
        path: "plugins/wit/v1",
        world: "policy",
        exports: { default: async },
        // Arguments are borrowed: a question is lowered without copying each of its strings.
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

/// Provides the imports of a policy.
pub(super) type Linker = wasmtime::component::Linker<CallState>;

/// A component whose imports are resolved and whose exports have been looked up.
pub(super) struct Pre {
    instance: InstancePre<CallState>,
    all: bindings::PolicyIndices,
    check_config: ComponentExportIndex,
    before_reset: ComponentExportIndex,
    after_reset: ComponentExportIndex,
}

impl Pre {
    /// Returns the component itself.
    pub(super) fn component(&self) -> &Component {
        self.instance.component()
    }
}

/// Returns a linker with the only import that a policy gets: `log`.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker> {
    let mut linker = Linker::new(engine);
    log::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
    types::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
    Ok(linker)
}

/// Resolves imports and exports. The types of the exports are checked on use: all of them by `describe`, which
/// every installation runs, and one by each call.
pub(super) fn prepare(linker: &Linker, component: &Component) -> Result<Pre, PackageError> {
    let refused = |error: wasmtime::Error| PackageError::Invalid(printable(&format!("{error:#}")));
    let instance = linker.instantiate_pre(component).map_err(refused)?;
    let all = bindings::PolicyIndices::new(&instance).map_err(refused)?;
    let hooks = component.get_export_index(None, HOOKS);
    let hook = |name| {
        let index = component.get_export_index(hooks.as_ref(), name);
        index.ok_or_else(|| PackageError::Invalid(format!("{HOOKS} has no function {name}")))
    };
    Ok(Pre {
        check_config: hook("check-config")?,
        before_reset: hook("before-reset")?,
        after_reset: hook("after-reset")?,
        instance,
        all,
    })
}

/// A question, and as much of its history as the plugin is shown.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) question: &'a Question,
    /// How far back the lists of earlier resets reach, in days.
    pub(super) history_days: u16,
}

/// One call of one export.
#[derive(Clone, Copy)]
pub(super) enum Call<'a> {
    Describe,
    CheckConfig(&'a str),
    BeforeReset(Asked<'a>, &'a str),
    AfterReset(Asked<'a>, &'a Outcome, &'a str),
}

/// What a call returned.
pub(super) enum Reply {
    Manifest(Manifest),
    Config(Result<(), String>),
    Answer(Answer),
}

/// A completed call.
pub(super) struct Ran {
    pub(super) reply: Result<Reply, Failure>,
    pub(super) usage: Usage,
    pub(super) log: Vec<LogLine>,
    pub(super) log_dropped: u32,
    /// CPU time of the call.
    pub(super) cpu: Duration,
    /// The longest CPU time for which it kept a thread without yielding.
    pub(super) longest: Duration,
}

impl Ran {
    fn unusable(why: &str) -> Self {
        Self {
            reply: Err(Failure {
                cause: FailureCause::Instantiation,
                detail: shown(&format!("the module can't be used: {why}")),
            }),
            usage: Usage::default(),
            log: Vec::new(),
            log_dropped: 0,
            cpu: Duration::ZERO,
            longest: Duration::ZERO,
        }
    }

    /// Returns how a call of a hook ended, and what it logged.
    pub(super) fn end(self) -> (CallEnd, Vec<LogLine>) {
        let end = match self.reply {
            Ok(Reply::Answer(answer)) => CallEnd::Answer(answer),
            Ok(Reply::Manifest(_) | Reply::Config(_)) => unreachable!("a hook replies with an answer"),
            Err(failure) => CallEnd::Failure(failure),
        };
        (end, self.log)
    }
}

/// Creates an instance, calls it on behalf of `party`, measured by `clock`, and drops it.
pub(super) async fn run(
    ticked: &TickedEngine,
    prepared: &Prepared,
    party: Party<'_>,
    limits: Limits,
    clock: &Arc<CpuClock>,
    call: Call<'_>,
) -> Ran {
    let pre = match &prepared.policy {
        Ok(pre) => pre,
        Err(why) => return Ran::unusable(why),
    };
    let (mut store, _in_flight) = ticked.store(party, limits, clock);
    let work = async {
        match pre.instance.instantiate_async(&mut store).await {
            Ok(instance) => match guest_call(pre, &instance, &mut store, call).await {
                Ok(reply) => reply,
                Err(error) => Err(failure(&error, store.data(), FailureCause::BadAnswer)),
            },
            Err(error) => Err(failure(&error, store.data(), FailureCause::Instantiation)),
        }
    };
    let reply = metered(clock, work).await;

    let fuel = ticked.meter_fuel.then(|| {
        let given = if limits.fuel == 0 { u64::MAX } else { limits.fuel };
        given - store.get_fuel().unwrap_or(0)
    });
    let state = store.data_mut();
    Ran {
        reply,
        usage: Usage {
            elapsed_micros: u64::try_from(state.elapsed().as_micros()).unwrap_or(u64::MAX),
            peak_memory_bytes: state.peak_memory_bytes(),
            fuel,
        },
        log: std::mem::take(&mut state.log),
        log_dropped: state.log_dropped,
        cpu: clock.spent(),
        longest: clock.longest(),
    }
}

/// Calls one export. Looks up only that function: checking the types of all four, as the generated bindings do
/// for each instance, costs more than a small policy's answer.
async fn guest_call(
    pre: &Pre,
    instance: &Instance,
    store: &mut Store<CallState>,
    call: Call<'_>,
) -> wasmtime::Result<Result<Reply, Failure>> {
    Ok(match call {
        Call::Describe => {
            let policy = pre.all.load(&mut *store, instance).map_err(other_types)?;
            Ok(Reply::Manifest(
                policy.latchkey_policy_hooks().call_describe(store).await?.into(),
            ))
        }
        Call::CheckConfig(config) => {
            type Results = (Result<(), String>,);
            let check = instance
                .get_typed_func::<(&str,), Results>(&mut *store, pre.check_config)
                .map_err(other_types)?;
            let (verdict,) = check.call_async(store, (config,)).await?;
            Ok(Reply::Config(verdict.map_err(|text| shown(&text))))
        }
        Call::BeforeReset(asked, config) => {
            type Params<'a> = (types::Question<'a>, &'a str);
            type Results = (Result<types::Verdict, String>,);
            let lent = lower::Question::of(asked.question, asked.history_days);
            let before = instance
                .get_typed_func::<Params<'_>, Results>(&mut *store, pre.before_reset)
                .map_err(other_types)?;
            match before.call_async(store, (lent.lend(), config)).await? {
                (Ok(verdict),) => Ok(Reply::Answer(domain::Verdict::from(verdict).into())),
                (Err(text),) => Err(hook_error(&text)),
            }
        }
        Call::AfterReset(asked, outcome, config) => {
            type Params<'a> = (types::Question<'a>, types::Outcome<'a>, &'a str);
            type Results = (Result<Vec<types::EffectResult>, String>,);
            let (lent, end) = (
                lower::Question::of(asked.question, asked.history_days),
                lower::Outcome::of(outcome),
            );
            let after = instance
                .get_typed_func::<Params<'_>, Results>(&mut *store, pre.after_reset)
                .map_err(other_types)?;
            match after.call_async(store, (lent.lend(), end.lend(), config)).await? {
                (Ok(effects),) => Ok(Reply::Answer(Answer::Effects(
                    effects.into_iter().map(Into::into).collect(),
                ))),
                (Err(text),) => Err(hook_error(&text)),
            }
        }
    })
}

fn other_types(error: wasmtime::Error) -> wasmtime::Error {
    error.context("the types of its exports are not those of the contract")
}

fn hook_error(text: &str) -> Failure {
    Failure {
        cause: FailureCause::HookError,
        detail: shown(text),
    }
}

/// Makes a plugin's text fit to be shown and logged.
fn shown(text: &str) -> String {
    printable(text).chars().take(DETAIL_CHARS).collect()
}

/// Returns why a call failed. The host's own refusals come first: guests turn them into misleading traps.
fn failure(error: &wasmtime::Error, state: &CallState, otherwise: FailureCause) -> Failure {
    if state.out_of_time {
        let detail = format!("not done after {} ms", state.limits().deadline_ms);
        return Failure {
            cause: FailureCause::Deadline,
            detail,
        };
    }
    if let Some(refused) = &state.refused_growth {
        return refused.clone();
    }
    let Some(trap) = error.downcast_ref::<wasmtime::Trap>() else {
        return Failure {
            cause: otherwise,
            detail: shown(&format!("{error:#}")),
        };
    };
    let cause = match trap {
        wasmtime::Trap::Interrupt => FailureCause::Deadline,
        wasmtime::Trap::OutOfFuel => FailureCause::Fuel,
        wasmtime::Trap::StackOverflow => FailureCause::Stack,
        wasmtime::Trap::InvalidChar => FailureCause::BadAnswer,
        _ => FailureCause::Trap,
    };
    Failure {
        cause,
        detail: shown(&trap.to_string()),
    }
}

impl log::Host for CallState {
    fn write(&mut self, level: log::Level, message: String) {
        let level = match level {
            log::Level::Debug => LogLevel::Debug,
            log::Level::Info => LogLevel::Info,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Error => LogLevel::Error,
        };
        self.log(level, message);
    }
}

impl types::Host for CallState {}

/// The exported interface; wasmtime accepts any version compatible with this one.
const HOOKS: &str = "latchkey:policy/hooks@1.0.0";
const DETAIL_CHARS: usize = 500;
