//! `/.well-known/jwks.json`: the public keys of access tokens (RFC 7517), for other services that accept them.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi};

use super::Tag;
use super::error::ApiErr;
use super::payload::J;
use super::schema::Context;
use crate::domain::credential::PublicKey;
use crate::service::{Services, token_keys};

/// Handler of `/.well-known/jwks.json`.
pub struct JwksApi;

/// A set of keys (RFC 7517 §5).
#[derive(Clone, Debug, Object)]
#[oai(rename = "JsonWebKeySet")]
pub struct JwksBody {
    /// The keys.
    pub keys: Vec<JwkBody>,
}

/// An Ed25519 key (RFC 8037 §2).
#[derive(Clone, Debug, Object)]
#[oai(rename = "JsonWebKey")]
pub struct JwkBody {
    /// Key type: `OKP`.
    pub kty: String,
    /// Curve: `Ed25519`.
    pub crv: String,
    /// Algorithm: `EdDSA`.
    pub alg: String,
    /// Use of the key: `sig`.
    #[oai(rename = "use")]
    pub usage: String,
    /// Key id, as in the header of a token.
    pub kid: String,
    /// The public key in base64url.
    pub x: String,
}

#[OpenApi(tag = "Tag::Authentication")]
impl JwksApi {
    /// List the public keys that verify access tokens.
    ///
    /// Empty while tokens are signed with HS256, which is the default: its keys are secret.
    #[oai(
        path = "/.well-known/jwks.json",
        method = "get",
        operation_id = "listTokenKeys"
    )]
    #[expect(clippy::unused_async, reason = "handlers are async")]
    async fn list_token_keys(
        &self,
        services: Data<&Arc<Services>>,
        context: Context,
    ) -> Result<J<JwksBody>, ApiErr<0>> {
        let keys = token_keys::public_keys(&services, context.0.at);
        Ok(J(JwksBody {
            keys: keys.into_iter().map(JwkBody::from).collect(),
        }))
    }
}

impl From<PublicKey> for JwkBody {
    fn from(key: PublicKey) -> Self {
        Self {
            kty: "OKP".into(),
            crv: "Ed25519".into(),
            alg: "EdDSA".into(),
            usage: "sig".into(),
            kid: key.kid,
            x: key.x,
        }
    }
}
