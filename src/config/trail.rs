//! The audit trail, as configured: when it is signed, who witnesses it, and where it is forwarded to.

use super::raw::RawAudit;
use super::{is_base_url, whole};
use crate::courier::CourierConfig;
use crate::courier::webhook::check_url;
use crate::service::trail;

pub(super) fn check(audit: RawAudit, courier: &CourierConfig, problems: &mut Vec<String>) -> trail::Settings {
    if audit.forward_syslog && courier.syslog.is_none() {
        problems.push("audit.forward_syslog: needs syslog.target".to_owned());
    }
    let is_forwarded = audit.forward_syslog || !audit.forward_webhook.is_empty();
    if !is_forwarded && !audit.forward_organizations.is_empty() {
        problems.push(
            "audit.forward_organizations: has no effect without audit.forward_syslog or audit.forward_webhook"
                .to_owned(),
        );
    }
    for (key, url) in [
        ("forward_webhook", &audit.forward_webhook),
        ("witness_url", &audit.witness_url),
    ] {
        if !url.is_empty() && !is_base_url(url) {
            problems.push(format!(
                "audit.{key}: {url:?} is not a URL such as https://siem.example.org/in"
            ));
        } else if !url.is_empty()
            && let Err(problem) = check_url(&courier.webhooks, url)
        {
            problems.push(format!(
                "audit.{key}: {problem} (webhooks.hosts, webhooks.networks)"
            ));
        }
    }
    trail::Settings {
        checkpoint_entries: audit.checkpoint_entries,
        checkpoint_secs: whole(audit.checkpoint_secs),
        witness_dir: audit.witness_dir,
        witness_url: (!audit.witness_url.is_empty()).then_some(audit.witness_url),
        forward_to: trail::ForwardTo {
            syslog: audit.forward_syslog,
            webhook: (!audit.forward_webhook.is_empty()).then_some(audit.forward_webhook),
            organizations: audit.forward_organizations,
        },
    }
}
