//! Checks which signature a plugin file needs here, and whether it has one.

use super::{PluginSettings, refusal};
use crate::domain::{Error, Result};
use crate::plugin_host::{SignatureError, Signed, SignerKey, verify_signature};
use crate::store::plugins::PluginRow;

/// Returns who signed the file, if it may be installed here. A key that is named for this file is required in
/// addition to a trusted one, not instead. With neither, a signature proves nothing, but it must still be
/// well-formed.
pub(super) fn trusted(
    bytes: &[u8],
    signature: Option<&str>,
    keys: &[SignerKey],
    named: Option<&str>,
) -> Result<Option<Signed>> {
    let named = named
        .map(SignerKey::parse)
        .transpose()
        .map_err(|problem| Error::field("publicKey", format!("is {problem}")))?;
    let Some(signature) = signature else {
        return match (keys, &named) {
            ([], None) => Ok(None),
            ([], Some(key)) => Err(refusal(
                &format!(
                    "it must be signed with the key {}, but no signature came with it",
                    key.id()
                ),
                "signature-missing",
            )),
            _ => Err(refusal(
                &format!(
                    "this appliance accepts only signed plugins, but no signature came with this one; trusted keys: {}",
                    listed(keys)
                ),
                "signature-missing",
            )),
        };
    };
    let signed = match verify_signature(bytes, signature, keys) {
        Ok(signed) => Some(signed),
        Err(SignatureError::UnknownKey { .. }) if keys.is_empty() => None,
        Err(fault) => return Err(signature_refused(&fault, keys)),
    };
    let Some(key) = named else { return Ok(signed) };
    let named = [key];
    verify_signature(bytes, signature, &named)
        .map(Some)
        .map_err(|fault| signature_refused(&fault, &named))
}

fn signature_refused(fault: &SignatureError, keys: &[SignerKey]) -> Error {
    let (code, more) = match fault {
        SignatureError::Malformed(_) => ("signature-malformed", String::new()),
        SignatureError::UnknownKey { .. } => (
            "signature-unknown-key",
            format!("; trusted keys: {}", listed(keys)),
        ),
        SignatureError::Mismatch => ("signature-mismatch", String::new()),
    };
    refusal(&format!("{fault}{more}"), code)
}

fn listed(keys: &[SignerKey]) -> String {
    keys.iter().map(SignerKey::id).collect::<Vec<_>>().join(", ")
}

/// Returns whether a plugin could not be installed today: this node trusts keys, and none of them signed it.
#[must_use]
pub fn is_unsigned(settings: &PluginSettings, plugin: &PluginRow) -> bool {
    let keys = &settings.trusted_keys;
    !keys.is_empty()
        && !keys
            .iter()
            .any(|key| plugin.signed_by.as_deref() == Some(&key.id()))
}
