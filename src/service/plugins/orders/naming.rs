//! Resolves the plugin that an operator names by name or by a prefix of its digest.
//!
//! Organisations choose the names of their plugins freely, even the name of a plugin of the node or the prefix of
//! a digest. Neither may lead an operator's order to a file that was not meant.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::slug_of;
use crate::domain::account::{Organization, OrganizationId};
use crate::domain::{Error, Result};
use crate::plugin_host::Digest;
use crate::service::plugins::{BindingView, listing::unknown_plugin, parse_digest};
use crate::store::Connection;
use crate::store::configurations;
use crate::store::plugins::PluginRow;

/// Minimum digits of a digest prefix.
const DIGITS_MIN: usize = 4;
/// Minimum digits of a configuration's digest prefix; more, since a configuration has no name to compare.
const CONFIG_DIGITS_MIN: usize = 8;

/// Finds the plugin that a binding of `owner` can use: the newest version with that name, or the one whose digest
/// has that prefix. Only the node's and the owner's plugins count.
pub(super) fn find_usable<'a>(
    plugins: &'a [PluginRow],
    name_or_digest: &str,
    owner: Option<OrganizationId>,
) -> Result<&'a PluginRow> {
    let usable = plugins
        .iter()
        .filter(|p| p.organization_id.is_none() || p.organization_id == owner);
    let (named, begun): (Vec<_>, Vec<_>) = usable
        .filter(|plugin| meant(plugin, name_or_digest))
        .partition(|plugin| plugin.manifest.name == name_or_digest);
    let newest = named.into_iter().max_by_key(|plugin| plugin.installed_at);
    let mut found = begun;
    found.extend(newest);
    found.sort_by_key(|plugin| plugin.digest);
    found.dedup_by_key(|plugin| plugin.digest); // the same file, installed by the node and the owner
    match found[..] {
        [plugin] => Ok(plugin),
        [] => Err(unknown_plugin(name_or_digest)),
        _ => Err(fits_several(name_or_digest, &found)),
    }
}

/// Finds the one plugin that `owner` installed with that name or digest prefix, for orders that end it. If
/// several versions fit, none is preferred, so all are listed.
pub(super) fn find_owned<'a>(
    plugins: &'a [PluginRow],
    name_or_digest: &str,
    owner: Option<OrganizationId>,
) -> Result<&'a PluginRow> {
    let owned = plugins.iter().filter(|plugin| plugin.organization_id == owner);
    let found: Vec<_> = owned.filter(|plugin| meant(plugin, name_or_digest)).collect();
    match found[..] {
        [plugin] => Ok(plugin),
        [] => Err(unknown_plugin(name_or_digest)),
        _ => Err(fits_several(name_or_digest, &found)),
    }
}

fn fits_several(name_or_digest: &str, found: &[&PluginRow]) -> Error {
    let mut text = format!("{name_or_digest} fits several plugins; name one by more of its digest:");
    for plugin in found {
        let (digest, manifest) = (Digest(plugin.digest), &plugin.manifest);
        let _ = write!(text, "\n  {digest}  {} {}", manifest.name, manifest.version);
    }
    Error::Malformed(text)
}

/// Renames the fields of an error from the API's names to those of the command line.
pub(super) fn as_typed(error: Error) -> Error {
    let typed = |field: String| match field.as_str() {
        "pluginDigest" => "plugin".to_owned(),
        "canaryPercent" => "mode".to_owned(),
        "publicKey" => "public-key".to_owned(),
        _ => field,
    };
    match error {
        Error::Validation(fields) => Error::Validation(
            fields
                .into_iter()
                .map(|(field, problem)| (typed(field), problem))
                .collect(),
        ),
        other => other,
    }
}

/// Finds the one plugin of any owner with that name or digest prefix, for orders that affect everybody. If
/// several fit, it is unknown which is meant, so all are listed.
pub(super) fn find_anywhere(
    plugins: &[PluginRow],
    name_or_digest: &str,
    bindings: &[BindingView],
    organizations: &[Organization],
) -> Result<Digest> {
    let mut found: BTreeMap<[u8; 32], Vec<&PluginRow>> = BTreeMap::new();
    for plugin in plugins.iter().filter(|plugin| meant(plugin, name_or_digest)) {
        found.entry(plugin.digest).or_default().push(plugin);
    }
    let mut digests = found.keys();
    match (digests.next(), digests.next()) {
        (Some(digest), None) => return Ok(Digest(*digest)),
        (None, _) => return Err(unknown_plugin(name_or_digest)),
        (Some(_), Some(_)) => {}
    }
    let mut text = format!("{name_or_digest} fits several plugins; name one by its digest:");
    for (digest, rows) in &found {
        let owners: Vec<_> = rows
            .iter()
            .map(|row| slug_of(organizations, row.organization_id).unwrap_or("the node"))
            .collect();
        let asking = bindings
            .iter()
            .filter(|binding| binding.version.digest.0 == *digest)
            .count();
        let manifest = &rows[0].manifest;
        let _ = write!(
            text,
            "\n  {}  {} {}, installed by {}, asked by {asking} {}",
            Digest(*digest),
            manifest.name,
            manifest.version,
            owners.join(" and "),
            if asking == 1 { "binding" } else { "bindings" }
        );
    }
    Err(Error::Malformed(text))
}

/// Returns whether a plugin is meant. A whole digest means that file only, whatever other plugins are called.
fn meant(plugin: &PluginRow, name_or_digest: &str) -> bool {
    if let Ok(digest) = parse_digest(name_or_digest) {
        return plugin.digest == digest.0;
    }
    plugin.manifest.name == name_or_digest
        || digits(name_or_digest, DIGITS_MIN)
            .is_some_and(|digits| hex::encode(plugin.digest).starts_with(&digits))
}

/// Returns the normalised digest prefix; `None` if the text is not one, or is too short.
fn digits(text: &str, least: usize) -> Option<String> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let fits = (least..=64).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    fits.then(|| digits.to_ascii_lowercase())
}

/// Finds the configuration, bound now or formerly, whose digest has that prefix; returns it with its digest.
pub(super) fn find_configuration(db: &Connection, digest: &str) -> Result<(Digest, String)> {
    let digits = digits(digest, CONFIG_DIGITS_MIN).ok_or_else(|| {
        Error::Malformed(format!(
            "{digest} is not the beginning of a digest: at least {CONFIG_DIGITS_MIN} hexadecimal digits"
        ))
    })?;
    let mut found = configurations::find_configurations_beginning(db, &digits)?;
    match (found.pop(), found.is_empty()) {
        (Some((digest, config)), true) => Ok((Digest(digest), config)),
        (None, _) => Err(Error::NotFound {
            what: "Configuration",
            id: digest.to_owned(),
        }),
        (Some(last), false) => {
            let mut text = format!("{digest} fits several configurations; name one by more of its digest:");
            for (digest, _) in found.iter().chain([&last]) {
                let _ = write!(text, "\n  {}", Digest(*digest));
            }
            Err(Error::Malformed(text))
        }
    }
}
