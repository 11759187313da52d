//! Access tokens of another issuer, whose public keys the operator configured, and their meaning here.
//!
//! The user must exist here, by e-mail address, in the organisation that the token names. The role in the token
//! can take power away but never grant any: the role in the database decides.

use std::collections::BTreeMap;
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use uuid::{Builder, Uuid};

use super::access_token::signature_only;
use crate::domain::account::{Role, Session, SessionId, SessionOrigin, SessionScope, UserId};
use crate::domain::error::TokenFault;
use crate::domain::policy::FactorKind;

/// Maximum lifetime of a token, whatever it claims: revocations are kept for as long.
pub const EXTERNAL_LIFETIME: SignedDuration = SignedDuration::from_hours(12);
/// Maximum difference between the clocks of two hosts, in seconds.
const LEEWAY_SECS: i64 = 5;
/// Longest token that is parsed.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// How tokens of another issuer are verified and read.
#[derive(Clone, Debug)]
pub struct ExternalRules {
    /// The `iss` of its tokens.
    pub issuer: String,
    /// The audience that their `aud` must name.
    pub audience: String,
    /// The claim with the organisation's slug or id.
    pub organization_claim: String,
    /// The claim with the user's e-mail address.
    pub user_claim: String,
    /// The claim with the role, or with a list of roles.
    pub role_claim: String,
    /// The issuer's roles, each with the role here.
    pub roles: BTreeMap<String, Role>,
}

/// Another issuer with its keys.
pub struct ExternalIssuer {
    rules: ExternalRules,
    keys: Vec<Key>,
}

struct Key {
    kid: Option<String>,
    algorithm: Algorithm,
    decoding: DecodingKey,
    validation: Validation,
}

/// The claims of another issuer's token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalClaims {
    /// The organisation, by slug or id.
    pub organization: String,
    /// The user's e-mail address.
    pub email: String,
    /// The highest role that the caller may use.
    pub role: Role,
    session: SessionId,
    authenticated_at: Timestamp,
    /// Whether a second factor was used in the login at the issuer.
    pub second_factor: bool,
    /// When it was used; absent for a token without `auth_time`.
    second_factor_at: Option<Timestamp>,
    issued_at: Timestamp,
    expires_at: Timestamp,
}

#[derive(Deserialize)]
struct Registered {
    iss: String,
    aud: Audience,
    sub: String,
    exp: i64,
    iat: i64,
    nbf: Option<i64>,
    jti: Option<String>,
    sid: Option<String>,
    auth_time: Option<i64>,
    #[serde(default)]
    amr: Vec<String>,
    #[serde(flatten)]
    others: serde_json::Map<String, Value>,
}

