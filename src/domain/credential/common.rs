//! Common passwords (NIST SP 800-63B-4 §3.1.1.2; ASVS 6.2.4). The list is embedded, so that no password and no
//! hash of one leaves the appliance; its source and licence are in `common_passwords.LICENSE`.

use std::cmp::Ordering;

/// The list: lower case, NFKC, sorted by bytes, one per line.
const LIST: &str = include_str!("common_passwords.txt");
/// Maximum characters put around a common password to satisfy a rule: `!`, `123`, `2026!`. More than that is no
/// longer guessed by trying.
const AROUND_MAX: usize = 8;

/// Returns whether a password is a common one, ignoring case, or repeats a common one, or has a few digits and
/// signs around it. `password` must be normalised (NFKC).
pub(super) fn is_common(password: &str) -> bool {
    let lower = password.to_lowercase();
    if is_listed(&lower) || is_repeated(&lower) {
        return true;
    }
    let core = lower.trim_matches(|c: char| !c.is_alphabetic());
    let around = lower.chars().count() - core.chars().count();
    !core.is_empty() && (1..=AROUND_MAX).contains(&around) && (is_listed(core) || is_repeated(core))
}

/// Returns whether the text is a repetition: `passwordpassword`, `aaaaaaaaaaaa`.
fn is_repeated(text: &str) -> bool {
    let boundaries = text.char_indices().map(|(at, _)| at).skip(1);
    boundaries
        .filter(|at| *at <= text.len() / 2 && text.len().is_multiple_of(*at))
        .any(|at| {
            let (unit, single) = (&text[..at], text[..at].chars().count() == 1);
            (single || is_listed(unit)) && text.as_bytes().chunks(at).all(|chunk| chunk == unit.as_bytes())
        })
}

/// Looks the text up by binary search in the embedded list, which needs no further memory.
fn is_listed(text: &str) -> bool {
    let list = LIST.as_bytes();
    let (mut from, mut to) = (0, list.len());
    while from < to {
        let middle = from + (to - from) / 2;
        let start = list[from..middle]
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(from, |i| from + i + 1);
        let length = list[start..].iter().position(|b| *b == b'\n');
        let end = length.map_or(list.len(), |n| start + n);
        match list[start..end].cmp(text.as_bytes()) {
            Ordering::Equal => return true,
            Ordering::Less => from = (end + 1).min(to),
            Ordering::Greater => to = start,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_password_of_the_list_is_found_and_the_list_is_sorted() {
        let lines: Vec<_> = LIST.lines().collect();
        assert!(lines.len() > 19_000, "{} passwords", lines.len());
        assert!(lines.iter().filter(|p| p.chars().count() >= 8).count() > 8_000);
        assert!(
            lines
                .windows(2)
                .all(|pair| pair[0].as_bytes() < pair[1].as_bytes())
        );
        for password in lines {
            assert!(is_listed(password), "{password}");
            assert!(!is_listed(&format!("{password}\u{1}")), "{password}");
        }
        assert!(!is_listed("") && !is_listed("\n") && !is_listed("zzzz not there"));
    }

    #[test]
    fn common_passwords_are_known_in_their_usual_disguises() {
        for password in [
            "password",
            "PassWord",
            "Password2026!",
            "!!sunshine1234",
            "passwordpassword",
            "dragondragon1!",
            "aaaaaaaaaaaaaaaa",
            "1234567890",
        ] {
            assert!(is_common(password), "{password}");
        }
        for password in [
            "correct horse battery staple",
            "twelve chars",
            "password of my own making",
            "dragon-93847561029384",
            "Zwölf-Zeichen-1",
            "",
        ] {
            assert!(!is_common(password), "{password}");
        }
    }
}
