//! What a plugin or its file says, made fit for a terminal.

/// The text with every character that moves a cursor, starts an escape sequence, ends the line or turns the
/// direction of writing as a space: whoever looks at a file before they trust it must see what is there.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if moves(c) { ' ' } else { c }).collect()
}

fn moves(c: char) -> bool {
    // The second: Unicode's controls of direction (UAX #9, §2).
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_is_left() {
        assert_eq!(
            printable("a\x1b[2Jb\r\nc\u{9b}31md\u{202e}e\x7f"),
            "a [2Jb  c 31md e "
        );
        assert_eq!(printable("Grüße, 世界 – ok"), "Grüße, 世界 – ok");
    }
}
