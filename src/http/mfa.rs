//! The user's own MFA (contract B2).

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

/// The user's own MFA.
pub struct MfaApi;

/// A secret to be read into an authenticator app.
#[derive(Clone, Object)]
#[oai(rename = "MfaSetupResponse", rename_all = "camelCase")]
pub struct SetUpBody {
    /// PNG image with a QR code of the `otpauth` address, base 64.
    pub qr_code_base64: String,
    /// The secret, base 32.
    pub secret: String,
}

/// Confirms that the secret was read.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(rename = "MfaConfirmRequest", rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfirmBody {
    /// The secret that was shown.
    #[oai(validator(max_length = 128))]
    pub secret: String,
    /// Six digits of the authenticator app.
    #[oai(validator(max_length = 64))]
    pub code: String,
    /// The code that the administrator gave, where it was demanded with the reset.
    #[oai(validator(max_length = 64))]
    pub enrolment_code: Option<String>,
}

/// A code.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(rename = "MfaCodeRequest", rename_all = "camelCase", deny_unknown_fields)]
pub struct CodeBody {
    /// Six digits of the authenticator app, or a recovery code.
    #[oai(validator(max_length = 64))]
    pub code: String,
}

/// Recovery codes. Shown once.
#[derive(Clone, Object)]
#[oai(rename = "RecoveryCodesResponse", rename_all = "camelCase")]
pub struct RecoveryCodesBody {
    /// Eight codes; each works once.
    pub recovery_codes: Vec<String>,
}

/// A 200 without a body.
#[derive(ApiResponse)]
enum Disabled {
    /// MFA is off.
    #[oai(status = 200)]
    Done,
}

#[OpenApi(prefix_path = "/api/v1/mfa", tag = "Tag::Mfa")]
impl MfaApi {
    /// Start to set up MFA.
    ///
    /// Gives a new secret, which counts once it is confirmed, in this session. Works in an enrolment-only session,
    /// too.
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

    /// Confirm the set-up of MFA.
    ///
    /// An enrolment-only session becomes a full one: the tokens of the login go on working. Every other
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

    /// Switch one's own MFA off.
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

    /// Replace one's own recovery codes.
    ///
    /// The old ones stop working at once, and the user's other sessions end. Asks for a second factor used within
    /// the last ten minutes, or less where the organisation says so: 401 with
    /// `error="insufficient_user_authentication"` leads to `POST /auth/step-up`.
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
