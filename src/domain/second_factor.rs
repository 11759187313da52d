//! TOTP and recovery codes. Time, keys and randomness are arguments; the store knows which steps and codes were
//! used before.

mod qr_code;

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use data_encoding::BASE32_NOPAD;
use hmac::{Hmac, Mac as _};
use jiff::Timestamp;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use totp_rs::{Builder, Totp};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::account::UserId;
use super::error::{Error, Result};

/// Length of a time step, seconds (RFC 6238 §5.2; ASVS 6.5.5).
pub const STEP_SECS: u64 = 30;
/// Time steps before and after the current one whose codes are accepted (RFC 6238 §5.2).
const SKEW_STEPS: u64 = 1;
/// Digits of a code.
const DIGITS: u8 = 6;
/// Number of recovery codes in a set.
pub const RECOVERY_CODES: usize = 8;
/// Minimum characters of a recovery code: the length that EntryGuard's clients know (40 bits).
pub const RECOVERY_CODE_MIN_CHARACTERS: usize = 8;
/// Characters of a recovery code by default: 80 bits, above the 64 of NIST SP 800-63B-4 §4.2.1.1.
pub const RECOVERY_CODE_CHARACTERS: usize = 16;
/// Maximum characters of a recovery code.
pub const RECOVERY_CODE_MAX_CHARACTERS: usize = 32;
/// Crockford's base 32: no I, L, O or U, which people misread.
const RECOVERY_ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The secret of a TOTP factor: 160 bits (RFC 4226 §4 R6).
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct TotpSecret([u8; 20]);

impl TotpSecret {
    /// Creates the secret from these bytes.
    #[must_use]
    pub fn new(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// Creates the secret from its stored bytes.
    ///
    /// # Errors
    /// [`Error::Internal`] if it has another length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let bytes = bytes.try_into();
        bytes
            .map(Self)
            .map_err(|_| Error::Internal("a TOTP secret is not 20 bytes long".to_owned()))
    }

    /// Returns the bytes, to be encrypted.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// Returns the secret in the form that a person may type: base 32, upper case, without padding.
    #[must_use]
    pub fn base32(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE32_NOPAD.encode(&self.0))
    }

    /// Returns whether `text` is this secret in base 32, whatever its spacing, padding and case.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        let text: Zeroizing<String> = Zeroizing::new(
            text.chars()
                .filter(|c| !c.is_ascii_whitespace() && !matches!(c, '-' | '='))
                .map(|c| c.to_ascii_uppercase())
                .collect(),
        );
        self.base32().as_bytes().ct_eq(text.as_bytes()).into()
    }

    /// Returns the code of a time step.
    #[must_use]
    pub fn code(&self, step: u64) -> String {
        self.totp("", "").generate(step * STEP_SECS).to_string()
    }

    /// Returns the time step of this code, if it is near `at` and newer than `last_step`, the newest step
    /// accepted before (RFC 6238 §5.2: a code is accepted once).
    #[must_use]
    pub fn matching_step(&self, code: &str, at: Timestamp, last_step: Option<u64>) -> Option<u64> {
        let now = time_step(at);
        let mut matching = None;
        // Every step is computed, so that timing reveals nothing.
        for step in now.saturating_sub(SKEW_STEPS)..=now + SKEW_STEPS {
            let same: bool = self.code(step).as_bytes().ct_eq(code.as_bytes()).into();
            if same && last_step.is_none_or(|last| step > last) {
                matching = matching.or(Some(step));
            }
        }
        matching
    }

    /// Returns a PNG image of the QR code that authenticator apps read (`otpauth://totp/…`).
    ///
    /// # Errors
    /// [`Error::Internal`] if the names are too long for a QR code.
    pub fn qr_code_png(&self, issuer: &str, account: &str) -> Result<Vec<u8>> {
        let drawn = qr_code::png(&self.otpauth_url(issuer, account)?);
        drawn.ok_or_else(|| Error::Internal("the QR code can't be drawn".to_owned()))
    }

    /// Returns the `otpauth://totp/…` URL that the QR code contains.
    ///
    /// # Errors
    /// [`Error::Internal`] if the names can't be part of a URL.
    pub fn otpauth_url(&self, issuer: &str, account: &str) -> Result<Zeroizing<String>> {
        self.totp(issuer, account)
            .to_url()
            .map(Zeroizing::new)
            .map_err(|_| Error::Internal("the otpauth address can't be made".to_owned()))
    }

    fn totp(&self, issuer: &str, account: &str) -> Totp {
        // A colon separates issuer and account in the label, and apps show the part before it.
        let issuer = issuer.replace(':', " ");
        Builder::new()
            .with_digits(DIGITS)
            .with_step_duration(STEP_SECS)
            .with_secret(self.0.as_slice())
            .with_issuer(Some(issuer))
            .with_account_name(account.replace(':', " "))
            .build_noncompliant()
    }
}

