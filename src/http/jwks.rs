//! The public keys of access tokens (RFC 7517), for services that take them too.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi};

use super::Tag;
use super::error::ApiErr;
use super::payload::J;
use super::schema::Context;
use crate::domain::credential::PublicKey;
use crate::service::{Services, token_keys};

/// Public keys.
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
    /// `OKP`.
    pub kty: String,
    /// `Ed25519`.
    pub crv: String,
    /// `EdDSA`.
    pub alg: String,
    /// `sig`.
    #[oai(rename = "use")]
    pub usage: String,
    /// Names the key in a token's header.
    pub kid: String,
    /// The key, base64url.
    pub x: String,
}

#[OpenApi(tag = "Tag::Authentication")]
impl JwksApi {
    /// List the public keys of access tokens.
    ///
    /// Empty while HS256 signs them, which is the default: such keys are nobody else's.
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
