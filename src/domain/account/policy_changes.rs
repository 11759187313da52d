//! Who may change the policies that judge an organisation's resets.

use serde::{Deserialize, Serialize};

use super::{May, OrganizationSettings};
use crate::domain::error::{Error, Result};

/// Whether an admin may change bound policies. Ordered from the loosest to the strictest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyChanges {
    /// Allowed; but once a policy has demanded a second admin for a reset, changing it needs one, too.
    #[default]
    Allowed,
    /// Allowed only if a second admin agrees.
    SecondAdmin,
    /// Refused: only the operator may, at the command line.
    OperatorOnly,
}

/// Decides whether an admin may change, roll back, switch off or remove a bound policy. `demanded_approval`: the
/// policy has demanded a second admin before (ASVS 2.3.5).
///
/// # Errors
/// [`Error::MayNotAct`] if only the operator may.
pub fn may_change_policy(settings: &OrganizationSettings, demanded_approval: bool) -> Result<May> {
    match settings.policy_changes {
        PolicyChanges::Allowed if !demanded_approval => Ok(May::Yes),
        PolicyChanges::Allowed | PolicyChanges::SecondAdmin => Ok(May::WithSecondAdmin),
        PolicyChanges::OperatorOnly => Err(Error::MayNotAct(
            "Policies of this organisation are changed by the operator alone, at the command line",
        )),
    }
}

/// Checks that an admin may change the rules about policies: only to stricter ones, since an admin who could
/// loosen them would not be bound by them.
///
/// # Errors
/// [`Error::MayNotAct`].
pub fn may_loosen_policy_rules(from: &OrganizationSettings, to: &OrganizationSettings) -> Result<()> {
    if to.policy_changes < from.policy_changes || (from.clean_replay_required && !to.clean_replay_required) {
        return Err(Error::MayNotAct(
            "Only the operator can loosen the rules about policies, at the command line",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_change_a_policy_and_the_rules_about_them() {
        let rules = [
            PolicyChanges::Allowed,
            PolicyChanges::SecondAdmin,
            PolicyChanges::OperatorOnly,
        ];
        let with = |policy_changes, clean_replay_required| OrganizationSettings {
            clean_replay_required,
            policy_changes,
            ..OrganizationSettings::default()
        };
        let may = |rule, demanded| may_change_policy(&with(rule, false), demanded).ok();
        assert_eq!(
            rules.map(|rule| [may(rule, false), may(rule, true)]),
            [
                [Some(May::Yes), Some(May::WithSecondAdmin)],
                [Some(May::WithSecondAdmin); 2],
                [None; 2]
            ]
        );
        for from in rules {
            for to in rules {
                for (before, after) in [(false, false), (false, true), (true, true), (true, false)] {
                    let looser = to < from || (before && !after);
                    let refused = may_loosen_policy_rules(&with(from, before), &with(to, after)).is_err();
                    assert_eq!(refused, looser, "{from:?} {before} to {to:?} {after}");
                }
            }
        }
    }
}
