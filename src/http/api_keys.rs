//! `/api-keys`: API keys, managed by the administrators of an organisation.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::param::Path;
use poem_openapi::types::Example;
use poem_openapi::{ApiResponse, Enum, Object, OpenApi};
use serde::Deserialize;
use uuid::Uuid;

use super::Tag;
use super::error::ApiErr;
use super::error::answers::{BODY, S400, S404, S409, S429, SECURED};
use super::payload::J;
use super::principal::Caller;
use super::schema::{Context, Time, WrittenId};
use crate::domain::account::Scope;
use crate::service::Services;
use crate::service::api_keys::{self, ListedKey, NewKey};

/// Handlers of `/api-keys`.
pub struct ApiKeyApi;

/// What an API key gives access to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, Deserialize)]
#[oai(rename = "ApiKeyScope")]
pub enum ScopeBody {
    /// Read the audit trail, its proofs and its live stream.
    #[serde(rename = "audit:read")]
    #[oai(rename = "audit:read")]
    AuditRead,
    /// Read the organisation's users.
    #[serde(rename = "users:read")]
    #[oai(rename = "users:read")]
    UsersRead,
}

/// A request for a new API key.
#[derive(Clone, Debug, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "CreateApiKeyRequest",
    rename_all = "camelCase",
    deny_unknown_fields,
    skip_serializing_if_is_none,
    example
)]
pub struct CreateApiKeyBody {
    /// Name that says what the key is for.
    #[oai(validator(max_length = 100))]
    pub name: String,
    /// What the key gives access to.
    pub scopes: Vec<ScopeBody>,
    /// Days until the key expires; 90 if absent.
    #[oai(validator(minimum(value = "1"), maximum(value = "365")))]
    pub expires_in_days: Option<u16>,
}

impl Example for CreateApiKeyBody {
    fn example() -> Self {
        Self {
            name: "Log collector".into(),
            scopes: vec![ScopeBody::AuditRead],
            expires_in_days: Some(90),
        }
    }
}

/// An API key, without its secret.
#[derive(Clone, Debug, Object)]
#[oai(rename = "ApiKey", rename_all = "camelCase")]
pub struct ApiKeyBody {
    /// Id of the key.
    pub id: Uuid,
    /// Name that says what the key is for.
    pub name: String,
    /// The first characters of the key, to tell keys apart.
    pub prefix: String,
    /// What the key gives access to. New versions may add scopes.
    pub scopes: Vec<String>,
    /// E-mail address of its creator. The key stops working once its creator is no longer an active
    /// administrator.
    pub created_by: String,
    /// When it was created.
    pub created_at: Time,
    /// When it expires.
    pub expires_at: Time,
    /// When it was last used, to the minute; null if never.
    #[oai(nullable)]
    pub last_used_at: Option<Time>,
    /// When it was revoked; null if it was not.
    #[oai(nullable)]
    pub revoked_at: Option<Time>,
}

/// A new API key, with its secret.
#[derive(Clone, Object)]
#[oai(rename = "CreatedApiKey", rename_all = "camelCase")]
pub struct CreatedApiKeyBody {
    /// The key, without its secret.
    #[oai(flatten)]
    pub api_key: ApiKeyBody,
    /// The key itself, for the header `X-API-Key`. Shown only in this response.
    pub key: String,
}

impl From<ListedKey> for ApiKeyBody {
    fn from(ListedKey { key, creator }: ListedKey) -> Self {
        Self {
            id: key.id,
            name: key.name,
            prefix: key.prefix,
            scopes: key.scopes,
            created_by: creator.email,
            created_at: Time(key.created_at),
            expires_at: Time(key.expires_at),
            last_used_at: key.last_used_at.map(Time),
            revoked_at: key.revoked_at.map(Time),
        }
    }
}

impl From<CreateApiKeyBody> for NewKey {
    fn from(body: CreateApiKeyBody) -> Self {
        let scopes = body.scopes.into_iter().map(|scope| match scope {
            ScopeBody::AuditRead => Scope::AuditRead,
            ScopeBody::UsersRead => Scope::UsersRead,
        });
        Self {
            name: body.name,
            scopes: scopes.map(|scope| scope.as_str().to_owned()).collect(),
            expires_in_days: body.expires_in_days,
        }
    }
}

#[derive(ApiResponse)]
enum Made {
    /// The key is created and recorded.
    #[oai(status = 201)]
    Done(J<CreatedApiKeyBody>),
}

#[derive(ApiResponse)]
enum Revoked {
    /// The key is revoked.
    #[oai(status = 204)]
    Done,
}

#[OpenApi(prefix_path = "/api/v1", tag = "Tag::ApiKeys")]
impl ApiKeyApi {
    /// List API keys.
    ///
    /// Lists the organisation's keys, newest first, including expired and revoked ones. Requires the role
    /// `ORG_ADMIN`.
    #[oai(path = "/api-keys", method = "get", operation_id = "listApiKeys")]
    async fn list_api_keys(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
    ) -> Result<J<Vec<ApiKeyBody>>, ApiErr<{ SECURED | S429 }>> {
        let keys = api_keys::list_api_keys(&services, &caller.0).await?;
        Ok(J(keys.into_iter().map(ApiKeyBody::from).collect()))
    }

    /// Create an API key.
    ///
    /// The key lets a program read in the caller's name. It is shown in this response and never again. Requires
    /// the role `ORG_ADMIN`, and a recent second factor where the organisation demands one.
    #[oai(path = "/api-keys", method = "post", operation_id = "createApiKey")]
    async fn create_api_key(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        body: J<CreateApiKeyBody>,
    ) -> Result<Made, ApiErr<{ SECURED | S400 | S409 | S429 | BODY }>> {
        let (made, key) = api_keys::create_api_key(&services, &caller.0, &context.0, body.0.into()).await?;
        Ok(Made::Done(J(CreatedApiKeyBody {
            api_key: made.into(),
            key,
        })))
    }

    /// Revoke an API key.
    ///
    /// Any key of the organisation, whoever created it. The key stops working at once, and streams opened with
    /// it end. Requires the role `ORG_ADMIN`, and a recent second factor where the organisation demands one.
    #[oai(path = "/api-keys/:id", method = "delete", operation_id = "revokeApiKey")]
    async fn revoke_api_key(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// Id of the key.
        id: Path<WrittenId>,
    ) -> Result<Revoked, ApiErr<{ SECURED | S404 | S429 }>> {
        api_keys::revoke_api_key(&services, &caller.0, &context.0, &id.0.0).await?;
        Ok(Revoked::Done)
    }
}

prints_no_secret!(CreatedApiKeyBody);
