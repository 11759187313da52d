//! Authentication: login, MFA verification, token refresh, logout, step-up and expired passwords.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use serde::Deserialize;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Tag;
use super::device::Remembered;
use super::error::ApiErr;
use super::error::answers::{BODY, S400, S401, S403, S404, S409, S429, SECURED};
use super::mfa::CodeBody;
use super::payload::J;
use super::principal::{AnySession, Caller};
use super::restore::FactorKindBody;
use super::schema::Context;
use crate::domain::account::Role;
use crate::service::Services;
use crate::service::login::{self, LoginAnswer, LoginRequest, Next, Password};
use crate::service::session::{self, AccessToken, Tokens};

/// Handlers of `/auth/…` for logins and tokens.
pub struct AuthenticationApi;

/// A confirmation.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Message")]
pub struct MessageBody {
    /// What was done, as a sentence for people.
    pub message: String,
}

/// Credentials for a login.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "LoginRequest",
    rename_all = "camelCase",
    deny_unknown_fields,
    example
)]
pub struct LoginRequestBody {
    /// Slug of the user's organisation.
    #[oai(validator(max_length = 64))]
    pub organization_slug: String,
    /// E-mail address of the user.
    #[oai(validator(max_length = 254))]
    pub email: String,
    /// The user's password.
    #[oai(validator(max_length = 1024))]
    pub password: String,
}

impl Example for LoginRequestBody {
    fn example() -> Self {
        Self {
            organization_slug: "acme".into(),
            email: "dev@acme.example".into(),
            password: "correct horse battery staple".into(),
        }
    }
}

/// Result of a login: tokens, or the next step that is required. Fields that do not apply are null.
#[derive(Clone, Object)]
#[oai(rename = "LoginResponse", rename_all = "camelCase")]
pub struct LoginResponseBody {
    /// True if a second factor is required: continue with `POST /auth/verify-mfa`.
    pub mfa_required: bool,
    /// Challenge token, to be sent with the answer of the second factor.
    #[oai(nullable)]
    pub mfa_challenge_token: Option<String>,
    /// Seconds until the challenge expires.
    #[oai(nullable)]
    pub mfa_challenge_expires_in: Option<i64>,
    /// Kinds of second factor that can answer the challenge, strongest first. For `passkey`, continue with
    /// `POST /auth/verify-mfa/passkey/options`.
    #[oai(nullable)]
    pub mfa_methods: Option<Vec<FactorKindBody>>,
    /// True if MFA must be set up first. Until it is, the access token is accepted only by `POST /mfa/setup`,
    /// `POST /mfa/setup/confirm`, `POST /mfa/passkeys/options`, `POST /mfa/passkeys` and `POST /auth/logout`;
    /// afterwards the same tokens give full access.
    pub mfa_setup_required: bool,
    /// True if the password has expired: continue with `POST /auth/change-expired-password`, then log in again.
    /// If `mfaRequired` is true as well, verify the second factor first, which answers 403 in this case.
    pub password_expired: bool,
    /// Token for `POST /auth/change-expired-password`; with `mfaRequired` it works only after the second factor.
    #[oai(nullable)]
    pub password_change_token: Option<String>,
    /// Access token, for the `Authorization` header.
    #[oai(nullable)]
    pub access_token: Option<String>,
    /// Refresh token, for `POST /auth/refresh`.
    #[oai(nullable)]
    pub refresh_token: Option<String>,
    /// Seconds until the access token expires.
    #[oai(nullable)]
    pub expires_in: Option<i64>,
    /// Type of the access token: `Bearer`.
    #[oai(nullable)]
    pub token_type: Option<String>,
    /// The user who logged in; null while a second factor or a new password is still required.
    #[oai(nullable)]
    pub user: Option<SessionUserBody>,
}

/// The user who logged in.
#[derive(Clone, Debug, Object)]
#[oai(rename = "SessionUser", rename_all = "camelCase")]
pub struct SessionUserBody {
    /// Id of the user.
    pub id: Uuid,
    /// E-mail address.
    pub email: String,
    /// Display name.
    #[oai(nullable)]
    pub name: Option<String>,
    /// Whether the user has the role `ORG_ADMIN`.
    pub is_org_admin: bool,
    /// Id of the user's organisation.
    pub organization_id: Uuid,
    /// Name of the organisation.
    pub organization_name: String,
    /// Slug of the organisation.
    pub organization_slug: String,
    /// Whether a second factor is enrolled.
    pub mfa_enabled: bool,
}

