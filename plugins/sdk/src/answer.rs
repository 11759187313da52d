//! Short ways to write an answer.

use crate::types::{Approval, Attribute, Audience, Denial, Effect, Notice, TimestampMs, Verdict};

/// What `before_reset` returns.
pub type Decision = Result<Verdict, String>;

/// What `after_reset` returns.
pub type Effects = Result<Vec<Effect>, String>;

/// Go on.
///
/// # Errors
/// Never; the type is that of a decision.
#[expect(clippy::unnecessary_wraps, reason = "so that an author writes `return allow()`")]
pub fn allow() -> Decision {
    Ok(Verdict::Allow(Vec::new()))
}

/// Go on, with these effects committed together with the reset.
///
/// # Errors
/// Never; the type is that of a decision.
#[expect(clippy::unnecessary_wraps, reason = "as above")]
pub fn allow_with(effects: impl Into<Vec<Effect>>) -> Decision {
    Ok(Verdict::Allow(effects.into()))
}

/// Stop. `code` is a stable word for programs, `message` one sentence for the admin.
pub fn deny(code: impl Into<String>, message: impl Into<String>) -> Denial {
    Denial { code: code.into(), message: message.into(), allowed_from: None, because: Vec::new() }
}

/// A second admin has to agree, within 24 hours.
pub fn require_approval(reason: impl Into<String>) -> Approval {
    Approval { reason: reason.into(), approvals: 1, expires_secs: 24 * 60 * 60 }
}

/// A message to someone.
pub fn notify(to: Audience, subject: impl Into<String>, body: impl Into<String>) -> Effect {
    Effect::Notify(Notice { to, subject: subject.into(), body: body.into() })
}

/// A note in the audit entry.
pub fn annotate(name: impl Into<String>, value: impl Fact) -> Effect {
    Effect::Annotate(Attribute { name: name.into(), value: value.into_text() })
}

impl Denial {
    /// Adds a fact that decided.
    #[must_use]
    pub fn because(mut self, name: impl Into<String>, value: impl Fact) -> Self {
        self.because.push(Attribute { name: name.into(), value: value.into_text() });
        self
    }

    /// Says from when on the same request would be allowed, where that is known.
    #[must_use]
    pub fn allowed_from(mut self, at: impl Into<Option<TimestampMs>>) -> Self {
        self.allowed_from = at.into();
        self
    }
}

impl Approval {
    /// How many further admins have to agree.
    #[must_use]
    pub fn approvals(mut self, approvals: u8) -> Self {
        self.approvals = approvals;
        self
    }

    /// For how many seconds the request stays open.
    #[must_use]
    pub fn expires_secs(mut self, secs: u32) -> Self {
        self.expires_secs = secs;
        self
    }
}

impl From<Denial> for Decision {
    fn from(denial: Denial) -> Self {
        Ok(Verdict::Deny(denial))
    }
}

impl From<Approval> for Decision {
    fn from(approval: Approval) -> Self {
        Ok(Verdict::RequireApproval(approval))
    }
}

/// What can stand as a fact's value: text and whole numbers.
pub trait Fact {
    /// The value as text.
    fn into_text(self) -> String;
}

impl Fact for String {
    fn into_text(self) -> String {
        self
    }
}

impl Fact for &str {
    fn into_text(self) -> String {
        self.into()
    }
}

impl Fact for u32 {
    fn into_text(self) -> String {
        self.to_string()
    }
}

impl Fact for u64 {
    fn into_text(self) -> String {
        self.to_string()
    }
}

impl Fact for bool {
    fn into_text(self) -> String {
        if self { "true" } else { "false" }.into()
    }
}
