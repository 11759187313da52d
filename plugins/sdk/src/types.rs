//! The contract's types in Rust, one to one with `wit/policy.wit`.
//!
//! Their JSON form (golden cases, recorded decisions) has camelCase fields, kebab-case cases and
//! RFC 3339 times; in Rust and on the wire times are milliseconds since the epoch.

use serde::{Deserialize, Serialize};

use crate::time;

/// UTC, milliseconds since 1970-01-01T00:00:00Z.
pub type TimestampMs = u64;

macro_rules! wit_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$case_doc:meta])* $case:ident = $number:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[repr(u8)]
        pub enum $name { $($(#[$case_doc])* $case = $number),+ }

        impl $name {
            // What the generated bindings call; the host has checked the number.
            #[doc(hidden)]
            #[must_use]
            pub const unsafe fn _lift(number: u8) -> Self {
                match number {
                    $($number => Self::$case,)+
                    _ => panic!("no such case"),
                }
            }
        }
    };
}

/// A named fact or note. The names that a host version knows are in `plugins/README.md`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attribute {
    /// What the value is about, kebab-case.
    pub name: String,
    /// The value as text.
    pub value: String,
}

/// The organisation in which the reset was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Organization {
    /// UUID.
    pub id: String,
    /// The name used at login.
    pub slug: String,
    /// The name shown to people.
    pub name: String,
    /// Whether every member must have MFA.
    pub mfa_required: bool,
}

wit_enum! {
    /// What a person may do; the order is the order of power.
    Role {
        /// No power over others.
        Member = 0,
        /// May reset members.
        HelpDesk = 1,
        /// Administers the organisation.
        OrgAdmin = 2,
        /// Runs the node.
        Operator = 3,
    }
}

/// The admin who asks for the reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Actor {
    /// UUID.
    pub id: String,
    /// E-mail address.
    pub email: String,
    /// Name shown to people.
    pub name: Option<String>,
    /// Role now.
    pub role: Role,
    /// Whether the actor's own second factor was used in this session.
    pub second_factor_used: bool,
    /// Seconds since the actor last authenticated.
    pub authenticated_secs_ago: u32,
}

wit_enum! {
    /// Kinds of second factor.
    FactorKind {
        /// Time-based one-time password.
        Totp = 0,
        /// `WebAuthn` credential.
        Passkey = 1,
        /// A set of one-use recovery codes.
        RecoveryCodes = 2,
    }
}

/// One enrolled factor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Factor {
    /// What kind of factor.
    pub kind: FactorKind,
    /// When it was enrolled.
    #[serde(with = "time::rfc3339")]
    pub enrolled_at: TimestampMs,
    /// When it was last used, if ever.
    #[serde(default, with = "time::rfc3339_option")]
    pub last_used_at: Option<TimestampMs>,
}

/// The user whose MFA is to be reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    /// UUID.
    pub id: String,
    /// E-mail address.
    pub email: String,
    /// Name shown to people.
    pub name: Option<String>,
    /// Role now.
    pub role: Role,
    /// Whether the account is active.
    pub active: bool,
    /// Factors that the reset would remove.
    pub factors: Vec<Factor>,
    /// Sessions that the reset would end.
    pub active_sessions: u32,
    /// When the account was made.
    #[serde(with = "time::rfc3339")]
    pub created_at: TimestampMs,
    /// The last complete login, if any.
    #[serde(default, with = "time::rfc3339_option")]
    pub last_login_at: Option<TimestampMs>,
}

wit_enum! {
    /// Where the request came in.
    Channel {
        /// The HTTP API.
        Api = 0,
        /// The web console.
        Console = 1,
        /// The command line.
        Cli = 2,
    }
}

/// The request as the host took it in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    /// Request id, as in the log and the audit entry.
    pub id: String,
    /// The only clock there is: when the host took the request in.
    #[serde(with = "time::rfc3339")]
    pub at: TimestampMs,
    /// Minutes to add to UTC for the organisation's local time at `at`.
    pub utc_offset_minutes: i16,
    /// Where the request came in.
    pub channel: Channel,
    /// The client's address.
    pub ip: Option<String>,
    /// `User-Agent` header.
    pub user_agent: Option<String>,
    /// Why, in the admin's words.
    pub reason: Option<String>,
    /// Ticket reference.
    pub ticket: Option<String>,
    /// Nothing will be carried out: a test, a replay, a "what if".
    pub dry_run: bool,
}