/// A code that answers the MFA challenge of a login.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(rename = "VerifyMfaRequest", rename_all = "camelCase", deny_unknown_fields)]
pub struct VerifyMfaBody {
    /// `mfaChallengeToken` from the response to the login.
    #[oai(validator(max_length = 128))]
    pub mfa_challenge_token: String,
    /// Six-digit code from the authenticator app, or a recovery code; case, spaces and hyphens are ignored.
    #[oai(validator(max_length = 64))]
    pub code: String,
}

/// The tokens of a session.
#[derive(Clone, Object)]
#[oai(rename = "TokenResponse", rename_all = "camelCase")]
pub struct TokenBody {
    /// Access token, for the `Authorization` header.
    pub access_token: String,
    /// Refresh token, for the next `POST /auth/refresh`. Can be used once.
    pub refresh_token: String,
    /// Type of the access token: `Bearer`.
    pub token_type: String,
    /// Seconds until the access token expires.
    pub expires_in: i64,
}

/// A new access token for the same session.
#[derive(Clone, Object)]
#[oai(rename = "AccessTokenResponse", rename_all = "camelCase")]
pub struct AccessTokenBody {
    /// Access token, for the `Authorization` header.
    pub access_token: String,
    /// Type of the access token: `Bearer`.
    pub token_type: String,
    /// Seconds until the access token expires.
    pub expires_in: i64,
}

/// A refresh token to exchange for new tokens.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(rename = "RefreshRequest", rename_all = "camelCase", deny_unknown_fields)]
pub struct RefreshBody {
    /// The latest refresh token of the session.
    #[oai(validator(max_length = 128))]
    pub refresh_token: String,
}

/// A new password to replace an expired one.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "ChangeExpiredPasswordRequest",
    rename_all = "camelCase",
    deny_unknown_fields
)]
pub struct ChangeExpiredPasswordBody {
    /// `passwordChangeToken` from the response to the login.
    #[oai(validator(max_length = 128))]
    pub password_change_token: String,
    /// The new password. Must satisfy the organisation's password rules.
    #[oai(validator(max_length = 1024))]
    pub new_password: String,
}

type OpenErrors = ApiErr<{ S400 | S401 | BODY | S429 }>;

#[OpenApi(prefix_path = "/api/v1/auth", tag = "Tag::Authentication")]
impl AuthenticationApi {
    /// Log in.
    ///
    /// An unknown organisation or e-mail address, a wrong password and an inactive account all get the same
    /// 401. A locked account gets 403, but only if the password is correct.
    #[oai(path = "/login", method = "post", operation_id = "login")]
    async fn login(
        &self,
        services: Data<&Arc<Services>>,
        context: Context,
        body: J<LoginRequestBody>,
    ) -> Result<Remembered<LoginResponseBody>, ApiErr<{ S400 | S401 | S403 | S409 | BODY | S429 }>> {
        let request = LoginRequest {
            organization_slug: body.0.organization_slug,
            email: body.0.email,
            password: Password(Zeroizing::new(body.0.password)),
        };
        let mut answer = login::login(&services, request, &context.0).await?;
        let device = match &mut answer.next {
            Next::Done(tokens) => tokens.device.take(),
            _ => None,
        };
        Ok(Remembered::new(&services, answer.into(), device))
    }

    /// Complete a login with a second factor.
    ///
    /// A challenge is valid for five minutes, can be used once, and allows five wrong codes. No code is
    /// accepted twice. If the password has expired, a correct code answers 403, and for ten minutes from then
    /// on the challenge is the `passwordChangeToken`.
    #[oai(path = "/verify-mfa", method = "post", operation_id = "verifyMfa")]
    async fn verify_mfa(
        &self,
        services: Data<&Arc<Services>>,
        context: Context,
        body: J<VerifyMfaBody>,
    ) -> Result<Remembered<TokenBody>, ApiErr<{ S400 | S401 | S403 | BODY | S429 }>> {
        let J(body) = body;
        let mut tokens =
            login::verify_mfa(&services, &body.mfa_challenge_token, &body.code, &context.0).await?;
        let device = tokens.device.take();
        Ok(Remembered::new(&services, tokens.into(), device))
    }

    /// Exchange a refresh token for new tokens.
    ///
    /// Each refresh token can be used once. Reusing one ends its session, because somebody else may hold a
    /// copy.
    #[oai(path = "/refresh", method = "post", operation_id = "refresh")]
    async fn refresh(
        &self,
        services: Data<&Arc<Services>>,
        context: Context,
        body: J<RefreshBody>,
    ) -> Result<J<TokenBody>, OpenErrors> {
        let tokens = session::refresh(&services, &body.0.refresh_token, &context.0).await?;
        Ok(J(tokens.into()))
    }

