//! Passwords: Argon2id with OWASP's parameters, and an organisation's rules for new ones.

use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _, Salt};
use argon2::{Algorithm, Argon2, Params, PasswordHash, Version};
use unicode_normalization::UnicodeNormalization as _;
use zeroize::Zeroizing;

use super::common::is_common;
use crate::domain::account::OrganizationSettings;

/// Maximum password length, characters: longer ones add no security and cost memory.
pub const PASSWORD_MAX_CHARACTERS: usize = 256;
/// OWASP Password Storage Cheat Sheet, Argon2id: m = 19 MiB, t = 2, p = 1.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// A hash, with the parameters above, of a password that nobody knows.
const NOBODYS_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bGF0Y2hrZXkgbm9ib2R5IQ$Y4KzzIgUErd7/K7tAmABwA2eMCXmbCD25+kvB5hRRio";

/// Returns the Argon2id hash of a password, as a PHC string. Takes tens of milliseconds and 19 MiB.
///
/// # Panics
/// Never in practice: salt and parameters are in range.
#[must_use]
pub fn hash_password(password: &str, salt: [u8; 16]) -> String {
    let mut text = [0; 22];
    let salt = {
        use base64::Engine as _;
        let length = base64::engine::general_purpose::STANDARD_NO_PAD
            .encode_slice(salt, &mut text)
            .expect("16 bytes are 22 characters");
        let text = std::str::from_utf8(&text[..length]).expect("base64 is ASCII");
        Salt::from_b64(text).expect("16 bytes are a salt")
    };
    argon2()
        .hash_password(normalized(password).as_bytes(), salt)
        .expect("parameters are in range")
        .to_string()
}

/// Returns whether the password matches the hash. As slow as [`hash_password`].
#[must_use]
pub fn verify_password(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| {
        argon2()
            .verify_password(normalized(password).as_bytes(), &hash)
            .is_ok()
    })
}

/// Takes as long as a failed check, for accounts that don't exist (ASVS 6.3.8).
pub fn absorb_time(password: &str) {
    let matches = verify_password(password, NOBODYS_HASH);
    debug_assert!(!matches, "nobody's hash has no password");
}

/// Returns whether a hash was made with parameters other than the current ones.
#[must_use]
pub fn needs_rehash(hash: &str) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else {
        return true;
    };
    let current = Params::try_from(&hash)
        .is_ok_and(|p| (p.m_cost(), p.t_cost(), p.p_cost()) == (MEMORY_KIB, PASSES, LANES));
    !(current && hash.algorithm == argon2::ARGON2ID_IDENT)
}

/// Returns which of the organisation's rules a new password breaks; empty if it may be used.
#[must_use]
pub fn password_problems(password: &str, rules: &OrganizationSettings) -> Vec<String> {
    let password = normalized(password);
    let length = password.chars().count();
    let mut problems = Vec::new();
    if length < usize::from(rules.password_min_length) {
        problems.push(format!(
            "must have at least {} characters",
            rules.password_min_length
        ));
    }
    if length > PASSWORD_MAX_CHARACTERS {
        problems.push(format!("must have at most {PASSWORD_MAX_CHARACTERS} characters"));
    }
    let mut demand = |demanded: bool, is_one: fn(char) -> bool, what: &str| {
        if demanded && !password.chars().any(is_one) {
            problems.push(format!("must contain {what}"));
        }
    };
    demand(
        rules.password_require_uppercase,
        char::is_uppercase,
        "an upper-case letter",
    );
    demand(
        rules.password_require_lowercase,
        char::is_lowercase,
        "a lower-case letter",
    );
    demand(rules.password_require_digit, char::is_numeric, "a digit");
    demand(
        rules.password_require_special_char,
        |c| !c.is_alphanumeric() && !c.is_whitespace(),
        "a special character",
    );
    if is_common(&password) {
        problems.push("must not be a common password, or one with digits or signs around it".to_owned());
    }
    problems
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("parameters are in range");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// Normalises a password, so that the same characters are the same bytes whatever keyboard sent them (NIST SP
/// 800-63B-4 §3.1.1.2).
fn normalized(password: &str) -> Zeroizing<String> {
    Zeroizing::new(password.nfkc().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> OrganizationSettings {
        OrganizationSettings::default()
    }

    #[test]
    fn a_hash_takes_its_password_and_no_other() {
        let hash = hash_password("correct horse battery", [1; 16]);
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(verify_password("correct horse battery", &hash));
        assert!(!verify_password("correct horse batterz", &hash));
        assert!(!verify_password("", &hash));
        assert!(!verify_password("correct horse battery", "not a hash"));
        assert_ne!(hash, hash_password("correct horse battery", [2; 16]));
    }

    #[test]
    fn the_same_characters_are_the_same_password() {
        let hash = hash_password("caf\u{e9} au lait", [1; 16]);
        assert!(verify_password("cafe\u{301} au lait", &hash));
    }

    #[test]
    fn an_unknown_account_costs_a_whole_check() {
        let hash = PasswordHash::new(NOBODYS_HASH).expect("nobody's hash is a hash");
        assert!(hash.hash.is_some_and(|h| h.len() == 32));
        assert!(!needs_rehash(NOBODYS_HASH), "it has today's parameters");
        absorb_time("anything");
    }

    #[test]
    fn old_parameters_are_renewed() {
        assert!(!needs_rehash(&hash_password("x", [1; 16])));
        let weak = Argon2::new(
            Algorithm::Argon2id,
            Version::V0x13,
            Params::new(8, 1, 1, None).unwrap(),
        );
        let weak = weak
            .hash_password(b"x", Salt::from_b64("c29tZSBzYWx0").unwrap())
            .unwrap()
            .to_string();
        assert!(needs_rehash(&weak));
        assert!(verify_password("x", &weak), "an old hash still opens");
        assert!(needs_rehash("garbage"));
    }

    #[test]
    fn a_common_password_is_refused_however_it_is_dressed_up() {
        let problem = ["must not be a common password, or one with digits or signs around it"];
        for password in ["Password2026!", "iloveyouiloveyou", "sunshine12345"] {
            assert_eq!(password_problems(password, &rules()), problem, "{password}");
        }
    }

    #[test]
    fn every_rule_says_what_is_missing() {
        assert!(password_problems("twelve chars", &rules()).is_empty());
        assert_eq!(
            password_problems("short", &rules()),
            ["must have at least 12 characters"]
        );
        assert_eq!(
            password_problems(&"xy".repeat(129), &rules()),
            ["must have at most 256 characters"]
        );
        let strict = OrganizationSettings {
            password_require_uppercase: true,
            password_require_lowercase: true,
            password_require_digit: true,
            password_require_special_char: true,
            ..rules()
        };
        assert_eq!(
            password_problems("日本語の文章です漢字仮名交じり", &strict).len(),
            4
        );
        assert!(password_problems("Twelve-chars-1", &strict).is_empty());
        assert!(
            password_problems("Zwölf-Zeichen-1", &strict).is_empty(),
            "letters beyond ASCII count"
        );
    }
}
