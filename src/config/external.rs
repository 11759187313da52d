//! The external issuer of access tokens, as configured.

use crate::service::{ExternalIssuer, ExternalRules, role_by_name};

use super::raw::RawExternalIssuer;
use super::sources::read_named;

/// An external issuer, checked.
#[derive(Clone, Debug)]
pub struct ExternalConfig {
    /// Rules for reading its tokens.
    pub rules: ExternalRules,
    /// Its public keys, as the text of a JSON Web Key Set.
    pub jwks: String,
}

impl ExternalConfig {
    /// Checks the section; `None` if no issuer is configured or a problem was found.
    pub(super) fn check(raw: RawExternalIssuer, problems: &mut Vec<String>) -> Option<Self> {
        if raw.issuer.is_empty() {
            return None;
        }
        let before = problems.len();
        for (key, value) in [
            ("audience", &raw.audience),
            ("organization_claim", &raw.organization_claim),
            ("user_claim", &raw.user_claim),
            ("role_claim", &raw.role_claim),
        ] {
            if value.trim().is_empty() {
                problems.push(format!("external_issuer.{key}: is empty"));
            }
        }
        let mut roles = std::collections::BTreeMap::new();
        for pair in raw.roles {
            let (theirs, ours) = pair.rsplit_once('=').unwrap_or((&pair, ""));
            match role_by_name(ours.trim()) {
                Some(role) => {
                    roles.insert(theirs.trim().to_owned(), role);
                }
                None => problems.push(format!(
                    "external_issuer.roles: {pair:?} is not a role of the issuer, an equals sign, and MEMBER, \
                     HELP_DESK or ORG_ADMIN"
                )),
            }
        }
        let rules = ExternalRules {
            issuer: raw.issuer,
            audience: raw.audience,
            organization_claim: raw.organization_claim,
            user_claim: raw.user_claim,
            role_claim: raw.role_claim,
            roles,
        };
        let file = raw.jwks_file.display();
        let jwks = match read_named(&raw.jwks_file) {
            Ok(jwks) => String::from_utf8_lossy(&jwks).into_owned(),
            Err(error) => {
                problems.push(format!("external_issuer.jwks_file: {file}: {error}"));
                return None;
            }
        };
        if let Err(problem) = ExternalIssuer::new(rules.clone(), &jwks) {
            problems.push(format!("external_issuer.jwks_file: {file}: {problem}"));
        }
        (problems.len() == before).then_some(Self { rules, jwks })
    }
}
