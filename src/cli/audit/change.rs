//! Changes to the trail by the operator: accept an older database, erase personal data, rotate its key.

use std::path::Path;

use anyhow::{Result, bail};
use serde_json::json;

use super::super::exit::Refusal;
use super::super::restore::{NEW_KEY, revived_in_json};
use super::super::{Global, Progress, orders, output, wait_for};
use crate::domain::account::UserId;
use crate::domain::audit::ActorRef;
use crate::service::trail::TrailOrder;
use crate::service::{operator, trail};

pub(super) fn accept_rollback(
    global: &Global,
    replaced: Option<&Path>,
    yes: bool,
    as_json: bool,
) -> Result<()> {
    let app = global.open_unchecked()?;
    if !yes {
        return match trail::check_rollback(&app.services) {
            Ok(()) if as_json => output::json(&json!({ "accepted": false })),
            Ok(()) => {
                output::line("the database is the one that was signed last; there is nothing to accept")
            }
            Err(found) => bail!(Refusal(format!(
                "{found}. Nothing was changed; add --yes to do it"
            ))),
        };
    }
    let accepted = wait_for(trail::accept_rollback(&app.services, replaced))?;
    if as_json {
        return output::json(&json!({
            "accepted": true,
            "entries": accepted.found,
            "signedEntries": accepted.signed,
            "sessionsEnded": accepted.sessions_ended,
            "exact": replaced.is_some(),
            "revived": accepted.revived.iter().map(revived_in_json).collect::<Vec<_>>(),
            "key": accepted.key,
        }));
    }
    output::line(format_args!(
        "accepted: the database has {} entries, {} had been signed",
        accepted.found, accepted.signed
    ))?;
    output::line(format_args!("{} sessions ended", accepted.sessions_ended))?;
    let heading = if replaced.is_some() {
        "back"
    } else {
        "possibly back"
    };
    for revived in accepted.revived {
        output::line(format_args!(
            "{heading}: {} of {}, there since {:.0}{}",
            revived.kind,
            revived.email,
            revived.since,
            if revived.kind == "session" { ", ended" } else { "" }
        ))?;
    }
    output::line(format_args!("the trail's key from now on: {}", accepted.key))?;
    output::line(NEW_KEY)
}

pub(super) fn erase(global: &Global, org: &str, user: UserId, yes: bool, as_json: bool) -> Result<()> {
    let app = global.open()?;
    let organization = operator::find_organization(&app.services, org)?;
    if !yes {
        bail!(Refusal(
            "erasing can't be undone; nothing was changed; add --yes to do it".into()
        ));
    }
    let mut bar = None;
    let erased = wait_for(trail::erase_user(
        &app.services,
        organization.id,
        user,
        ActorRef::operator(),
        |done, all| {
            bar.get_or_insert_with(|| Progress::new("erase", all)).reach(done);
        },
    ))?;
    if let Some(bar) = bar {
        bar.finish();
    }
    if as_json {
        return output::json(&json!({ "erased": erased }));
    }
    output::line(format_args!("{erased} parts of entries erased"))
}

pub(super) fn rotate_key(global: &Global, as_json: bool) -> Result<()> {
    let rotated = orders::carry_out(global, TrailOrder::AuditRotateKey)?;
    if as_json {
        return output::json(&rotated);
    }
    output::line(rotated["to"].as_str().unwrap_or_default())?;
    eprintln!(
        "This key signs from entry {} on, where the old one vouches for it: {}\nGive the new one to whoever checks the \
         trail, and keep checkpoints of it elsewhere. If you keep keys apart from backups, store them again.",
        rotated["sequence"],
        rotated["from"].as_str().unwrap_or_default()
    );
    Ok(())
}