    /// End the session of the access token.
    ///
    /// The session's access and refresh tokens are no longer accepted.
    #[oai(path = "/logout", method = "post", operation_id = "logout")]
    async fn logout(
        &self,
        caller: AnySession,
        services: Data<&Arc<Services>>,
        context: Context,
    ) -> Result<J<MessageBody>, ApiErr<{ SECURED }>> {
        session::logout(&services, &caller.0, &context.0).await?;
        Ok(J(MessageBody {
            message: "Logged out successfully".into(),
        }))
    }

    /// Step up with a code.
    ///
    /// Verifies the second factor again, for calls that answer 401 with
    /// `error="insufficient_user_authentication"` (RFC 9470). Repeat the call afterwards with the new access
    /// token or with the old one. The refresh token stays the same.
    #[oai(path = "/step-up", method = "post", operation_id = "stepUp")]
    async fn step_up(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        body: J<CodeBody>,
    ) -> Result<J<AccessTokenBody>, ApiErr<{ SECURED | S400 | S404 | BODY | S429 }>> {
        let token = login::step_up(&services, &caller.0, &body.0.code, &context.0).await?;
        Ok(J(token.into()))
    }

    /// Replace an expired password.
    ///
    /// Ends every session of the user, who must then log in with the new password. Answers 400 while the second
    /// factor has not been verified.
    #[oai(
        path = "/change-expired-password",
        method = "post",
        operation_id = "changeExpiredPassword"
    )]
    async fn change_expired_password(
        &self,
        services: Data<&Arc<Services>>,
        context: Context,
        body: J<ChangeExpiredPasswordBody>,
    ) -> Result<J<MessageBody>, OpenErrors> {
        let J(body) = body;
        let new = Password(Zeroizing::new(body.new_password));
        login::change_expired_password(&services, &body.password_change_token, new, &context.0).await?;
        Ok(J(MessageBody {
            message: "Password changed successfully".into(),
        }))
    }
}

impl From<Tokens> for TokenBody {
    fn from(tokens: Tokens) -> Self {
        Self {
            access_token: tokens.access_token,
            refresh_token: tokens.refresh_token,
            token_type: BEARER.into(),
            expires_in: tokens.expires_in,
        }
    }
}

impl From<AccessToken> for AccessTokenBody {
    fn from(token: AccessToken) -> Self {
        Self {
            access_token: token.access_token,
            token_type: BEARER.into(),
            expires_in: token.expires_in,
        }
    }
}

const BEARER: &str = "Bearer";

impl From<LoginAnswer> for LoginResponseBody {
    fn from(answer: LoginAnswer) -> Self {
        let user = SessionUserBody {
            id: answer.user.id.0,
            email: answer.user.email,
            name: answer.user.name,
            is_org_admin: answer.user.role >= Role::OrgAdmin,
            organization_id: answer.organization.id.0,
            organization_name: answer.organization.name,
            organization_slug: answer.organization.slug,
            mfa_enabled: answer.user.mfa_enabled,
        };
        let nothing = Self {
            mfa_required: false,
            mfa_challenge_token: None,
            mfa_challenge_expires_in: None,
            mfa_methods: None,
            mfa_setup_required: false,
            password_expired: false,
            password_change_token: None,
            access_token: None,
            refresh_token: None,
            expires_in: None,
            token_type: None,
            user: None,
        };
        match answer.next {
            Next::Done(tokens) => Self {
                user: Some(user),
                ..nothing
            }
            .with(tokens),
            Next::SetUp(tokens) => Self {
                mfa_setup_required: true,
                user: Some(user),
                ..nothing
            }
            .with(tokens),
            Next::Challenge {
                token,
                expires_in,
                methods,
                password_expired,
            } => Self {
                mfa_required: true,
                password_expired,
                password_change_token: password_expired.then(|| token.clone()),
                mfa_challenge_token: Some(token),
                mfa_challenge_expires_in: Some(expires_in),
                mfa_methods: Some(methods.into_iter().map(Into::into).collect()),
                ..nothing
            },
            Next::PasswordExpired { token } => Self {
                password_expired: true,
                password_change_token: Some(token),
                ..nothing
            },
        }
    }
}

impl LoginResponseBody {
    fn with(self, tokens: Tokens) -> Self {
        Self {
            access_token: Some(tokens.access_token),
            refresh_token: Some(tokens.refresh_token),
            expires_in: Some(tokens.expires_in),
            token_type: Some(BEARER.into()),
            ..self
        }
    }
}

prints_no_secret!(
    LoginRequestBody,
    LoginResponseBody,
    VerifyMfaBody,
    TokenBody,
    RefreshBody,
    ChangeExpiredPasswordBody
);
