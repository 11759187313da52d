//! Compares a candidate's answers with the recorded ones.

use serde_json::Value;

use super::recheck::nothing_said;
use super::recorded_calls::{ended_so, shown};
use super::replay_report::{Answered, Difference, ReplayReport};
use crate::domain::Result;
use crate::domain::policy::{Hook, Question};
use crate::plugin_host::{CallEnd, DecisionRecord, FailureCause};
use crate::store::decisions::DecidedRow;

/// Maximum differences that a report shows.
const DIFFERENCES_SHOWN: usize = 100;

/// Returns whether a call that failed for this cause fails every time, independently of the host and its load.
pub(super) fn comes_again(cause: FailureCause) -> bool {
    matches!(cause, FailureCause::Trap | FailureCause::HookError)
}

/// Compares texts, not values: a recorded answer must be repeated byte for byte. Of a failure only the cause is
/// compared, since its description is for people.
pub(super) fn note(
    report: &mut ReplayReport,
    decided: &DecidedRow,
    question: &Question,
    hook: Hook,
    recorded: Option<&DecisionRecord>,
    replayed: &CallEnd,
) -> Result<()> {
    report.compared += 1;
    let had_failed = recorded.and_then(|record| match &record.end {
        CallEnd::Failure(failure) => Some(failure.cause),
        CallEnd::Answer(_) => None,
    });
    let same = match (recorded, had_failed, replayed) {
        (_, Some(cause), CallEnd::Failure(failure)) => failure.cause == cause,
        (Some(record), ..) => ended_so(record, replayed)?,
        (None, ..) => *replayed == CallEnd::Answer(nothing_said(hook)),
    };
    if same {
        report.same += 1;
        return Ok(());
    }
    report.differing += 1;
    let fails = matches!(replayed, CallEnd::Failure(_));
    report.failed += u64::from(fails);
    report.mended += u64::from(had_failed.is_some() && !fails);
    if report.differences.len() < DIFFERENCES_SHOWN {
        report.differences.push(Difference {
            at: decided.at,
            entry_id: decided.entry_id,
            target: question.target.email.clone(),
            hook,
            answered: recorded.map(|record| Answered {
                binding: record.binding_id,
                mode: record.mode,
                version: record.version.clone(),
                digest: record.digest,
            }),
            recorded: match recorded {
                Some(record) => Value::from(&shown(&record.end)?),
                None => Value::Null,
            },
            replayed: Value::from(&shown(replayed)?),
        });
    }
    Ok(())
}