prints_no_secret!(TotpSecret);

/// Returns the time step of an instant (RFC 6238 §4.2).
#[must_use]
pub fn time_step(at: Timestamp) -> u64 {
    u64::try_from(at.as_second()).unwrap_or(0) / STEP_SECS
}

/// A code that a user entered, classified by its form.
#[derive(Clone, PartialEq, Eq)]
pub enum Code {
    /// Six digits.
    Totp(String),
    /// A recovery code, normalised.
    Recovery(String),
}

impl Code {
    /// Parses what a user entered, ignoring spaces, hyphens and case. `None` if it has the form of neither kind
    /// of code.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain: String = text
            .chars()
            .filter(|c| !c.is_whitespace() && *c != '-')
            .map(|c| match c.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                c => c,
            })
            .take(RECOVERY_CODE_MAX_CHARACTERS + 1)
            .collect();
        if plain.len() == usize::from(DIGITS) && plain.bytes().all(|b| b.is_ascii_digit()) {
            return Some(Self::Totp(plain));
        }
        let is_code = (RECOVERY_CODE_MIN_CHARACTERS..=RECOVERY_CODE_MAX_CHARACTERS).contains(&plain.len())
            && plain.bytes().all(|b| RECOVERY_ALPHABET.contains(&b));
        is_code.then_some(Self::Recovery(plain))
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Totp(_) => "Code::Totp",
            Self::Recovery(_) => "Code::Recovery",
        })
    }
}

/// Returns a recovery code with one character per random byte, in groups of four.
#[must_use]
pub fn recovery_code(random: &[u8]) -> String {
    let mut code = String::with_capacity(random.len() + random.len() / 4);
    for (i, byte) in random.iter().enumerate() {
        if i > 0 && i % 4 == 0 {
            code.push('-');
        }
        // 256 is a multiple of 32, so every character is equally likely.
        code.push(char::from(RECOVERY_ALPHABET[usize::from(byte % 32)]));
    }
    code
}

/// Returns the hash of a recovery code under its set's salt and the appliance's pepper: Argon2id, since codes may
/// have fewer than 112 bits (NIST SP 800-63B-4 §3.1.2.2). One computation checks a code against a whole set.
/// Takes tens of milliseconds and 19 MiB.
///
/// # Panics
/// Never in practice: salt, pepper and parameters are in range.
#[must_use]
pub fn hash_recovery_code(code: &str, salt: &[u8; 16], pepper: &[u8; 32]) -> [u8; 32] {
    let params = Params::new(19 * 1024, 2, 1, Some(32)).expect("parameters are in range");
    let argon2 = Argon2::new_with_secret(pepper, Algorithm::Argon2id, Version::V0x13, params)
        .expect("the pepper is short enough");
    let normalized: Zeroizing<String> = Zeroizing::new(code.chars().filter(|c| *c != '-').collect());
    let mut hash = [0; 32];
    argon2
        .hash_password_into(normalized.as_bytes(), salt, &mut hash)
        .expect("salt and output are in range");
    hash
}

