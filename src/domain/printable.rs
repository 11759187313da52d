//! Makes text from plugins, their files or requests safe to show on a terminal, in a mail or in a log line.

/// Replaces every character that [moves the cursor](moves_cursor) with a space, so that a reader who inspects
/// something before trusting it sees what is really there.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(shown).collect()
}

/// Returns at most `max` characters of the text, printable; if it is longer, the last one is `…`.
#[must_use]
pub fn clip(text: &str, max: usize) -> String {
    let mut clipped: String = text.chars().take(max).map(shown).collect();
    if text.chars().nth(max).is_some() {
        clipped.pop();
        clipped.push('…');
    }
    clipped
}

/// Returns whether a character moves a cursor, starts an escape sequence, ends the line or changes the direction
/// of writing.
#[must_use]
pub fn moves_cursor(c: char) -> bool {
    // The second: Unicode's bidirectional controls (UAX #9, §2); the third: its line and paragraph separators.
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(c, '\u{2028}' | '\u{2029}')
}

fn shown(c: char) -> char {
    if moves_cursor(c) { ' ' } else { c }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_is_left() {
        assert_eq!(
            printable("a\x1b[2Jb\r\nc\u{9b}31md\u{202e}e\x7f\u{2028}f"),
            "a [2Jb  c 31md e  f"
        );
        assert_eq!(printable("Grüße, 世界 – ok"), "Grüße, 世界 – ok");
    }

    #[test]
    fn what_is_too_long_ends_in_an_ellipsis() {
        assert_eq!(clip("Grüße", 5), "Grüße");
        assert_eq!(clip("Grüße\n", 5), "Grüß…");
        assert_eq!(clip("a\nb", 5), "a b");
    }
}
