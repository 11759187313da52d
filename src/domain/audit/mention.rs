//! Finds e-mail addresses in a text.

/// Returns whether the text contains one of these addresses as a whole, ignoring the case of ASCII letters.
#[must_use]
pub fn mentions(text: &str, addresses: &[String]) -> bool {
    addresses
        .iter()
        .any(|address| stands_in(text.as_bytes(), address.as_bytes()))
}

fn stands_in(text: &[u8], address: &[u8]) -> bool {
    if address.is_empty() {
        return false;
    }
    text.windows(address.len()).enumerate().any(|(at, window)| {
        window.eq_ignore_ascii_case(address)
            && !at.checked_sub(1).is_some_and(|before| continues(text[before]))
            && !text
                .get(at + address.len())
                .is_some_and(|after| continues_after(*after, text.get(at + address.len() + 1)))
    })
}

/// Returns whether this byte before an address makes it part of another one.
fn continues(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || b".!#$%&*+-/=?^_`{|}~".contains(&byte)
}

/// Returns whether this byte after an address makes it part of another one: a full stop or hyphen only if more of
/// a name follows.
fn continues_after(byte: u8, next: Option<&u8>) -> bool {
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || byte >= 0x80;
    of_name(byte) || (matches!(byte, b'.' | b'-') && next.is_some_and(|next| of_name(*next)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_as_a_whole_and_nothing_else_is() {
        let addresses = ["dev@acme.example".to_owned()];
        for text in [
            "dev@acme.example",
            r#"{"email":"Dev@ACME.example"}"#,
            "<dev@acme.example>.",
            "for dev@acme.example, by phone",
            "to dev@acme.example.",
        ] {
            assert!(mentions(text, &addresses), "{text}");
        }
        for text in [
            "",
            "dev@acme",
            "web-dev@acme.example",
            "a.dev@acme.example",
            "dev@acme.example.org",
            "dev@acme.examples",
            "dev@acme.example-host",
        ] {
            assert!(!mentions(text, &addresses), "{text}");
        }
        assert!(!mentions("anything", &[]));
        assert!(!mentions("anything", &[String::new()]));
    }
}
