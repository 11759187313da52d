//! Installs a plugin file: it is checked, compiled and tried before anything is stored.

use std::sync::Arc;

use serde_json::json;

use super::listing::{parse_digest, unknown_plugin};
use super::signatures::trusted;
use super::{Manager, blocking, catch_up, off_the_path, refusal, refused};
use crate::domain::account::OrganizationId;
use crate::domain::audit::{AuditResult, Event, EventType, Resource};
use crate::domain::policy::Manifest;
use crate::domain::printable::clip;
use crate::domain::{Error, Result};
use crate::plugin_host::{CaseError, Digest, PluginHost, Prepared, Signed, embedded_cases};
use crate::service::Services;
use crate::store::plugins::{self, PluginRow};
use crate::store::{Connection, accounts, audit, bindings};

/// Maximum plugins that an organisation may have installed.
const PLUGINS_PER_ORGANIZATION: u64 = 64;
/// Maximum bytes of all plugins of an organisation together.
const BYTES_PER_ORGANIZATION: u64 = 512 << 20;
/// Maximum differences of a failed golden case that a refusal shows.
const DIFFERENCES_SHOWN: usize = 5;
/// Maximum characters of each difference.
const DIFFERENCE_CHARS: usize = 300;

/// A file to install.
#[derive(Clone)]
pub struct NewPlugin {
    /// Organisation that installs it; absent for the node, whose plugins everybody may bind.
    pub owner: Option<OrganizationId>,
    /// Content of the file.
    pub bytes: Arc<[u8]>,
    /// Its minisign signature.
    pub signature: Option<String>,
    /// The minisign public key that must have signed this file, in addition to the keys that the node trusts.
    pub public_key: Option<String>,
}

/// The result of an installation.
#[derive(Clone, Debug)]
pub struct Installed {
    /// The installed plugin.
    pub plugin: PluginRow,
    /// Whether it was not installed before.
    pub new: bool,
    /// Whether it came with a signature that could not be checked, since no key is known.
    pub signature_unchecked: bool,
}

impl Installed {
    /// Returns a warning for the manager: a signature that was not checked proves nothing.
    #[must_use]
    pub fn warning(&self) -> Option<&'static str> {
        self.signature_unchecked.then_some(
            "The signature was not checked: this node trusts no keys (plugins.trusted_keys). The operator can name \
             the author's for one file: latchkey plugin install FILE --signature FILE --public-key FILE",
        )
    }
}

/// Progress of long work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A step begins.
    Step(&'static str),
    /// Items done, of a total.
    Done(u64, u64),
}

/// Receives the progress of long work.
pub type Watch = Arc<dyn Fn(Progress) + Send + Sync>;

/// Returns a [`Watch`] that ignores progress.
#[must_use]
pub fn unwatched() -> Watch {
    Arc::new(|_| ())
}

/// Checks, compiles, tries and stores a plugin. Installing the same file again is no error and changes nothing,
/// except that the signer is recorded if it is known only now. Only the caller waits: compilation has a thread of
/// its own.
///
/// # Errors
/// [`Error::PluginRefused`] with what is wrong with the file or its signature, before anything is stored;
/// [`Error::Conflict`] if the organisation has too many plugins.
pub async fn install_plugin(
    services: &Services,
    manager: &Manager,
    new: NewPlugin,
    watch: Watch,
) -> Result<Installed> {
    manager.may_change(new.owner)?;
    let digest = Digest::of(&new.bytes);
    match judge(services, &new, digest, watch).await {
        Ok((prepared, manifest, signed)) => {
            let installed = keep(services, manager, new, digest, manifest, signed).await?;
            let host = services.plugin_host.clone();
            blocking(move || host.keep_artefact(&prepared)).await?;
            Ok(installed)
        }
        Err(Error::PluginRefused(reason)) => {
            record_refusal(services, manager, new.owner, digest, &reason).await?;
            Err(Error::PluginRefused(reason))
        }
        Err(error) => Err(error),
    }
}

async fn judge(
    services: &Services,
    new: &NewPlugin,
    digest: Digest,
    watch: Watch,
) -> Result<(Arc<Prepared>, Manifest, Option<Signed>)> {
    if let Some(organization) = new.owner {
        let size = new.bytes.len();
        services
            .store
            .read(|db| within_quota(db, organization, digest, size))?;
    }
    let (file, keys) = (new.clone(), services.settings.plugins.trusted_keys.clone());
    let signed = blocking(move || {
        let (signature, named) = (file.signature.as_deref(), file.public_key.as_deref());
        trusted(&file.bytes, signature, &keys, named)
    })
    .await??;
    watch(Progress::Step("compiling"));
    let (host, bytes) = (services.plugin_host.clone(), Arc::clone(&new.bytes));
    let prepared = blocking(move || host.prepare(&bytes)).await?.map_err(refused)?;
    watch(Progress::Step("asking what it is"));
    let (host, bytes) = (services.plugin_host.clone(), Arc::clone(&new.bytes));
    let module = Arc::clone(&prepared);
    let manifest = off_the_path(move || async move {
        let manifest = host.describe(&module).await.map_err(refused)?;
        run_cases(&host, &module, &bytes, &watch).await?;
        watch(Progress::Step("storing"));
        Ok::<_, Error>(manifest)
    })
    .await??;
    Ok((prepared, manifest, signed))
}

