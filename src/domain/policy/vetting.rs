//! The only way by which a plugin's answer becomes a decision.
//!
//! [`vet`] is total: whatever a plugin answers, the result is safe. A denial is never lost to a formal fault (it
//! is repaired and stays a denial), an effect that was not granted or is out of bounds is refused and recorded,
//! and in [`Mode::Monitor`] nothing takes effect at all.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{ApprovalDemand, Attribute, Denial, Effect, Verdict};
use crate::domain::printable::{clip, moves_cursor};

/// A plugin's answer, in the form in which it is recorded, replayed and compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// `before-reset`: allow, with these effects.
    Allow(Vec<Effect>),
    /// `before-reset`: deny.
    Deny(Denial),
    /// `before-reset`: allow once further admins agree.
    RequireApproval(ApprovalDemand),
    /// `after-reset`: add these effects.
    Effects(Vec<Effect>),
}

impl From<Verdict> for Answer {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Allow(effects) => Self::Allow(effects),
            Verdict::Deny(denial) => Self::Deny(denial),
            Verdict::RequireApproval(approval) => Self::RequireApproval(approval),
        }
    }
}

/// Whether a binding's answers count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Evaluated, recorded and applied.
    #[default]
    Enforce,
    /// Evaluated and recorded, never applied.
    Monitor,
    /// Applied to this percentage of targets; for the others the previous version decides or, if there is none,
    /// the answer is only recorded.
    Canary(u8),
}

/// Names of the effects that an operator granted to a binding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Grants(BTreeSet<String>);

impl Grants {
    /// Returns grants for every effect of contract 1.0.
    #[must_use]
    pub fn all() -> Self {
        Self::of(Effect::NAMES)
    }

    /// Returns grants for these effects only.
    pub fn of<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }

    /// Returns whether the effect of this name is granted.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// Returns the granted names that a manifest wants: the part of a binding's grants that a version gets.
    #[must_use]
    pub fn wanted(&self, wants: &[String]) -> Self {
        Self(
            self.0
                .iter()
                .filter(|name| wants.contains(name))
                .cloned()
                .collect(),
        )
    }

    /// Iterates over the granted names, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// An effect that a plugin asked for and the host refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RefusedEffect {
    /// The effect.
    pub effect: Effect,
    /// Reason for the refusal.
    pub why: String,
}

/// The decision about a reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// The reset may happen.
    Allow,
    /// The reset is denied.
    Deny(Denial),
    /// The reset may happen once further admins agree.
    RequireApproval(ApprovalDemand),
}

impl Decision {
    /// Combines the decisions of two policies: a denial overrides everything; two approvals become one that
    /// satisfies both (the larger number of admins, the shorter time).
    #[must_use]
    pub fn and(self, next: Self) -> Self {
        match (self, next) {
            (denied @ Self::Deny(_), _) | (_, denied @ Self::Deny(_)) => denied,
            (Self::Allow, other) | (other, Self::Allow) => other,
            (Self::RequireApproval(one), Self::RequireApproval(two)) => {
                let reason = if one.reason == two.reason {
                    one.reason
                } else {
                    clip(&format!("{} · {}", one.reason, two.reason), REASON_CHARS)
                };
                Self::RequireApproval(ApprovalDemand {
                    reason,
                    approvals: one.approvals.max(two.approvals),
                    expires_secs: one.expires_secs.min(two.expires_secs),
                })
            }
        }
    }
}

/// The part of an answer that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vetted {
    /// The decision; [`Decision::Allow`] in monitor mode and after the reset.
    pub decision: Decision,
    /// Effects to commit together with the reset.
    pub effects: Vec<Effect>,
    /// Effects that were asked for and refused.
    pub refused: Vec<RefusedEffect>,
    /// Corrections made to the answer, in words, for the plugin's author.
    pub repaired: Vec<String>,
}

/// Determines what of `answer` counts. See the module's documentation for the rules.
#[must_use]
pub fn vet(answer: Answer, grants: &Grants, mode: Mode) -> Vetted {
    let mut repaired = Vec::new();
    let (decision, asked) = match answer {
        Answer::Allow(effects) | Answer::Effects(effects) => (Decision::Allow, effects),
        Answer::Deny(denial) => (Decision::Deny(repair_denial(denial, &mut repaired)), vec![]),
        Answer::RequireApproval(approval) => (
            Decision::RequireApproval(repair_approval(approval, &mut repaired)),
            vec![],
        ),
    };

    let (mut effects, mut refused) = (Vec::new(), Vec::new());
    for effect in asked {
        match objection(&effect, grants, effects.len()) {
            None => effects.push(effect),
            Some(why) => refused.push(RefusedEffect { effect, why }),
        }
    }
    refused.truncate(REFUSALS_KEPT);

    match mode {
        // For a canary, the caller has already determined in which share the target is.
        Mode::Enforce | Mode::Canary(_) => Vetted {
            decision,
            effects,
            refused,
            repaired,
        },
        Mode::Monitor => Vetted {
            decision: Decision::Allow,
            effects: vec![],
            refused,
            repaired,
        },
    }
}

