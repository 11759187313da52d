//! A policy's question, its possible answers, and what of an answer counts.
//!
//! These types mirror `plugins/wit/v1/policy.wit` one to one and define their JSON form, which golden cases,
//! recorded decisions and replays share. [`vet`] is the only way by which a plugin's answer becomes a decision.
//! Nothing here knows wasmtime, the store or the clock.

mod vetting;

pub use vetting::{
    Answer, Decision, Grants, Mode, RefusedEffect, Vetted, is_kebab, merge_effects, refuse_surplus, vet,
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// A named fact or note. The names that this version knows are documented in `plugins/README.md`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attribute {
    /// What the value is about, kebab-case.
    pub name: String,
    /// The value as text.
    pub value: String,
}

/// The organisation in which the reset was requested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OrganizationFacts {
    /// Id (UUID).
    pub id: String,
    /// Name used at login.
    pub slug: String,
    /// Name shown to people.
    pub name: String,
    /// Whether every member must have MFA.
    pub mfa_required: bool,
}

/// The role of a user, in ascending order of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Uses the organisation's services; no power over others.
    Member,
    /// May reset members, if the organisation enabled this role.
    HelpDesk,
    /// Administers the organisation.
    OrgAdmin,
    /// Runs the node, from the command line.
    Operator,
}

/// The admin who asks for the reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Actor {
    /// Id (UUID).
    pub id: String,
    /// E-mail address.
    pub email: String,
    /// Name shown to people.
    pub name: Option<String>,
    /// Current role, from the database.
    pub role: Role,
    /// Whether the actor's own second factor was used in this session.
    pub second_factor_used: bool,
    /// Seconds since the actor last authenticated.
    pub authenticated_secs_ago: u32,
}

/// Kinds of second factor. A new kind must be covered by the reset: a test walks [`FactorKind::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FactorKind {
    /// Time-based one-time password (RFC 6238).
    Totp,
    /// WebAuthn credential.
    Passkey,
    /// A set of one-use recovery codes.
    RecoveryCodes,
}

impl FactorKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Totp, Self::Passkey, Self::RecoveryCodes];
}

/// One enrolled factor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FactorFacts {
    /// Kind of factor.
    pub kind: FactorKind,
    /// When it was enrolled; ms since the epoch in WIT, RFC 3339 in JSON.
    pub enrolled_at: Timestamp,
    /// When it was last used, if ever.
    pub last_used_at: Option<Timestamp>,
}

/// The user whose MFA is to be reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    /// Id (UUID).
    pub id: String,
    /// E-mail address.
    pub email: String,
    /// Name shown to people.
    pub name: Option<String>,
    /// Current role, from the database.
    pub role: Role,
    /// Whether the account is active.
    pub active: bool,
    /// Factors that the reset would remove.
    pub factors: Vec<FactorFacts>,
    /// Sessions that the reset would end.
    pub active_sessions: u32,
    /// When the account was created.
    pub created_at: Timestamp,
    /// The last complete login, if any.
    pub last_login_at: Option<Timestamp>,
}

/// The channel through which a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channel {
    /// The HTTP API.
    Api,
    /// The embedded web console.
    Console,
    /// The command line.
    Cli,
}

/// The request as the host received it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestFacts {
    /// Request id, the same as in `X-Request-Id`, the log and the audit entry.
    pub id: String,
    /// When the host received the request; a policy has no other clock.
    pub at: Timestamp,
    /// Minutes to add to UTC for the organisation's local time at `at`.
    pub utc_offset_minutes: i16,
    /// Channel of the request.
    pub channel: Channel,
    /// The client's IP address, proxies resolved.
    pub ip: Option<String>,
    /// `User-Agent` header.
    pub user_agent: Option<String>,
    /// Reason in the admin's words (at most 500 characters).
    pub reason: Option<String>,
    /// Ticket reference (at most 500 characters).
    pub ticket: Option<String>,
    /// Whether nothing will be carried out: a test, a replay, a "what if".
    pub dry_run: bool,
}

/// How a reset call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResultKind {
    /// Carried out.
    Done,
    /// Refused by a policy or a guard.
    Denied,
    /// Ended in an error.
    Failed,
}

/// One earlier reset call in this organisation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PastReset {
    /// When it was requested.
    pub at: Timestamp,
    /// Id of the admin who asked (UUID).
    pub actor_id: String,
    /// Id of the target (UUID).
    pub target_id: String,
    /// How it ended.
    pub outcome: ResultKind,
    /// Ticket reference, if one was given.
    pub ticket: Option<String>,
}

/// Earlier resets, newest first, and counts that include resets in progress: upper bounds, so that a budget
/// cannot be overrun by concurrent requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct History {
    /// Earlier calls on this target.
    pub of_target: Vec<PastReset>,
    /// Earlier calls by this actor.
    pub by_actor: Vec<PastReset>,
    /// Resets of the target in the last 24 hours.
    pub target_resets_last_day: u32,
    /// Resets of the target in the last 30 days.
    pub target_resets_last_30_days: u32,
    /// Resets by the actor in the last hour.
    pub actor_resets_last_hour: u32,
    /// Resets by the actor in the last 24 hours.
    pub actor_resets_last_day: u32,
    /// Resets in the organisation in the last hour.
    pub organization_resets_last_hour: u32,
    /// Resets in the organisation in the last 24 hours.
    pub organization_resets_last_day: u32,
}