fn within_quota(db: &Connection, organization: OrganizationId, digest: Digest, size: usize) -> Result<()> {
    if accounts::find_organization(db, organization)?.is_none() {
        return Err(Error::NotFound {
            what: "Organization",
            id: organization.to_string(),
        });
    }
    let known = plugins::find_plugin(db, &digest.0, Some(organization))?.is_some();
    let (count, bytes) = plugins::count_plugins(db, organization)?;
    if known || (count < PLUGINS_PER_ORGANIZATION && bytes + size as u64 <= BYTES_PER_ORGANIZATION) {
        return Ok(());
    }
    Err(Error::Conflict(format!(
        "An organisation has at most {PLUGINS_PER_ORGANIZATION} plugins of {} MiB together, removed ones \
         included until their decisions have lapsed",
        BYTES_PER_ORGANIZATION >> 20
    )))
}

/// Runs the golden cases embedded in the file: a plugin that does not behave here as its author saw is not
/// installed.
async fn run_cases(host: &PluginHost, prepared: &Arc<Prepared>, bytes: &[u8], watch: &Watch) -> Result<()> {
    let broken = |e: CaseError| refusal(&format!("its golden cases can't be run: {e}"), "golden-cases");
    let cases = embedded_cases(bytes).map_err(broken)?;
    if cases.is_empty() {
        return Ok(());
    }
    watch(Progress::Step("running its golden cases"));
    let of = cases.len() as u64;
    let failed = host
        .run_cases(prepared, &cases, |done| watch(Progress::Done(done, of)))
        .await
        .map_err(broken)?;
    let Some(report) = failed else { return Ok(()) };
    let shown = report.differences.iter().take(DIFFERENCES_SHOWN);
    let shown: Vec<_> = shown.map(|text| clip(text, DIFFERENCE_CHARS)).collect();
    let reason = format!(
        "its golden case \"{}\" fails here: {}",
        clip(&report.description, DIFFERENCE_CHARS),
        shown.join("; ")
    );
    Err(refusal(&reason, "golden-case-failed"))
}

async fn keep(
    services: &Services,
    manager: &Manager,
    new: NewPlugin,
    digest: Digest,
    manifest: Manifest,
    signed: Option<Signed>,
) -> Result<Installed> {
    let at = manager.at();
    let row = PluginRow {
        digest: digest.0,
        organization_id: new.owner,
        manifest,
        signature: new.signature,
        signed_by: signed.as_ref().map(|signed| signed.key_id.clone()),
        size_bytes: new.bytes.len() as u64,
        installed_at: at,
        disabled_at: None,
    };
    let signature_unchecked = row.signature.is_some() && signed.is_none();
    let mut event = manager
        .event(EventType::PolicyPluginInstall, new.owner)
        .on(resource(digest, &row.manifest))
        .with("version", row.manifest.version.as_str())
        .with("wants", row.manifest.wants.clone());
    let signed_event = manager
        .event(EventType::PolicyPluginUpdate, new.owner)
        .on(resource(digest, &row.manifest))
        .with("version", row.manifest.version.as_str());
    if let Some(signed) = &signed {
        event = event
            .with("signedBy", signed.key_id.as_str())
            .with("trustedComment", signed.comment.as_str());
    }
    let entry_id = services.entropy.uuid(at);
    let installer = manager.clone();
    services
        .store
        .write_for(manager.organization(), move |tx| {
            // Compiling may take minutes, in which the caller may have been signed out or the quota used up.
            installer.still_may(tx)?;
            if let Some(organization) = row.organization_id {
                within_quota(tx, organization, digest, new.bytes.len())?;
            }
            let before = plugins::find_plugin(tx, &row.digest, row.organization_id)?;
            let inserted = plugins::insert_plugin(tx, &row, &new.bytes)?;
            if inserted {
                audit::append_entry(tx, at, entry_id, &event)?;
            } else if let Some(signed) = &signed
                && plugins::update_signature(tx, &row)?
            {
                let from = before.and_then(|before| before.signed_by);
                let event = signed_event
                    .clone()
                    .with(
                        "changes",
                        json!({ "signedBy": { "from": from, "to": &signed.key_id } }),
                    )
                    .with("trustedComment", signed.comment.as_str());
                audit::append_entry(tx, at, entry_id, &event)?;
            }
            let plugin = plugins::find_plugin(tx, &row.digest, row.organization_id)?;
            Ok(Installed {
                plugin: plugin.ok_or_else(|| unknown_plugin(digest))?,
                new: inserted,
                signature_unchecked,
            })
        })
        .await
}