/// One audience or several (RFC 7519 §4.1.3).
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl ExternalIssuer {
    /// Creates the issuer with the public keys in `jwks` (RFC 7517 §5).
    ///
    /// # Errors
    /// What is wrong with the key set: not JSON, no usable key, a secret or weak key in it.
    pub fn new(rules: ExternalRules, jwks: &str) -> Result<Self, String> {
        let set: JwkSet = serde_json::from_str(jwks).map_err(|e| {
            format!(
                "it is not a JSON Web Key Set (line {}, column {})",
                e.line(),
                e.column()
            )
        })?;
        // Choose jsonwebtoken's backend explicitly, so that it does not depend on the features of other crates.
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let keys: Vec<Key> = set.keys.iter().map(Key::new).collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err("it holds no key".to_owned());
        }
        if keys.len() > 1 && keys.iter().any(|key| key.kid.is_none()) {
            return Err("a key has no kid, which is allowed only for a single key".to_owned());
        }
        Ok(Self { rules, keys })
    }

    /// Verifies a token and returns its claims, if it is this issuer's and valid at `at`.
    ///
    /// # Errors
    /// As for our own tokens; [`TokenFault::SubjectGone`] if it names no organisation, user or role that can
    /// exist here.
    pub fn verify(&self, token: &str, at: Timestamp) -> Result<ExternalClaims, TokenFault> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenFault::Invalid);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenFault::Invalid)?;
        let typ = header.typ.as_deref().unwrap_or("JWT");
        let is_token = typ.eq_ignore_ascii_case("at+jwt") || typ.eq_ignore_ascii_case("JWT");
        if !is_token || header.crit.is_some() {
            return Err(TokenFault::Invalid);
        }
        let key = match self.keys.as_slice() {
            [only] if only.kid.is_none() || header.kid.is_none() => Some(only),
            keys => keys.iter().find(|key| key.kid == header.kid),
        };
        let key = key
            .filter(|key| key.algorithm == header.alg)
            .ok_or(TokenFault::Invalid)?;
        let claims: Registered = jsonwebtoken::decode(token, &key.decoding, &key.validation)
            .map_err(|_| TokenFault::Invalid)?
            .claims;
        if claims.iss != self.rules.issuer || !claims.aud.names(&self.rules.audience) {
            return Err(TokenFault::Invalid);
        }
        let now = at.as_second();
        if now >= expiry(&claims) {
            return Err(TokenFault::Expired);
        }
        if now + LEEWAY_SECS < claims.nbf.unwrap_or(claims.iat).max(claims.iat) {
            return Err(TokenFault::NotYetValid);
        }
        self.read(claims)
    }

    fn read(&self, claims: Registered) -> Result<ExternalClaims, TokenFault> {
        let text = |name: &str| {
            find(&claims.others, name)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let gone = TokenFault::SubjectGone;
        let time = |second: i64| Timestamp::from_second(second).map_err(|_| TokenFault::Invalid);
        if self.is_unverified(&claims.others) {
            return Err(gone);
        }
        let logged_in = claims.auth_time.map(|second| second.min(claims.iat));
        let second_factor = proves_second_factor(&claims.amr);
        Ok(ExternalClaims {
            organization: text(&self.rules.organization_claim).ok_or(gone)?,
            email: text(&self.rules.user_claim).ok_or(gone)?,
            role: self.role(&claims.others),
            session: session_id(&claims),
            authenticated_at: time(logged_in.unwrap_or(claims.iat))?,
            second_factor,
            // A refreshed token has a new `iat`, which is not the time of any authentication.
            second_factor_at: logged_in.filter(|_| second_factor).map(time).transpose()?,
            issued_at: time(claims.iat)?,
            expires_at: time(expiry(&claims))?,
        })
    }

    /// Returns whether the issuer says that it has not verified whose address it is (`OpenID` Connect Core §5.1):
    /// some let users enter any address. Some issuers put the boolean in quotes.
    fn is_unverified(&self, claims: &serde_json::Map<String, Value>) -> bool {
        let verified = find(claims, &format!("{}_verified", self.rules.user_claim));
        verified.is_some_and(|verified| *verified != Value::Bool(true) && verified != "true")
    }

    /// Returns the highest of the roles that the token names and the operator mapped; a member if there is none.
    fn role(&self, claims: &serde_json::Map<String, Value>) -> Role {
        let named: Vec<&str> = match find(claims, &self.rules.role_claim) {
            Some(Value::String(role)) => vec![role],
            Some(Value::Array(roles)) => roles.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let known = named.into_iter().filter_map(|role| self.rules.roles.get(role));
        known.copied().max().unwrap_or(Role::Member)
    }
}

/// Returns when a token expires, in seconds since the epoch.
fn expiry(claims: &Registered) -> i64 {
    claims
        .exp
        .min(claims.iat.saturating_add(EXTERNAL_LIFETIME.as_secs()))
}

/// Returns whether `amr` states that two factors were used (RFC 8176 §2): explicitly, or something known and
/// something else. A one-time password or a key alone is one factor.
fn proves_second_factor(amr: &[String]) -> bool {
    let has = |methods: &[&str]| amr.iter().any(|method| methods.contains(&method.as_str()));
    has(&["mfa"]) || (has(&KNOWN) && has(&HELD_OR_GROWN))
}

/// Methods that prove what the user knows.
const KNOWN: [&str; 2] = ["pwd", "pin"];
/// Methods that prove what the user has or is.
const HELD_OR_GROWN: [&str; 12] = [
    "otp", "hwk", "swk", "pop", "sc", "sms", "tel", "face", "fpt", "iris", "retina", "vbm",
];

impl ExternalClaims {
    /// Returns the session that the token stands for. It has no row in the store.
    #[must_use]
    pub fn session(&self, user: UserId) -> Session {
        Session {
            id: self.session,
            user_id: user,
            scope: SessionScope::Full,
            authenticated_at: self.authenticated_at,
            second_factor_at: self.second_factor_at,
            // Only the issuer knows the kind of factor; here it only matters that there was one.
            second_factor_kind: self.second_factor_at.map(|_| FactorKind::Totp),
            origin: SessionOrigin::External,
            created_at: self.issued_at,
            expires_at: self.expires_at,
        }
    }
}

impl Audience {
    fn names(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Several(several) => several.iter().any(|one| one == audience),
        }
    }
}

