//! Converts between the domain's types and the contract's. Lists are converted, strings are borrowed.

use jiff::Timestamp;

use super::bindings::latchkey::policy::types as wit;
use crate::domain::policy as domain;

/// A question, ready to be lent to a guest; owns the converted lists.
pub(super) struct Question<'a> {
    asked: &'a domain::Question,
    factors: Vec<wit::Factor>,
    of_target: Vec<wit::PastReset<'a>>,
    by_actor: Vec<wit::PastReset<'a>>,
    attributes: Vec<wit::AttributeParam<'a>>,
}

impl<'a> Question<'a> {
    /// `history_days`: how far back the lists of earlier resets reach.
    pub(super) fn of(question: &'a domain::Question, history_days: u16) -> Self {
        let (of_target, by_actor) = question.history.reaching_back(history_days, question.request.at);
        Self {
            asked: question,
            factors: question.target.factors.iter().map(factor).collect(),
            of_target: of_target.iter().map(past_reset).collect(),
            by_actor: by_actor.iter().map(past_reset).collect(),
            attributes: question.attributes.iter().map(attribute).collect(),
        }
    }

    pub(super) fn lend(&self) -> wit::Question<'_> {
        let domain::Question {
            organization,
            actor,
            target,
            request,
            history,
            ..
        } = self.asked;
        wit::Question {
            organization: wit::Organization {
                id: &organization.id,
                slug: &organization.slug,
                name: &organization.name,
                mfa_required: organization.mfa_required,
            },
            actor: wit::Actor {
                id: &actor.id,
                email: &actor.email,
                name: actor.name.as_deref(),
                role: role(actor.role),
                second_factor_used: actor.second_factor_used,
                authenticated_secs_ago: actor.authenticated_secs_ago,
            },
            target: wit::Target {
                id: &target.id,
                email: &target.email,
                name: target.name.as_deref(),
                role: role(target.role),
                active: target.active,
                factors: &self.factors,
                active_sessions: target.active_sessions,
                created_at: millis(target.created_at),
                last_login_at: target.last_login_at.map(millis),
            },
            request: wit::Request {
                id: &request.id,
                at: millis(request.at),
                utc_offset_minutes: request.utc_offset_minutes,
                channel: match request.channel {
                    domain::Channel::Api => wit::Channel::Api,
                    domain::Channel::Console => wit::Channel::Console,
                    domain::Channel::Cli => wit::Channel::Cli,
                },
                ip: request.ip.as_deref(),
                user_agent: request.user_agent.as_deref(),
                reason: request.reason.as_deref(),
                ticket: request.ticket.as_deref(),
                dry_run: request.dry_run,
            },
            history: wit::History {
                of_target: &self.of_target,
                by_actor: &self.by_actor,
                target_resets_last_day: history.target_resets_last_day,
                target_resets_last_30_days: history.target_resets_last_30_days,
                actor_resets_last_hour: history.actor_resets_last_hour,
                actor_resets_last_day: history.actor_resets_last_day,
                organization_resets_last_hour: history.organization_resets_last_hour,
                organization_resets_last_day: history.organization_resets_last_day,
            },
            attributes: &self.attributes,
        }
    }
}

/// An outcome, ready to be lent to a guest.
pub(super) struct Outcome<'a> {
    kind: wit::ResultKind,
    removed: Vec<wit::Factor>,
    effects: Vec<wit::EffectParam<'a>>,
    because: Vec<wit::AttributeParam<'a>>,
    denial: Option<&'a domain::Denial>,
    approved_by: Vec<&'a str>,
}

impl<'a> Outcome<'a> {
    pub(super) fn of(outcome: &'a domain::Outcome) -> Self {
        Self {
            kind: result_kind(outcome.kind),
            removed: outcome.removed.iter().map(factor).collect(),
            effects: outcome.effects.iter().map(effect).collect(),
            because: outcome
                .denial
                .iter()
                .flat_map(|denial| &denial.because)
                .map(attribute)
                .collect(),
            denial: outcome.denial.as_ref(),
            approved_by: outcome.approved_by.iter().map(String::as_str).collect(),
        }
    }

    pub(super) fn lend(&self) -> wit::Outcome<'_> {
        wit::Outcome {
            kind: self.kind,
            removed: &self.removed,
            effects: &self.effects,
            denial: self.denial.map(|denial| wit::DenialParam {
                code: &denial.code,
                message: &denial.message,
                allowed_from: denial.allowed_from.map(millis),
                because: &self.because,
            }),
            approved_by: &self.approved_by,
        }
    }
}

fn role(role: domain::Role) -> wit::Role {
    match role {
        domain::Role::Member => wit::Role::Member,
        domain::Role::HelpDesk => wit::Role::HelpDesk,
        domain::Role::OrgAdmin => wit::Role::OrgAdmin,
        domain::Role::Operator => wit::Role::Operator,
    }
}

fn factor(factor: &domain::FactorFacts) -> wit::Factor {
    wit::Factor {
        kind: match factor.kind {
            domain::FactorKind::Totp => wit::FactorKind::Totp,
            domain::FactorKind::Passkey => wit::FactorKind::Passkey,
            domain::FactorKind::RecoveryCodes => wit::FactorKind::RecoveryCodes,
        },
        enrolled_at: millis(factor.enrolled_at),
        last_used_at: factor.last_used_at.map(millis),
    }
}