/// Adds `more` to `effects`: each effect once, and of several enrolment windows the shortest. The organisation's
/// default (0) is kept beside an explicit window, since only code that knows the default can tell which is
/// shorter.
pub fn merge_effects(effects: &mut Vec<Effect>, more: Vec<Effect>) {
    for effect in more {
        if let Effect::RequireEnrolment(hours @ 1..) = effect
            && let Some(Effect::RequireEnrolment(present)) = effects
                .iter_mut()
                .find(|e| matches!(e, Effect::RequireEnrolment(1..)))
        {
            *present = hours.min(*present);
        } else if !effects.contains(&effect) {
            effects.push(effect);
        }
    }
}

/// Removes from an answer's effects, `more`, the notices and annotations that exceed the limit of one reset: all of
/// them become part of its entry and of what every later policy is shown. The first of each answer always have room:
/// otherwise one policy could silence the notices of all later ones.
pub fn refuse_surplus(so_far: &[Effect], more: &mut Vec<Effect>) -> Vec<RefusedEffect> {
    let has_text = |effect: &Effect| matches!(effect, Effect::Notify(_) | Effect::Annotate(_));
    let used = so_far.iter().filter(|effect| has_text(effect)).count();
    let room = TEXTS_MAX.saturating_sub(used).max(TEXTS_GUARANTEED);
    let mut texts = 0;
    let surplus = more.extract_if(.., |effect| {
        texts += usize::from(has_text(effect));
        has_text(effect) && texts > room
    });
    let refused = |effect| RefusedEffect {
        effect,
        why: format!(
            "more than {TEXTS_MAX} notices and annotations at one reset, and more than {TEXTS_GUARANTEED} in this answer"
        ),
    };
    surplus.map(refused).collect()
}

/// Returns why `effect` is refused, if it is.
fn objection(effect: &Effect, grants: &Grants, given: usize) -> Option<String> {
    if let Effect::Other(attribute) = effect {
        return Some(format!(
            "this appliance knows no effect {:?}",
            clip(&attribute.name, NAME_CHARS)
        ));
    }
    if !grants.contains(effect.name()) {
        return Some(format!(
            "{} is not granted to this version: its manifest has to want it, and its binding to grant it",
            effect.name()
        ));
    }
    if given >= EFFECTS_MAX {
        return Some(format!("more than {EFFECTS_MAX} effects in one answer"));
    }
    match effect {
        Effect::RequireEnrolment(hours) if *hours > ENROLMENT_HOURS_MAX => Some(format!(
            "an enrolment window is at most {ENROLMENT_HOURS_MAX} hours, not {hours}"
        )),
        Effect::Notify(notice) => too_long("subject", &notice.subject, SUBJECT_CHARS)
            .or_else(|| too_long("body", &notice.body, BODY_CHARS))
            // A line break in a subject would let a plugin write mail headers.
            .or_else(|| has_control("subject", &notice.subject, &[]))
            .or_else(|| has_control("body", &notice.body, &IN_BODIES)),
        Effect::Annotate(note) => bad_attribute(note),
        _ => None,
    }
}

fn bad_attribute(attribute: &Attribute) -> Option<String> {
    if !is_kebab(&attribute.name) {
        return Some(format!("a name is kebab-case, 1 to {NAME_CHARS} characters"));
    }
    too_long("value", &attribute.value, VALUE_CHARS)
        .or_else(|| has_control("value", &attribute.value, &IN_BODIES))
}

fn too_long(what: &str, text: &str, max: usize) -> Option<String> {
    // Check bytes first: counting the characters of a megabyte is work that a hostile plugin could cause.
    let over = text.len() > max * 4 || text.chars().count() > max;
    over.then(|| format!("{what} is longer than {max} characters"))
}

fn has_control(what: &str, text: &str, allowed: &[char]) -> Option<String> {
    text.chars()
        .any(|c| moves_cursor(c) && !allowed.contains(&c))
        .then(|| format!("{what} contains control characters"))
}

