//! Notices to people: queued in the transaction of the change they report, sent after it commits.
//!
//! A mail's payload is `{to, subject, body}`, or `{to, subject, sealedBody}` if the body contains a link that
//! grants something, which a copy of the database alone must not reveal. [`read_mail`] reads both.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::reset::{ResetCase, ResetOrder};
use super::{RequestContext, Services, deliveries, not_me};
pub use crate::courier::Mail;
use crate::courier::webhook::check_url;
use crate::domain::account::{Organization, User};
use crate::domain::policy::{self, Audience, Effect, Notice};
use crate::domain::{Error, Result};
use crate::keys::KeyRing;
use crate::store::deliveries::{Channel, OwedDelivery};

/// Returns a reset's deliveries: the notice to the user that ASVS 6.3.7 requires, and those requested by
/// policies.
#[must_use]
pub fn of_reset(
    services: &Services,
    case: &ResetCase,
    order: &ResetOrder,
    effects: &[Effect],
) -> Vec<OwedDelivery> {
    let what = format!("reset the second factor of your account {}", case.target.email);
    let mut owed = of_effects(services, case, effects);
    let told = of_change(
        services,
        &Changed {
            organization: &case.organization,
            target: &case.target,
            by: &case.actor,
            subject: "Your second factor was reset",
            what: &what,
            then: "All your sessions were ended.",
            event: "user.mfa.reset",
        },
        &order.context,
    );
    owed.extend(told.into_iter().map(with_receipt));
    owed
}

/// A change of a user's credentials.
#[derive(Clone, Copy, Debug)]
pub struct Changed<'a> {
    /// The user's organisation.
    pub organization: &'a Organization,
    /// The user whose credentials changed.
    pub target: &'a User,
    /// The user who made the change; may be the same.
    pub by: &'a User,
    /// The notice's subject.
    pub subject: &'a str,
    /// What was done, as it follows a name: `reset the second factor of …`.
    pub what: &'a str,
    /// The consequences; may be empty.
    pub then: &'a str,
    /// Name of the event for webhooks.
    pub event: &'a str,
}

/// Returns the deliveries about a password set by its owner; `how` and `then` as in [`Changed`].
#[must_use]
pub fn of_own_password(
    services: &Services,
    organization: &Organization,
    user: &User,
    how: &str,
    then: &str,
    context: &RequestContext,
) -> Vec<OwedDelivery> {
    let changed = Changed {
        organization,
        target: user,
        by: user,
        subject: "Your password was changed",
        what: &format!("{how} of your account {}", user.email),
        then,
        event: "user.password.changed",
    };
    of_change(services, &changed, context)
}

/// Returns the deliveries about any change of credentials: a notice to the user stating who, what, when, from
/// where and what to do if it was not them (ASVS 6.3.7, SP 800-63B-4 §4.6), and a call to the organisation's
/// webhook.
#[must_use]
pub fn of_change(services: &Services, changed: &Changed<'_>, context: &RequestContext) -> Vec<OwedDelivery> {
    let Changed {
        organization,
        target,
        by,
        ..
    } = *changed;
    let at = context.at;
    let mut owed = Vec::new();
    if services.settings.mail {
        owed.extend(change_mail(services, changed, context));
    }
    let data = who_to_whom(by, target, context);
    owed.extend(call(services, organization, changed.event, at, data));
    owed
}

/// Returns the data of every webhook call about credentials.
#[must_use]
pub fn who_to_whom(by: &User, target: &User, context: &RequestContext) -> Value {
    // The operator has no account.
    let actor = (!by.is_operator()).then_some(by.id);
    json!({ "userId": target.id, "actorId": actor, "ipAddress": context.ip_text() })
}

/// Returns the notice to the user.
fn change_mail(services: &Services, changed: &Changed<'_>, context: &RequestContext) -> Option<OwedDelivery> {
    let Changed {
        organization,
        target,
        by,
        ..
    } = *changed;
    let who = if by.id == target.id {
        "You, or somebody in your name,".to_owned()
    } else {
        called(by)
    };
    let body = format!(
        "{who} {} {}.{}{}",
        changed.what,
        when_and_whence(context),
        if changed.then.is_empty() { "" } else { "\n\n" },
        changed.then,
    );
    let subject = format!("{} ({})", changed.subject, organization.name);
    let end = "If it was, there is nothing to do.";
    reportable_mail(services, organization, target, context, &subject, &body, end)
}

