//! What a caller presents: passwords, access tokens, refresh tokens, one-use tokens, API keys. Time, keys and
//! randomness are arguments.

mod access_token;
mod common;
mod external_token;
mod opaque_token;
mod password;

pub use access_token::{
    AUDIENCE, AccessKeys, Amr, Claims, ENROLMENT_AUDIENCE, PublicKey, SigningKeyRecord, TokenAlgorithm,
    role_by_name,
};
pub use external_token::{EXTERNAL_LIFETIME, ExternalClaims, ExternalIssuer, ExternalRules};
pub use opaque_token::{
    API_KEY_PREFIX, ApiKeyToken, DEVICE_TOKEN_SECS, DeviceToken, OneUseToken, RefreshToken,
};
pub use password::{
    PASSWORD_MAX_CHARACTERS, absorb_time, hash_password, needs_rehash, password_problems, verify_password,
};
