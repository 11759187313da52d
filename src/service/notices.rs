//! What people are told of a reset: owed in the reset's transaction, sent after it.

use serde_json::json;

use super::Services;
use super::reset::{Case, Order};
use crate::domain::policy::{Audience, Effect, Notice};
use crate::store::requests::OwedDelivery;

/// What a reset owes: the notice to the user that ASVS 6.3.7 requires, and what policies want sent.
#[must_use]
pub fn of_reset(services: &Services, case: &Case, order: &Order, effects: &[Effect]) -> Vec<OwedDelivery> {
    let admin = case.actor.name.as_deref().unwrap_or(&case.actor.email);
    let from = order
        .context
        .ip_text()
        .unwrap_or_else(|| "an unknown address".to_owned());
    let notice = Notice {
        to: Audience::Target,
        subject: format!("Your second factor for {} was reset", case.organization.name),
        body: format!(
            "{admin} ({}) reset the second factor of your account {} on {:.0} from {from}.\n\n\
             All your sessions were ended. If you did not ask for this, tell your administrators at once.\n",
            case.actor.email, case.target.email, order.context.at,
        ),
    };
    let mut owed = of_effects(services, case, effects);
    owed.extend(mails(services, case, &notice));
    owed
}

/// What policies want sent.
#[must_use]
pub fn of_effects(services: &Services, case: &Case, effects: &[Effect]) -> Vec<OwedDelivery> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Notify(notice) => Some(mails(services, case, notice)),
            _ => None,
        })
        .flatten()
        .collect()
}

fn mails(services: &Services, case: &Case, notice: &Notice) -> Vec<OwedDelivery> {
    if !services.settings.mail {
        return Vec::new();
    }
    let to = match notice.to {
        Audience::Target => vec![case.target.email.clone()],
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
    to.into_iter()
        .map(|to| OwedDelivery {
            organization_id: Some(case.organization.id),
            channel: "mail",
            payload: json!({ "to": to, "subject": notice.subject, "body": notice.body }).to_string(),
        })
        .collect()
}
