//! Passkeys: registration, listing, removal, and use at login and for step-up. Options and responses have the
//! JSON form of Web Authentication Level 3 (§5.1.8, §5.1.9, §5.1.1), so that a page can pass them on unchanged.

mod bodies;

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::param::Path;
use poem_openapi::{ApiResponse, OpenApi};

use super::Tag;
use super::account::{AccessTokenBody, TokenBody};
use super::device::Remembered;
use super::error::ApiErr;
use super::error::answers::{BODY, S400, S401, S403, S404, S409, S429, SECURED};
use super::payload::J;
use super::principal::{AnySession, Caller};
use super::schema::{Context, WrittenId};
use crate::service::Services;
use crate::service::login;
use crate::service::passkeys::{self, Asserted, Created, NewPasskey};
use bodies::{
    LoginOptionsBody, OptionsBody, PasskeyBody, RegisterPasskeyBody, RegisteredPasskeyBody,
    StepUpWithPasskeyBody, VerifyWithPasskeyBody,
};

/// Handlers for passkeys.
pub struct PasskeyApi;

#[derive(ApiResponse)]
enum Removed {
    /// The passkey is removed.
    #[oai(status = 204)]
    Done,
}

#[OpenApi(prefix_path = "/api/v1")]
impl PasskeyApi {
    /// Start registering a passkey.
    ///
    /// Returns the options for `navigator.credentials.create()`, which are valid for five minutes and can be
    /// answered once. Also works in an enrolment-only session. If MFA is on, the second factor must have been
    /// used in this session within the last ten minutes, or less where the organisation says so; otherwise the
    /// answer is 401 and a step-up is needed first.
    #[oai(
        path = "/mfa/passkeys/options",
        method = "post",
        operation_id = "passkeyRegistrationOptions",
        tag = "Tag::Mfa"
    )]
    async fn passkey_registration_options(
        &self,
        caller: AnySession,
        services: Data<&Arc<Services>>,
        context: Context,
    ) -> Result<J<OptionsBody>, ApiErr<{ SECURED | S409 | S429 }>> {
        let options = passkeys::passkey_registration_options(&services, &caller.0, &context.0).await?;
        Ok(J(options.into()))
    }

    /// Register a passkey.
    ///
    /// If it is the user's first second factor, this switches MFA on: the response has recovery codes, and an
    /// enrolment-only session becomes a full one. Every other session of the user ends.
    #[oai(
        path = "/mfa/passkeys",
        method = "post",
        operation_id = "registerPasskey",
        tag = "Tag::Mfa"
    )]
    async fn register_passkey(
        &self,
        caller: AnySession,
        services: Data<&Arc<Services>>,
        context: Context,
        body: J<RegisterPasskeyBody>,
    ) -> Result<J<RegisteredPasskeyBody>, ApiErr<{ SECURED | S400 | S409 | BODY | S429 }>> {
        let J(body) = body;
        let new = NewPasskey {
            name: body.name,
            created: Created::try_from(body.credential)?,
            enrolment_code: body.enrolment_code,
        };
        let registered = passkeys::register_passkey(&services, &caller.0, new, &context.0).await?;
        Ok(J(registered.into()))
    }

    /// List the caller's own passkeys.
    ///
    /// Lists all passkeys, oldest first.
    #[oai(
        path = "/mfa/passkeys",
        method = "get",
        operation_id = "listPasskeys",
        tag = "Tag::Mfa"
    )]
    #[expect(clippy::unused_async, reason = "handlers are async")]
    async fn list_passkeys(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
    ) -> Result<J<Vec<PasskeyBody>>, ApiErr<{ SECURED | S429 }>> {
        let listed = passkeys::list_passkeys(&services, &caller.0)?;
        Ok(J(listed.into_iter().map(Into::into).collect()))
    }

    /// Remove one of the caller's own passkeys.
    ///
    /// The second factor must have been used in this session within the last ten minutes, or less where the
    /// organisation says so. Removing the last factor switches MFA off, and is refused while the organisation
    /// requires MFA. Every other session of the user ends.
    #[oai(
        path = "/mfa/passkeys/:id",
        method = "delete",
        operation_id = "removePasskey",
        tag = "Tag::Mfa"
    )]
    async fn remove_passkey(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// Id of the passkey.
        id: Path<WrittenId>,
    ) -> Result<Removed, ApiErr<{ SECURED | S400 | S404 | S429 }>> {
        passkeys::remove_passkey(&services, &caller.0, &id.0.0, &context.0).await?;
        Ok(Removed::Done)
    }

    /// Start completing a login with a passkey.
    ///
    /// Returns the options for `navigator.credentials.get()`. Requesting options again invalidates the earlier
    /// ones.
    #[oai(
        path = "/auth/verify-mfa/passkey/options",
        method = "post",
        operation_id = "passkeyLoginOptions",
        tag = "Tag::Authentication"
    )]
    async fn passkey_login_options(
        &self,
        services: Data<&Arc<Services>>,
        context: Context,
        body: J<LoginOptionsBody>,
    ) -> Result<J<OptionsBody>, ApiErr<{ S400 | S401 | S409 | BODY | S429 }>> {
        let token = &body.0.mfa_challenge_token;
        let options = login::passkey_login_options(&services, token, &context.0).await?;
        Ok(J(options.into()))
    }

    /// Complete a login with a passkey.
    ///
    /// Options can be answered once, whether correctly or not. The challenge of the login allows five wrong
    /// answers. If the password has expired, a correct answer results in 403, as with `POST /auth/verify-mfa`.
    #[oai(
        path = "/auth/verify-mfa/passkey",
        method = "post",
        operation_id = "verifyMfaWithPasskey",
        tag = "Tag::Authentication"
    )]
    async fn verify_mfa_with_passkey(
        &self,
        services: Data<&Arc<Services>>,
        context: Context,
        body: J<VerifyWithPasskeyBody>,
    ) -> Result<Remembered<TokenBody>, ApiErr<{ S400 | S401 | S403 | S409 | BODY | S429 }>> {
        let J(body) = body;
        let asserted = Asserted::try_from(body.credential)?;
        let token = &body.mfa_challenge_token;
        let mut tokens = login::verify_mfa_with_passkey(&services, token, &asserted, &context.0).await?;
        let device = tokens.device.take();
        Ok(Remembered::new(&services, tokens.into(), device))
    }

    /// Start a step-up with a passkey.
    ///
    /// Returns the options for `navigator.credentials.get()`. Requesting options again invalidates the earlier
    /// ones.
    #[oai(
        path = "/auth/step-up/passkey/options",
        method = "post",
        operation_id = "passkeyStepUpOptions",
        tag = "Tag::Authentication"
    )]
    async fn passkey_step_up_options(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
    ) -> Result<J<OptionsBody>, ApiErr<{ SECURED | S400 | S409 | S429 }>> {
        let options = login::passkey_step_up_options(&services, &caller.0, &context.0).await?;
        Ok(J(options.into()))
    }

    /// Step up with a passkey.
    ///
    /// Works like `POST /auth/step-up`, with a passkey instead of a code.
    #[oai(
        path = "/auth/step-up/passkey",
        method = "post",
        operation_id = "stepUpWithPasskey",
        tag = "Tag::Authentication"
    )]
    async fn step_up_with_passkey(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        body: J<StepUpWithPasskeyBody>,
    ) -> Result<J<AccessTokenBody>, ApiErr<{ SECURED | S400 | S409 | BODY | S429 }>> {
        let asserted = Asserted::try_from(body.0.credential)?;
        let token = login::step_up_with_passkey(&services, &caller.0, &asserted, &context.0).await?;
        Ok(J(token.into()))
    }
}