wit_enum! {
    /// How a reset call ended.
    ResultKind {
        /// Carried out.
        Done = 0,
        /// Refused by a policy or a guard.
        Denied = 1,
        /// Ended in an error.
        Failed = 2,
    }
}

/// One earlier reset call in this organisation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PastReset {
    /// When it was asked for.
    #[serde(with = "time::rfc3339")]
    pub at: TimestampMs,
    /// Who asked (UUID).
    pub actor_id: String,
    /// On whom (UUID).
    pub target_id: String,
    /// How it ended.
    pub outcome: ResultKind,
    /// Ticket reference, if one was given.
    pub ticket: Option<String>,
}

/// Earlier resets, newest first, and counts. Counts include resets still under way, so that a
/// budget cannot be overrun by asking side by side.
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

/// Everything a policy may know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Question {
    /// Where.
    pub organization: Organization,
    /// By whom.
    pub actor: Actor,
    /// On whom.
    pub target: Target,
    /// How it was asked.
    pub request: Request,
    /// What happened before.
    pub history: History,
    /// Facts added within 1.x.
    #[serde(default)]
    pub attributes: Vec<Attribute>,
}

wit_enum! {
    /// Who receives a notice.
    Audience {
        /// The user whose MFA was reset.
        Target = 0,
        /// The admin who asked.
        Actor = 1,
        /// Every admin of the organisation.
        OrgAdmins = 2,
        /// The organisation's security contact.
        SecurityContact = 3,
    }
}

/// A message that a policy wants sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Notice {
    /// To whom.
    pub to: Audience,
    /// Subject line.
    pub subject: String,
    /// Plain text.
    pub body: String,
}

/// What a policy can ask the host to do. The host does only what the operator granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// At the next login the user must enrol before anything else, within this many hours
    /// (0: the organisation's default).
    RequireEnrolment(u32),
    /// Enrolment asks for a one-time code that only the admin is shown.
    RequireEnrolmentCode,
    /// End every session and refresh token of the user (a reset always does).
    RevokeSessions,
    /// Lock the account until an admin unlocks it.
    LockAccount,
    /// Send a message.
    Notify(Notice),
    /// Keep a note in the audit entry.
    Annotate(Attribute),
    /// An effect newer than this contract.
    Other(Attribute),
}

/// Why a policy says no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Denial {
    /// Stable word for programs, kebab-case: "outside-change-window".
    pub code: String,
    /// One sentence for the admin.
    pub message: String,
    /// From when on the same request would be allowed, if the policy knows.
    #[serde(default, with = "time::rfc3339_option", skip_serializing_if = "Option::is_none")]
    pub allowed_from: Option<TimestampMs>,
    /// The facts that decided.
    #[serde(default)]
    pub because: Vec<Attribute>,
}

/// A second admin has to agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Approval {
    /// Why, for both admins.
    pub reason: String,
    /// How many further admins.
    pub approvals: u8,
    /// For how many seconds the request stays open.
    pub expires_secs: u32,
}

/// A policy's answer before the reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Go on, with these effects committed together with the reset.
    Allow(Vec<Effect>),
    /// Stop.
    Deny(Denial),
    /// A second admin has to agree first.
    RequireApproval(Approval),
}

/// How the reset ends, exactly as it will be committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outcome {
    /// How it ends.
    pub kind: ResultKind,
    /// Factors that are removed.
    pub removed: Vec<Factor>,
    /// Effects committed with it so far.
    pub effects: Vec<Effect>,
    /// The denial, if it ends in one.
    #[serde(default)]
    pub denial: Option<Denial>,
    /// Admins who agreed (UUIDs).
    #[serde(default)]
    pub approved_by: Vec<String>,
}

wit_enum! {
    /// When a plugin is called.
    Hook {
        /// Decides.
        BeforeReset = 0,
        /// Adds effects to what was decided.
        AfterReset = 1,
    }
}

/// What a plugin says of itself, as the host sees it. Authors write a [`crate::Manifest`] const.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// Name, kebab-case.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// One sentence.
    pub summary: String,
    /// Hooks it implements.
    pub hooks: Vec<Hook>,
    /// Names of the effects it may ask for.
    pub wants: Vec<String>,
    /// How far back `history` should reach, in days.
    pub history_days: u16,
    /// JSON Schema (2020-12) of the configuration.
    pub config_schema: String,
}

/// How much a log line matters.
pub use crate::bindings::latchkey::policy::log::Level;