/// Records a refused file in the trail: it may have been an attempt to bring in something unwanted.
async fn record_refusal(
    services: &Services,
    manager: &Manager,
    owner: Option<OrganizationId>,
    digest: Digest,
    reason: &str,
) -> Result<()> {
    let event = manager
        .event(EventType::PolicyPluginInstall, owner)
        .on(Resource::other("PLUGIN", digest, None))
        .ended(AuditResult::Denied, reason);
    append(services, manager, event).await
}

async fn append(services: &Services, manager: &Manager, event: Event) -> Result<()> {
    let (at, entry_id) = (manager.at(), services.entropy.uuid(manager.at()));
    services
        .store
        .write_for(manager.organization(), move |tx| {
            audit::append_entry(tx, at, entry_id, &event).map(|_| ())
        })
        .await
}

/// Returns a plugin as the trail names it.
pub(super) fn resource(digest: Digest, manifest: &Manifest) -> Resource {
    Resource::other("PLUGIN", digest, Some(manifest.name.clone()))
}

/// Removes a plugin that no binding uses. Its decisions can still be replayed until their retention ends.
///
/// # Errors
/// [`Error::NotFound`], [`Error::MayNotAct`] for a plugin of the node, [`Error::Conflict`] while it is bound.
pub async fn remove_plugin(services: &Services, manager: &Manager, digest: &str) -> Result<()> {
    let plugin = super::find_plugin(services, manager, digest)?;
    uninstall_plugin(services, manager, &plugin).await
}

/// Like [`remove_plugin`], for a plugin of any owner that has already been found.
pub(super) async fn uninstall_plugin(
    services: &Services,
    manager: &Manager,
    plugin: &PluginRow,
) -> Result<()> {
    manager.may_change(plugin.organization_id)?;
    let owner = plugin.organization_id;
    let at = manager.at();
    let digest = Digest(plugin.digest);
    let event = manager
        .event(EventType::PolicyPluginRemove, plugin.organization_id)
        .on(resource(digest, &plugin.manifest))
        .with("version", plugin.manifest.version.as_str());
    let entry_id = services.entropy.uuid(at);
    let remover = manager.clone();
    services
        .store
        .write_for(manager.organization(), move |tx| {
            remover.still_may(tx)?;
            if !plugins::remove_plugin(tx, &digest.0, owner, at)? {
                return Err(unknown_plugin(digest));
            }
            audit::append_entry(tx, at, entry_id, &event).map(|_| ())
        })
        .await
}

/// Switches a plugin off for everybody, or on again: the operator's emergency switch. A plugin that is off is
/// treated as not bound. Returns whether that changed anything.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::MayNotAct`] for an admin.
pub async fn switch_plugin(services: &Services, manager: &Manager, digest: &str, off: bool) -> Result<bool> {
    manager.may_change(None)?;
    let digest = parse_digest(digest)?;
    let manifest = services
        .store
        .read(|db| plugins::find_manifest(db, &digest.0))?
        .ok_or_else(|| unknown_plugin(digest))?;
    let ready = match off {
        true => None,
        // Compiled before any reset depends on it, and held until the bindings have it.
        false => super::prepare(services, digest).await.ok(),
    };
    let at = manager.at();
    let event = move |owner| {
        manager
            .event(EventType::PolicyPluginUpdate, owner)
            .on(resource(digest, &manifest))
            .with("version", manifest.version.as_str())
            .with("changes", json!({ "disabled": { "from": !off, "to": off } }))
    };
    // Recorded in the node's trail and in that of each organisation whose policy it was.
    let mut owners = vec![None];
    owners.extend(
        services
            .store
            .read(|db| bindings::find_organizations_bound(db, &digest.0))?
            .into_iter()
            .map(Some),
    );
    let entries: Vec<_> = owners
        .into_iter()
        .map(|owner| (services.entropy.uuid(at), event(owner)))
        .collect();
    let changed = services
        .store
        .write(move |tx| {
            let changed = plugins::update_module_disabled(tx, &digest.0, off.then_some(at))?;
            for (id, event) in entries.iter().filter(|_| changed) {
                audit::append_entry(tx, at, *id, event)?;
            }
            Ok(changed)
        })
        .await?;
    catch_up(services, None).await?;
    drop(ready);
    Ok(changed)
}