impl Key {
    /// Accepts public keys only, and one algorithm for each (RFC 8725 §3.1).
    fn new(jwk: &Jwk) -> Result<Self, String> {
        let named = |problem: &str| match &jwk.common.key_id {
            Some(kid) => format!("key {kid}: {problem}"),
            None => format!("a key without kid: {problem}"),
        };
        let fitting: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
            AlgorithmParameters::EllipticCurve(params) => match params.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => &[],
            },
            AlgorithmParameters::OctetKeyPair(_) => &[Algorithm::EdDSA],
            _ => return Err(named("only public keys (RSA, EC, OKP) can be used")),
        };
        let algorithm = match jwk.common.key_algorithm {
            None => fitting.first().copied(),
            Some(wanted) => fitting.iter().copied().find(|a| key_algorithm(*a) == wanted),
        };
        let algorithm = algorithm.ok_or_else(|| named("its algorithm can't be used"))?;
        if let AlgorithmParameters::RSA(params) = &jwk.algorithm
            && params.n.len() < RSA_2048_CHARACTERS
        {
            return Err(named("an RSA key needs 2048 bits"));
        }
        Ok(Self {
            kid: jwk.common.key_id.clone(),
            algorithm,
            decoding: DecodingKey::from_jwk(jwk).map_err(|_| named("it can't be read"))?,
            validation: signature_only(algorithm),
        })
    }
}

/// Length of 256 bytes in base64url.
const RSA_2048_CHARACTERS: usize = 342;

fn key_algorithm(algorithm: Algorithm) -> KeyAlgorithm {
    match algorithm {
        Algorithm::RS256 => KeyAlgorithm::RS256,
        Algorithm::RS384 => KeyAlgorithm::RS384,
        Algorithm::RS512 => KeyAlgorithm::RS512,
        Algorithm::PS256 => KeyAlgorithm::PS256,
        Algorithm::PS384 => KeyAlgorithm::PS384,
        Algorithm::PS512 => KeyAlgorithm::PS512,
        Algorithm::ES256 => KeyAlgorithm::ES256,
        Algorithm::ES384 => KeyAlgorithm::ES384,
        Algorithm::EdDSA => KeyAlgorithm::EdDSA,
        _ => KeyAlgorithm::UNKNOWN_ALGORITHM,
    }
}

/// Finds a claim by its name, or by a path of names separated by dots: `realm_access.roles`.
fn find<'a>(claims: &'a serde_json::Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let (first, rest) = path.split_once('.')?;
    find(claims.get(first)?.as_object()?, rest)
}

/// Returns an id that all tokens of one session share, if the issuer names the session, and no other session has.
fn session_id(claims: &Registered) -> SessionId {
    let name = claims
        .sid
        .as_deref()
        .or(claims.jti.as_deref())
        .unwrap_or_default();
    let mut hash = Sha256::new();
    for part in [claims.iss.as_str(), claims.sub.as_str(), name] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let bytes: [u8; 16] = std::array::from_fn(|i| digest[i]);
    let id: Uuid = Builder::from_custom_bytes(bytes).into_uuid();
    SessionId(id)
}

impl fmt::Debug for ExternalIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalIssuer")
            .field("issuer", &self.rules.issuer)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "external_token_tests.rs"]
mod tests;
