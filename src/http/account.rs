//! Logging in and out (contract B1).

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

/// Logging in and out.
pub struct AuthenticationApi;

/// Says what was done.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Message")]
pub struct MessageBody {
    /// What was done.
    pub message: String,
}

/// Who wants in.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "LoginRequest",
    rename_all = "camelCase",
    deny_unknown_fields,
    example
)]
pub struct LoginRequestBody {
    /// The organisation's slug.
    #[oai(validator(max_length = 64))]
    pub organization_slug: String,
    /// E-mail address.
    #[oai(validator(max_length = 254))]
    pub email: String,
    /// Password.
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

/// How a login goes on: what does not apply is null.
#[derive(Clone, Object)]
#[oai(rename = "LoginResponse", rename_all = "camelCase")]
pub struct LoginResponseBody {
    /// A second factor has to be shown: go on with `POST /auth/verify-mfa`.
    pub mfa_required: bool,
    /// The challenge to show with the code.
    #[oai(nullable)]
    pub mfa_challenge_token: Option<String>,
    /// Seconds until the challenge is dead.
    #[oai(nullable)]
    pub mfa_challenge_expires_in: Option<i64>,
    /// By what it can be shown, the strongest first: `passkey` by `POST /auth/verify-mfa/passkey/options`.
    #[oai(nullable)]
    pub mfa_methods: Option<Vec<FactorKindBody>>,
    /// MFA has to be set up first: the access token opens `POST /mfa/setup`, `POST /mfa/setup/confirm`,
    /// `POST /mfa/passkeys/options`, `POST /mfa/passkeys` and `POST /auth/logout` alone, until that is done.
    /// Then the same tokens open everything.
    pub mfa_setup_required: bool,
    /// The password has expired: go on with `POST /auth/change-expired-password`, then log in again. With
    /// `mfaRequired` the second factor comes first: showing it ends in a 403 then.
    pub password_expired: bool,
    /// What changes the password; with `mfaRequired` once the second factor was shown.
    #[oai(nullable)]
    pub password_change_token: Option<String>,
    /// For the `Authorization` header.
    #[oai(nullable)]
    pub access_token: Option<String>,
    /// For `POST /auth/refresh`.
    #[oai(nullable)]
    pub refresh_token: Option<String>,
    /// Seconds until the access token expires.
    #[oai(nullable)]
    pub expires_in: Option<i64>,
    /// `Bearer`.
    #[oai(nullable)]
    pub token_type: Option<String>,
    /// Who logged in; null until a demanded second factor was shown.
    #[oai(nullable)]
    pub user: Option<SessionUserBody>,
}

/// Who logged in.
#[derive(Clone, Debug, Object)]
#[oai(rename = "SessionUser", rename_all = "camelCase")]
pub struct SessionUserBody {
    /// Id.
    pub id: Uuid,
    /// E-mail address.
    pub email: String,
    /// Name shown to people.
    #[oai(nullable)]
    pub name: Option<String>,
    /// Whether the user has the role `ORG_ADMIN`.
    pub is_org_admin: bool,
    /// The user's organisation.
    pub organization_id: Uuid,
    /// Its name.
    pub organization_name: String,
    /// Its slug.
    pub organization_slug: String,
    /// Whether a second factor is enrolled.
    pub mfa_enabled: bool,
}

/// A challenge and the code for it.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(rename = "VerifyMfaRequest", rename_all = "camelCase", deny_unknown_fields)]
pub struct VerifyMfaBody {
    /// The challenge of the login.
    #[oai(validator(max_length = 128))]
    pub mfa_challenge_token: String,
    /// Six digits of the authenticator app, or a recovery code: case, spaces and hyphens don't matter.
    #[oai(validator(max_length = 64))]
    pub code: String,
}

/// Tokens to go on with.
#[derive(Clone, Object)]
#[oai(rename = "TokenResponse", rename_all = "camelCase")]
pub struct TokenBody {
    /// For the `Authorization` header.
    pub access_token: String,
    /// For the next `POST /auth/refresh`. Works once.
    pub refresh_token: String,
    /// `Bearer`.
    pub token_type: String,
    /// Seconds until the access token expires.
    pub expires_in: i64,
}

/// A further access token.
#[derive(Clone, Object)]
#[oai(rename = "AccessTokenResponse", rename_all = "camelCase")]
pub struct AccessTokenBody {
    /// For the `Authorization` header.
    pub access_token: String,
    /// `Bearer`.
    pub token_type: String,
    /// Seconds until the access token expires.
    pub expires_in: i64,
}

/// A refresh token.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(rename = "RefreshRequest", rename_all = "camelCase", deny_unknown_fields)]
pub struct RefreshBody {
    /// The newest refresh token of the session.
    #[oai(validator(max_length = 128))]
    pub refresh_token: String,
}

/// A new password in place of an expired one.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "ChangeExpiredPasswordRequest",
    rename_all = "camelCase",
    deny_unknown_fields
)]
pub struct ChangeExpiredPasswordBody {
    /// The token of the login.
    #[oai(validator(max_length = 128))]
    pub password_change_token: String,
    /// The new password, by the organisation's rules.
    #[oai(validator(max_length = 1024))]
    pub new_password: String,
}

type OpenErrors = ApiErr<{ S400 | S401 | BODY | S429 }>;

#[OpenApi(prefix_path = "/api/v1/auth", tag = "Tag::Authentication")]
impl AuthenticationApi {
    /// Log in.
    ///
    /// A wrong organisation, e-mail address or password, and an inactive account, end in one and the same
    /// 401. A locked account is told so, with 403, only to somebody who knows the password.
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
    /// A challenge lives five minutes, works once and bears five wrong codes. No code works twice. Where the
    /// password has expired a right one ends in 403, and the challenge is the `passwordChangeToken` for ten minutes.
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
    /// Each refresh token works once. One that is shown again ends its session: somebody has a copy.
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
    /// Its access and refresh tokens open nothing from then on.
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

    /// Use the second factor once more.
    ///
    /// For calls that answer 401 with `error="insufficient_user_authentication"` (RFC 9470): repeat them
    /// afterwards with the new access token, or with the old one. The refresh token stays as it is.
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
    /// Ends every session of the user, who then logs in with the new password. 400 while a second factor is still
    /// to be shown.
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