/// Repairs a denial. It stays a denial whatever its form: otherwise, with the failure action "skip", a malformed
/// one would let the reset through.
fn repair_denial(mut denial: Denial, repaired: &mut Vec<String>) -> Denial {
    if !is_kebab(&denial.code) {
        repaired.push(format!("code is not kebab-case of 1 to {NAME_CHARS} characters"));
        DENIED.clone_into(&mut denial.code);
    }
    repair_text(
        "message",
        &mut denial.message,
        MESSAGE_CHARS,
        "The organisation's policy denies this reset.",
        repaired,
    );
    if denial.because.len() > FACTS_MAX {
        repaired.push(format!("more than {FACTS_MAX} facts"));
        denial.because.truncate(FACTS_MAX);
    }
    denial.because.retain_mut(|fact| {
        repair_text("fact", &mut fact.value, VALUE_CHARS, "", repaired);
        let named = is_kebab(&fact.name);
        if !named {
            repaired.push(format!(
                "a fact's name is not kebab-case of 1 to {NAME_CHARS} characters"
            ));
        }
        named
    });
    repaired.truncate(REFUSALS_KEPT);
    denial
}

fn repair_approval(mut approval: ApprovalDemand, repaired: &mut Vec<String>) -> ApprovalDemand {
    repair_text(
        "reason",
        &mut approval.reason,
        REASON_CHARS,
        "The organisation's policy asks for a second admin.",
        repaired,
    );
    if !(1..=APPROVALS_MAX).contains(&approval.approvals) {
        repaired.push(format!(
            "approvals is 1 to {APPROVALS_MAX}, not {}",
            approval.approvals
        ));
        approval.approvals = approval.approvals.clamp(1, APPROVALS_MAX);
    }
    if !(EXPIRY_SECS_MIN..=EXPIRY_SECS_MAX).contains(&approval.expires_secs) {
        repaired.push(format!(
            "expires-secs is {EXPIRY_SECS_MIN} to {EXPIRY_SECS_MAX}, not {}",
            approval.expires_secs
        ));
        approval.expires_secs = approval.expires_secs.clamp(EXPIRY_SECS_MIN, EXPIRY_SECS_MAX);
    }
    approval
}

fn repair_text(what: &str, text: &mut String, max: usize, instead: &str, repaired: &mut Vec<String>) {
    if has_control(what, text, &[]).is_some() || too_long(what, text, max).is_some() {
        repaired.push(format!(
            "{what} is longer than {max} characters or contains control characters"
        ));
        *text = clip(text, max);
    }
    if text.trim().is_empty() && !instead.is_empty() {
        repaired.push(format!("{what} is empty"));
        instead.clone_into(text);
    }
}

/// Returns whether the name is kebab-case: lower-case words of letters and digits joined by single hyphens,
/// starting with a letter.
#[must_use]
pub fn is_kebab(name: &str) -> bool {
    name.len() <= NAME_CHARS
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.split('-').all(|word| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        })
}

/// The code of a denial whose own code is malformed.
const DENIED: &str = "policy-denied";
const NAME_CHARS: usize = 64;
const VALUE_CHARS: usize = 1_000;
const MESSAGE_CHARS: usize = 500;
const REASON_CHARS: usize = 500;
const SUBJECT_CHARS: usize = 150;
const BODY_CHARS: usize = 4_000;
const FACTS_MAX: usize = 16;
const EFFECTS_MAX: usize = 16;
/// Notices and annotations of one reset; beyond them, only the guaranteed ones of each answer.
const TEXTS_MAX: usize = 32;
/// Notices and annotations for which each answer has room. With 20 policies of the node and 20 of the organisation,
/// asked twice, a reset has at most 32 + 80 × 2.
const TEXTS_GUARANTEED: usize = 2;
/// Control characters allowed in bodies: line ends, and the marks that a mail in Arabic or Hebrew may need.
const IN_BODIES: [char; 5] = ['\n', '\t', '\u{061c}', '\u{200e}', '\u{200f}'];
const REFUSALS_KEPT: usize = 32;
const APPROVALS_MAX: u8 = 3;
/// 30 days.
const ENROLMENT_HOURS_MAX: u32 = 720;
const EXPIRY_SECS_MIN: u32 = 60;
/// 7 days.
const EXPIRY_SECS_MAX: u32 = 7 * 86_400;

#[cfg(test)]
#[path = "vetting_tests.rs"]
mod tests;
