//! The wire: every route, every layer, the OpenAPI document.
//!
//! Handlers turn a request into a call of one service function and its answer into a response. They
//! never see the store, the plugin host or SQL.

pub mod account;
pub mod activity;
pub mod administration;
mod allow;
pub mod api_keys;
pub mod approvals;
pub mod audit;
pub mod device;
mod document;
mod envelope;
pub mod error;
pub mod health;
pub mod invitations;
pub mod jwks;
pub mod mfa;
pub mod not_me;
pub mod parameter;
pub mod passkeys;
pub mod password;
pub mod payload;
pub mod plugins;
pub mod principal;
pub mod reset;
pub mod restore;
pub mod schema;
pub mod sessions;
pub mod users;

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use poem::{Endpoint, EndpointExt as _, Response, Route};
use poem_openapi::{OpenApiService, Tags};

pub use document::{document, document_yaml};
pub use envelope::{ClientAddress, NoPlace};

use crate::service::Services;

/// Groups of operations in the OpenAPI document.
#[derive(Tags)]
pub enum Tag {
    /// Reset a user's MFA.
    Reset,
    /// Log in, refresh tokens, log out, and change one's own password.
    Authentication,
    /// Manage the caller's own second factors.
    Mfa,
    /// List and end sessions.
    Sessions,
    /// Manage the users of the organisation.
    Users,
    /// Approve or reject requests that need a further administrator.
    Approvals,
    /// Manage API keys, for programs that only read.
    ApiKeys,
    /// Read and change the settings of the organisation.
    Organization,
    /// Manage policy plugins and their bindings.
    Policies,
    /// Read and verify the audit trail.
    Audit,
    /// Check liveness and readiness.
    Health,
}

/// The operator's settings of the HTTP layer.
#[derive(Clone)]
pub struct HttpOptions {
    /// Maximum size of a request body, in bytes.
    pub body_limit_bytes: usize,
    /// Resolves the client's IP address.
    pub client_address: ClientAddress,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            body_limit_bytes: 64 * 1024,
            client_address: Arc::new(|peer, _| peer),
        }
    }
}

/// Assembles all routes and layers into one endpoint.
pub fn endpoint(services: Arc<Services>, options: HttpOptions) -> impl Endpoint<Output = Response> {
    let document = document();
    let allowed = allow::Allowed::new(&document, &document::PATHS);
    let api = document::add_pages(Route::new(), &document)
        .at("/invitation", invitations::page())
        .at("/not-me", not_me::page())
        .nest("/", operations())
        .data(Arc::clone(&services));
    envelope::Envelope {
        inner: api,
        services,
        allowed,
        body_limit_bytes: options.body_limit_bytes,
        client_address: options.client_address,
        busy_told: AtomicI64::new(0),
    }
}

/// Returns every operation. The document describes exactly these.
fn operations() -> OpenApiService<impl poem_openapi::OpenApi, ()> {
    let apis = (
        reset::ResetApi,
        account::AuthenticationApi,
        // Nested, because poem-openapi supports tuples of at most 16.
        (mfa::MfaApi, passkeys::PasskeyApi),
        (sessions::SessionApi, password::PasswordApi),
        activity::ActivityApi,
        jwks::JwksApi,
        invitations::InvitationApi,
        not_me::NotMeApi,
        users::UserApi,
        restore::RestoreApi,
        approvals::ApprovalApi,
        api_keys::ApiKeyApi,
        administration::AdministrationApi,
        plugins::PluginApi::default(),
        audit::AuditApi,
        health::HealthApi,
    );
    OpenApiService::new(apis, "Latchkey", env!("CARGO_PKG_VERSION"))
        .description(document::DESCRIPTION)
        .contact(document::contact())
        .license(document::license())
}