/// Returns time and place of a request: `on 2026-02-18T10:30:00Z from 192.0.2.7`.
#[must_use]
pub fn when_and_whence(context: &RequestContext) -> String {
    let at = context.at;
    match (context.channel, context.ip_text()) {
        (policy::Channel::Cli, _) => format!("on {at:.0} at its command line"),
        (_, Some(ip)) => format!("on {at:.0} from {ip}"),
        (_, None) => format!("on {at:.0} from an unknown address"),
    }
}

/// Returns a mail about a user's credentials, with the link to report that this was not them.
#[must_use]
pub fn reportable_mail(
    services: &Services,
    organization: &Organization,
    target: &User,
    context: &RequestContext,
    subject: &str,
    body: &str,
    end: &str,
) -> Option<OwedDelivery> {
    if !services.settings.mail {
        return None;
    }
    let (link, kept) = not_me::new_link(services, target, context.at);
    let body = format!(
        "{body}\n\nIf this was not you, or nobody you know of did it for you: lock your account here. Its \
         sessions end and your administrators are told. The link works once, until {:.0}.\n\n{link}\n\n{end}\n",
        kept.expires_at,
    );
    let mut mail = sealed_mail(services, organization, &target.email, subject, &body)?;
    mail.link = Some(kept);
    Some(mail)
}

/// Returns a call to the organisation's webhook, if it has one.
#[must_use]
pub fn call(
    services: &Services,
    organization: &Organization,
    event: &str,
    at: jiff::Timestamp,
    data: Value,
) -> Option<OwedDelivery> {
    let url = organization.settings.webhook_url.as_ref()?;
    // Skip a host that the operator has since removed from the list.
    check_url(services.courier.webhook_reach(), url).ok()?;
    Some(deliveries::webhook(Some(organization.id), url, event, at, data))
}

/// Marks a mail to end with the receipt of the entry it reports, which can only be made after the commit.
fn with_receipt(mut owed: OwedDelivery) -> OwedDelivery {
    if owed.channel == Channel::Mail
        && let Ok(Value::Object(mut payload)) = serde_json::from_str(&owed.payload)
    {
        payload.insert(RECEIPT.to_owned(), true.into());
        owed.payload = Value::Object(payload).to_string();
    }
    owed
}

/// True if the mail with this payload ends with a receipt.
#[must_use]
pub fn wants_receipt(payload: &str) -> bool {
    serde_json::from_str::<Value>(payload).is_ok_and(|payload| payload[RECEIPT] == true)
}

const RECEIPT: &str = "receipt";

/// Returns the notices requested by policies.
#[must_use]
pub fn of_effects(services: &Services, case: &ResetCase, effects: &[Effect]) -> Vec<OwedDelivery> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Notify(notice) => Some(mails(services, case, notice)),
            _ => None,
        })
        .flatten()
        .collect()
}

/// Returns notices to all admins that there is a new one: an attacker with an admin's account may have added
/// it.
#[must_use]
pub fn of_new_admin(
    services: &Services,
    organization: &Organization,
    actor: &User,
    target: &User,
    admin_emails: &[String],
) -> Vec<OwedDelivery> {
    let subject = format!("{} has a new administrator", organization.name);
    let body = format!(
        "{} made {} an administrator of {}.\n\nIf that is not right, take the role away at once.\n",
        called(actor),
        called(target),
        organization.name,
    );
    let contact = organization.settings.security_contact.iter();
    let to = admin_emails
        .iter()
        .chain(contact)
        .filter(|to| **to != target.email);
    to.filter_map(|to| mail(services, organization, to, &subject, &body))
        .collect()
}

/// Returns notices to the admins that a user's passkey was copied.
#[must_use]
pub fn of_cloned_passkey(
    services: &Services,
    organization: &Organization,
    user: &User,
    admins: &[User],
    name: &str,
) -> Vec<OwedDelivery> {
    let subject = format!("There seems to be a copy of a passkey of {}", user.email);
    let body = format!(
        "The counter of the passkey \"{name}\" of {} went back, as it does when there are two of it. Its use was \
         refused, and it opens nothing from now on.\n\nWhoever used it knew the password. Talk to the user, by a \
         way that you know, and let them change the password, remove the passkey and register another.\n",
        called(user),
    );
    to_admins(services, organization, admins, user, &subject, &body)
}

