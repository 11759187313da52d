//! What a candidate answers, compared with what is recorded.

use serde_json::Value;

use super::again::nothing_said;
use super::kept::{ended_so, shown};
use super::replayed::{Answered, Difference, ReplayReport};
use crate::domain::Result;
use crate::domain::policy::{Hook, Question};
use crate::plugin_host::{CallEnd, DecisionRecord, FailureCause};
use crate::store::decisions::DecidedRow;

/// Differences that a report shows.
const DIFFERENCES_SHOWN: usize = 100;

/// Whether a call that failed so fails so each time: the host and how busy it is have no part in it.
pub(super) fn comes_again(cause: FailureCause) -> bool {
    matches!(cause, FailureCause::Trap | FailureCause::HookError)
}

/// Compares texts, not values: what is recorded must come again byte for byte. Of a failure the cause must: what is
/// said of it is for people.
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