fn past_reset(past: &domain::PastReset) -> wit::PastReset<'_> {
    wit::PastReset {
        at: millis(past.at),
        actor_id: &past.actor_id,
        target_id: &past.target_id,
        outcome: result_kind(past.outcome),
        ticket: past.ticket.as_deref(),
    }
}

fn result_kind(kind: domain::ResultKind) -> wit::ResultKind {
    match kind {
        domain::ResultKind::Done => wit::ResultKind::Done,
        domain::ResultKind::Denied => wit::ResultKind::Denied,
        domain::ResultKind::Failed => wit::ResultKind::Failed,
    }
}

fn attribute(attribute: &domain::Attribute) -> wit::AttributeParam<'_> {
    wit::AttributeParam {
        name: &attribute.name,
        value: &attribute.value,
    }
}

fn effect(effect: &domain::Effect) -> wit::EffectParam<'_> {
    match effect {
        domain::Effect::RequireEnrolment(hours) => wit::EffectParam::RequireEnrolment(*hours),
        domain::Effect::RequireEnrolmentCode => wit::EffectParam::RequireEnrolmentCode,
        domain::Effect::RevokeSessions => wit::EffectParam::RevokeSessions,
        domain::Effect::LockAccount => wit::EffectParam::LockAccount,
        domain::Effect::Notify(notice) => wit::EffectParam::Notify(wit::NoticeParam {
            to: match notice.to {
                domain::Audience::Target => wit::Audience::Target,
                domain::Audience::Actor => wit::Audience::Actor,
                domain::Audience::OrgAdmins => wit::Audience::OrgAdmins,
                domain::Audience::SecurityContact => wit::Audience::SecurityContact,
            },
            subject: &notice.subject,
            body: &notice.body,
        }),
        domain::Effect::Annotate(note) => wit::EffectParam::Annotate(attribute(note)),
        domain::Effect::Other(other) => wit::EffectParam::Other(attribute(other)),
    }
}

/// Converts to milliseconds since the epoch; earlier times, which no host produces, become 0.
fn millis(at: Timestamp) -> u64 {
    u64::try_from(at.as_millisecond()).unwrap_or(0)
}

/// Converts a plugin's time, which may be any number; `None` if it is not a valid time.
fn timestamp(millis: u64) -> Option<Timestamp> {
    i64::try_from(millis)
        .ok()
        .and_then(|millis| Timestamp::from_millisecond(millis).ok())
}

impl From<wit::AttributeResult> for domain::Attribute {
    fn from(attribute: wit::AttributeResult) -> Self {
        Self {
            name: attribute.name,
            value: attribute.value,
        }
    }
}

impl From<wit::EffectResult> for domain::Effect {
    fn from(effect: wit::EffectResult) -> Self {
        match effect {
            wit::EffectResult::RequireEnrolment(hours) => Self::RequireEnrolment(hours),
            wit::EffectResult::RequireEnrolmentCode => Self::RequireEnrolmentCode,
            wit::EffectResult::RevokeSessions => Self::RevokeSessions,
            wit::EffectResult::LockAccount => Self::LockAccount,
            wit::EffectResult::Notify(notice) => Self::Notify(domain::Notice {
                to: match notice.to {
                    wit::Audience::Target => domain::Audience::Target,
                    wit::Audience::Actor => domain::Audience::Actor,
                    wit::Audience::OrgAdmins => domain::Audience::OrgAdmins,
                    wit::Audience::SecurityContact => domain::Audience::SecurityContact,
                },
                subject: notice.subject,
                body: notice.body,
            }),
            wit::EffectResult::Annotate(note) => Self::Annotate(note.into()),
            wit::EffectResult::Other(other) => Self::Other(other.into()),
        }
    }
}

impl From<wit::Verdict> for domain::Verdict {
    fn from(verdict: wit::Verdict) -> Self {
        match verdict {
            wit::Verdict::Allow(effects) => Self::Allow(effects.into_iter().map(Into::into).collect()),
            wit::Verdict::Deny(denial) => Self::Deny(domain::Denial {
                code: denial.code,
                message: denial.message,
                allowed_from: denial.allowed_from.and_then(timestamp),
                because: denial.because.into_iter().map(Into::into).collect(),
            }),
            wit::Verdict::RequireApproval(approval) => Self::RequireApproval(domain::ApprovalDemand {
                reason: approval.reason,
                approvals: approval.approvals,
                expires_secs: approval.expires_secs,
            }),
        }
    }
}

impl From<wit::Manifest> for domain::Manifest {
    fn from(manifest: wit::Manifest) -> Self {
        Self {
            name: manifest.name,
            version: manifest.version,
            summary: manifest.summary,
            hooks: manifest
                .hooks
                .into_iter()
                .map(|hook| match hook {
                    wit::Hook::BeforeReset => domain::Hook::BeforeReset,
                    wit::Hook::AfterReset => domain::Hook::AfterReset,
                })
                .collect(),
            wants: manifest.wants,
            history_days: manifest.history_days,
            config_schema: manifest.config_schema,
        }
    }
}