/// Returns notices to all admins of a shorter retention, while it can be undone: an attacker may want entries
/// gone.
#[must_use]
pub fn of_shorter_retention(
    services: &Services,
    organization: &Organization,
    actor: &User,
    admins: &[User],
    days: u16,
) -> Vec<OwedDelivery> {
    let subject = format!("{} is to keep its audit trail for {days} days", organization.name);
    let body = format!(
        "{} set that entries of the audit trail of {} are kept for {days} days only. It takes effect in {} days; \
         what is older is pruned then, and can't be had back.\n\nIf that is not right, set auditRetentionDays back \
         before.\n",
        called(actor),
        organization.name,
        super::trail::RETENTION_GRACE_DAYS,
    );
    to_admins(services, organization, admins, actor, &subject, &body)
}

/// Returns a mail to each admin except the user it is about, and to the organisation's security contact.
#[must_use]
pub fn to_admins(
    services: &Services,
    organization: &Organization,
    admins: &[User],
    about: &User,
    subject: &str,
    body: &str,
) -> Vec<OwedDelivery> {
    let others = admins
        .iter()
        .filter(|admin| admin.id != about.id)
        .map(|admin| &admin.email);
    let to = others.chain(&organization.settings.security_contact);
    to.filter_map(|to| mail(services, organization, to, subject, body))
        .collect()
}

/// Returns a mail, or `None` if mail is not configured.
#[must_use]
pub fn mail(
    services: &Services,
    organization: &Organization,
    to: &str,
    subject: &str,
    body: &str,
) -> Option<OwedDelivery> {
    let payload = json!({ "to": to, "subject": subject, "body": body });
    services.settings.mail.then(|| owed(organization, &payload))
}

/// Returns a mail whose body is encrypted because it contains a secret, or `None` if mail is not configured.
#[must_use]
pub fn sealed_mail(
    services: &Services,
    organization: &Organization,
    to: &str,
    subject: &str,
    body: &str,
) -> Option<OwedDelivery> {
    services.settings.mail.then(|| {
        let sealed = services
            .keys
            .seal_text(MAIL, body.as_bytes(), services.entropy.bytes());
        let payload = json!({ "to": to, "subject": subject, "sealedBody": STANDARD.encode(sealed) });
        owed(organization, &payload)
    })
}

/// Label under which a mail's body is sealed.
const MAIL: &str = "mail body";

/// Parses a payload as a mail and decrypts its body.
///
/// # Errors
/// [`Error::Internal`] if it is not a mail, or was sealed with other keys.
pub fn read_mail(keys: &KeyRing, payload: &str) -> Result<Mail> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Payload {
        to: String,
        subject: String,
        body: Option<String>,
        sealed_body: Option<String>,
    }
    let unreadable = || Error::Internal("a queued mail can't be read".into());
    let read: Payload = serde_json::from_str(payload).map_err(|_| unreadable())?;
    let body = match (read.body, read.sealed_body) {
        (Some(body), None) => body,
        (None, Some(sealed)) => {
            let sealed = STANDARD.decode(sealed).map_err(|_| unreadable())?;
            let body = keys.open_text(MAIL, &sealed)?;
            String::from_utf8(body.to_vec()).map_err(|_| unreadable())?
        }
        _ => return Err(unreadable()),
    };
    Ok(Mail {
        to: read.to,
        subject: read.subject,
        body,
    })
}

/// Returns a person's name for use in a text: `Ada Lovelace (ada@acme.example)`.
#[must_use]
pub fn called(user: &User) -> String {
    match &user.name {
        Some(name) if user.is_operator() => name.clone(),
        Some(name) => format!("{name} ({})", user.email),
        None => user.email.clone(),
    }
}

fn mails(services: &Services, case: &ResetCase, notice: &Notice) -> Vec<OwedDelivery> {
    let to = match notice.to {
        Audience::Target => vec![case.target.email.clone()],
        // The operator has no address.
        Audience::Actor if case.actor.is_operator() => Vec::new(),
        Audience::Actor => vec![case.actor.email.clone()],
        Audience::OrgAdmins => case.admin_emails.clone(),
        Audience::SecurityContact => case
            .organization
            .settings
            .security_contact
            .iter()
            .cloned()
            .collect(),
    };
    to.iter()
        .filter_map(|to| mail(services, &case.organization, to, &notice.subject, &notice.body))
        .collect()
}

fn owed(organization: &Organization, payload: &Value) -> OwedDelivery {
    OwedDelivery {
        organization_id: Some(organization.id),
        channel: Channel::Mail,
        payload: payload.to_string(),
        link: None,
    }
}