/// Returns the hash of the code that an admin gives to a user after a reset. Keyed, since the code is short; it
/// is valid for a day at most and works once.
///
/// # Panics
/// Never in practice: HMAC takes keys of any length.
#[must_use]
pub fn hash_enrolment_code(user: UserId, code: &str, pepper: &[u8; 32]) -> [u8; 32] {
    let normalized: Zeroizing<String> = Zeroizing::new(match Code::parse(code) {
        Some(Code::Totp(code) | Code::Recovery(code)) => code,
        None => String::new(),
    });
    let mut mac = Hmac::<Sha256>::new_from_slice(pepper).expect("HMAC takes keys of any length");
    mac.update(b"enrolment code");
    mac.update(user.0.as_bytes());
    mac.update(normalized.as_bytes());
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 6238 appendix B, SHA-1: seconds and eight digits, of which ours are the last six.
    const RFC_6238: [(i64, &str); 6] = [
        (59, "94287082"),
        (1_111_111_109, "07081804"),
        (1_111_111_111, "14050471"),
        (1_234_567_890, "89005924"),
        (2_000_000_000, "69279037"),
        (20_000_000_000, "65353130"),
    ];

    fn rfc_secret() -> TotpSecret {
        TotpSecret::new(*b"12345678901234567890")
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn the_vectors_of_rfc_6238_match() {
        for (second, code) in RFC_6238 {
            let code = &code[2..];
            let step = time_step(at(second));
            assert_eq!(rfc_secret().code(step), code, "at {second}");
            assert_eq!(
                rfc_secret().matching_step(code, at(second), None),
                Some(step),
                "at {second}"
            );
        }
    }

    #[test]
    fn a_code_counts_one_step_early_or_late_and_no_more() {
        let secret = rfc_secret();
        let now = 1000;
        for (step, accepted) in [
            (998, false),
            (999, true),
            (1000, true),
            (1001, true),
            (1002, false),
        ] {
            let found = secret.matching_step(&secret.code(step), at(30 * now), None);
            assert_eq!(found.is_some(), accepted, "step {step}");
        }
    }

    #[test]
    fn a_step_counts_only_after_the_last_one_accepted() {
        let secret = rfc_secret();
        let code = secret.code(1000);
        assert_eq!(secret.matching_step(&code, at(30_000), Some(999)), Some(1000));
        assert_eq!(secret.matching_step(&code, at(30_000), Some(1000)), None);
        assert_eq!(secret.matching_step(&code, at(30_000), Some(1001)), None);
    }

    #[test]
    fn a_secret_is_known_again_however_it_is_typed() {
        let secret = rfc_secret();
        assert_eq!(*secret.base32(), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        assert!(secret.is("gezd gnbv gy3t qojq gezd gnbv gy3t qojq"));
        assert!(secret.is("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ===="));
        assert!(!secret.is("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJA"));
        assert!(!secret.is(""));
    }

    #[test]
    fn the_qr_code_is_a_png_of_the_otpauth_address() {
        let url = rfc_secret()
            .otpauth_url("Latchkey: prod", "dev@example.org")
            .expect("an address");
        assert!(
            url.starts_with("otpauth://totp/Latchkey%20%20prod:dev%40example.org?"),
            "{}",
            *url
        );
        assert!(
            url.contains("secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"),
            "{}",
            *url
        );
        let png = rfc_secret()
            .qr_code_png("Latchkey", "dev@example.org")
            .expect("an image");
        assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"));
    }

    #[test]
    fn what_a_user_types_is_told_apart_by_shape() {
        assert_eq!(Code::parse("123456"), Some(Code::Totp("123456".into())));
        assert_eq!(Code::parse(" 123 456 "), Some(Code::Totp("123456".into())));
        assert_eq!(Code::parse("abcd-efgh"), Some(Code::Recovery("ABCDEFGH".into())));
        assert_eq!(Code::parse("oIl0-0000"), Some(Code::Recovery("01100000".into())));
        for nonsense in [
            "",
            "12345",
            "1234567",
            "abcd-efg",
            "abcd-efgu",
            "pässword",
            &"A".repeat(33),
        ] {
            assert_eq!(Code::parse(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn a_code_is_hashed_by_set_and_pepper_however_it_is_typed() {
        let hash = hash_recovery_code("ABCD-EFGH", &[1; 16], &[2; 32]);
        assert_eq!(hash, hash_recovery_code("ABCDEFGH", &[1; 16], &[2; 32]));
        assert_ne!(hash, hash_recovery_code("ABCDEFGH", &[9; 16], &[2; 32]));
        assert_ne!(hash, hash_recovery_code("ABCDEFGH", &[1; 16], &[9; 32]));
        let (alice, bob) = (UserId(uuid::Uuid::from_u128(1)), UserId(uuid::Uuid::from_u128(2)));
        let hash = hash_enrolment_code(alice, "abcd-efgh", &[2; 32]);
        assert_eq!(hash, hash_enrolment_code(alice, "ABCDEFGH", &[2; 32]));
        assert_ne!(hash, hash_enrolment_code(bob, "ABCDEFGH", &[2; 32]));
    }

    proptest! {
        #[test]
        fn every_recovery_code_is_read_back(random in prop::collection::vec(any::<u8>(), 8..=32)) {
            let code = recovery_code(&random);
            let plain: String = code.chars().filter(|c| *c != '-').collect();
            prop_assert_eq!(Code::parse(&code), Some(Code::Recovery(plain.clone())));
            prop_assert_eq!(Code::parse(&code.to_lowercase()), Some(Code::Recovery(plain)));
        }

        #[test]
        fn a_matching_code_is_that_of_its_step(secret: [u8; 20], second in 0i64..10_000_000_000, drift in -1i64..=1) {
            let secret = TotpSecret::new(secret);
            let step = time_step(at(second)).saturating_add_signed(drift);
            let found = secret.matching_step(&secret.code(step), at(second), None).expect("near enough");
            prop_assert_eq!(secret.code(found), secret.code(step));
        }

        #[test]
        fn parsing_never_panics(text in ".*") {
            let _ = Code::parse(&text);
        }
    }
}
