//! `/mfa/…`: the caller's own MFA.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{ApiResponse, Object, OpenApi};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::Tag;
use super::error::ApiErr;
use super::error::answers::{BODY, S400, S404, S409, S429, SECURED};
use super::payload::J;
use super::principal::{AnySession, Caller};
use super::schema::Context;
use crate::service::Services;
use crate::service::enrolment::{self, Confirmation, RecoveryCodes};

/// Handlers of `/mfa/…`.
pub struct MfaApi;

/// A new TOTP secret for an authenticator app.
#[derive(Clone, Object)]
#[oai(rename = "MfaSetupResponse", rename_all = "camelCase")]
pub struct SetUpBody {
    /// QR code of the `otpauth` URL, as a PNG image in base64.
    pub qr_code_base64: String,
    /// The secret in base32.
    pub secret: String,
}

/// Confirms that the authenticator app has the secret.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(rename = "MfaConfirmRequest", rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfirmBody {
    /// The secret from the response to `POST /mfa/setup`.
    #[oai(validator(max_length = 128))]
    pub secret: String,
    /// Six-digit code from the authenticator app.
    #[oai(validator(max_length = 64))]
    pub code: String,
    /// The enrolment code from the administrator, where the reset demanded one.
    #[oai(validator(max_length = 64))]
    pub enrolment_code: Option<String>,
}

/// A code of the second factor.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(rename = "MfaCodeRequest", rename_all = "camelCase", deny_unknown_fields)]
pub struct CodeBody {
    /// Six-digit code from the authenticator app, or a recovery code.
    #[oai(validator(max_length = 64))]
    pub code: String,
}

/// New recovery codes. Shown only in this response.
#[derive(Clone, Object)]
#[oai(rename = "RecoveryCodesResponse", rename_all = "camelCase")]
pub struct RecoveryCodesBody {
    /// Eight codes, each of which can be used once.
    pub recovery_codes: Vec<String>,
}

/// A 200 response without a body.
#[derive(ApiResponse)]
enum Disabled {
    /// MFA is off.
    #[oai(status = 200)]
    Done,
}

#[OpenApi(prefix_path = "/api/v1/mfa", tag = "Tag::Mfa")]
impl MfaApi {
    /// Start setting up MFA.
    ///
    /// Returns a new secret, which takes effect once it is confirmed in the same session. Also works in an
    /// enrolment-only session.
    #[oai(path = "/setup", method = "post", operation_id = "setUpMfa")]
    async fn set_up_mfa(
        &self,
        caller: AnySession,
        services: Data<&Arc<Services>>,
        context: Context,
    ) -> Result<J<SetUpBody>, ApiErr<{ SECURED | S409 | S429 }>> {
        let shown = enrolment::set_up_mfa(&services, &caller.0, &context.0).await?;
        Ok(J(SetUpBody {
            qr_code_base64: shown.qr_code_base64.to_string(),
            secret: shown.secret.to_string(),
        }))
    }

    /// Confirm setting up MFA.
    ///
    /// Switches MFA on. An enrolment-only session becomes a full one, and its tokens stay valid. Every other
    /// session of the user ends.
    #[oai(path = "/setup/confirm", method = "post", operation_id = "confirmMfa")]
    async fn confirm_mfa(
        &self,
        caller: AnySession,
        services: Data<&Arc<Services>>,
        context: Context,
        body: J<ConfirmBody>,
    ) -> Result<J<RecoveryCodesBody>, ApiErr<{ SECURED | S400 | S409 | BODY | S429 }>> {
        let J(body) = body;
        let confirmation = Confirmation {
            secret: Zeroizing::new(body.secret),
            code: body.code,
            enrolment_code: body.enrolment_code,
        };
        let codes = enrolment::confirm_mfa(&services, &caller.0, confirmation, &context.0).await?;
        Ok(J(codes.into()))
    }

    /// Switch off the caller's own MFA.
    ///
    /// Refused while the organisation requires MFA.
    #[oai(path = "/disable", method = "post", operation_id = "disableMfa")]
    async fn disable_mfa(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        body: J<CodeBody>,
    ) -> Result<Disabled, ApiErr<{ SECURED | S400 | S404 | BODY | S429 }>> {
        enrolment::disable_mfa(&services, &caller.0, &body.0.code, &context.0).await?;
        Ok(Disabled::Done)
    }

    /// Replace the caller's own recovery codes.
    ///
    /// The old codes stop working at once, and the user's other sessions end. The second factor must have been
    /// used within the last ten minutes, or less where the organisation says so; otherwise the answer is 401
    /// with `error="insufficient_user_authentication"`, and `POST /auth/step-up` is needed first.
    #[oai(
        path = "/recovery-codes/regenerate",
        method = "post",
        operation_id = "regenerateRecoveryCodes"
    )]
    async fn regenerate_recovery_codes(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
    ) -> Result<J<RecoveryCodesBody>, ApiErr<{ SECURED | S404 | S429 }>> {
        let codes = enrolment::regenerate_recovery_codes(&services, &caller.0, &context.0).await?;
        Ok(J(codes.into()))
    }
}

impl From<RecoveryCodes> for RecoveryCodesBody {
    fn from(codes: RecoveryCodes) -> Self {
        Self {
            recovery_codes: codes.0.to_vec(),
        }
    }
}

prints_no_secret!(SetUpBody, ConfirmBody, CodeBody, RecoveryCodesBody);