impl History {
    /// As far back as a history reaches.
    pub const WHOLE: u16 = u16::MAX;

    /// Returns what a policy is shown of the lists (those of the target, those by the actor): no more than the last
    /// `days` before `at`, whatever other policies ask for.
    #[must_use]
    pub fn reaching_back(&self, days: u16, at: Timestamp) -> (&[PastReset], &[PastReset]) {
        let since = at.checked_sub(SignedDuration::from_hours(24 * i64::from(days)));
        let since = since.unwrap_or(Timestamp::MIN);
        let shown = |all: &[PastReset]| {
            if days == 0 {
                return 0;
            }
            all.iter().position(|past| past.at <= since).unwrap_or(all.len())
        };
        let (of_target, by_actor) = (shown(&self.of_target), shown(&self.by_actor));
        (&self.of_target[..of_target], &self.by_actor[..by_actor])
    }
}

/// Everything that a policy may know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Question {
    /// Organisation of the reset.
    pub organization: OrganizationFacts,
    /// Admin who asks for the reset.
    pub actor: Actor,
    /// User to be reset.
    pub target: Target,
    /// Request as the host received it.
    pub request: RequestFacts,
    /// Earlier resets.
    pub history: History,
    /// Facts added within contract versions 1.x.
    #[serde(default)]
    pub attributes: Vec<Attribute>,
}

impl Question {
    /// Leaves of the lists of earlier resets what reaches `days` back.
    pub fn limit_history(&mut self, days: u16) {
        let (of_target, by_actor) = self.history.reaching_back(days, self.request.at);
        let (of_target, by_actor) = (of_target.len(), by_actor.len());
        self.history.of_target.truncate(of_target);
        self.history.by_actor.truncate(by_actor);
    }
}

/// The recipients of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Audience {
    /// The user whose MFA was reset.
    Target,
    /// The admin who asked.
    Actor,
    /// Every admin of the organisation.
    OrgAdmins,
    /// The organisation's security contact.
    SecurityContact,
}

/// A message that a policy wants sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Notice {
    /// Recipients.
    pub to: Audience,
    /// Subject line.
    pub subject: String,
    /// Plain text.
    pub body: String,
}

/// An effect that a policy can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Require enrolment before anything else at the next login, within this many hours (0: the organisation's
    /// default).
    RequireEnrolment(u32),
    /// Require for enrolment a one-time code that only the admin is shown.
    RequireEnrolmentCode,
    /// End every session and refresh token of the user.
    RevokeSessions,
    /// Lock the account until an admin unlocks it.
    LockAccount,
    /// Send a message.
    Notify(Notice),
    /// Add a note to the audit entry.
    Annotate(Attribute),
    /// An effect newer than this contract version.
    Other(Attribute),
}

impl Effect {
    /// Names of the effects in contract 1.0.
    pub const NAMES: [&str; 6] = [
        "require-enrolment",
        "require-enrolment-code",
        "revoke-sessions",
        "lock-account",
        "notify",
        "annotate",
    ];

    /// Returns the effect's name in manifests and grants.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::RequireEnrolment(_) => "require-enrolment",
            Self::RequireEnrolmentCode => "require-enrolment-code",
            Self::RevokeSessions => "revoke-sessions",
            Self::LockAccount => "lock-account",
            Self::Notify(_) => "notify",
            Self::Annotate(_) => "annotate",
            Self::Other(attribute) => &attribute.name,
        }
    }
}

/// Why a policy denies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Denial {
    /// Stable code for programs, kebab-case: "outside-change-window".
    pub code: String,
    /// One sentence for the admin.
    pub message: String,
    /// Time from which the same request would be allowed, if the policy knows it.
    #[serde(default)]
    pub allowed_from: Option<Timestamp>,
    /// The facts that decided.
    #[serde(default)]
    pub because: Vec<Attribute>,
}

/// A demand that further admins agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApprovalDemand {
    /// Reason, shown to all admins involved.
    pub reason: String,
    /// Number of further admins.
    pub approvals: u8,
    /// Seconds for which the request stays open.
    pub expires_secs: u32,
}

/// A policy's answer before the reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Allow the reset, and commit these effects together with it.
    Allow(Vec<Effect>),
    /// Deny the reset.
    Deny(Denial),
    /// Allow the reset once further admins agree.
    RequireApproval(ApprovalDemand),
}

/// How the reset ends, exactly as it will be committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outcome {
    /// How it ends.
    pub kind: ResultKind,
    /// Factors that are removed.
    pub removed: Vec<FactorFacts>,
    /// Effects committed with it so far.
    pub effects: Vec<Effect>,
    /// The denial, if it ends in one.
    #[serde(default)]
    pub denial: Option<Denial>,
    /// Ids of the admins who agreed (UUIDs).
    #[serde(default)]
    pub approved_by: Vec<String>,
}

/// When a plugin is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// Before the reset: decides.
    BeforeReset,
    /// After the decision: adds effects.
    AfterReset,
}

/// A plugin's description of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// Name, kebab-case.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// One sentence.
    pub summary: String,
    /// Hooks that it implements.
    pub hooks: Vec<Hook>,
    /// Names of the effects that it may ask for.
    pub wants: Vec<String>,
    /// How many days back `history` should reach (the host caps it).
    pub history_days: u16,
    /// JSON Schema (2020-12) of the configuration, as text.
    pub config_schema: String,
}
