//! Canonical JSON (RFC 8785): exactly one text for each value, so that it can be hashed.

use std::fmt::Write as _;

use serde_json::{Map, Number, Value};

/// Integers beyond this have no exact value in JSON readers that use doubles (RFC 7493 §2.2).
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// Returns the canonical text of an object. Integers beyond 2⁵³−1 become strings, as RFC 8785 §3.1 advises.
#[must_use]
pub fn object_text(object: &Map<String, Value>) -> String {
    let mut text = String::with_capacity(64);
    write_object(&mut text, object, Origin::Ours);
    text
}

/// Returns the canonical text of an object that was parsed from a canonical text: the same text. In such a text
/// an integer beyond 2⁵³−1 is a double, since our own are written as strings.
#[must_use]
pub fn object_text_again(object: &Map<String, Value>) -> String {
    let mut text = String::with_capacity(64);
    write_object(&mut text, object, Origin::Canonical);
    text
}

/// Whether a value is our own or was parsed from canonical text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Ours,
    Canonical,
}

/// Appends a JSON string: RFC 8785 §3.2.2.2 escapes exactly what `serde_json` escapes.
pub(super) fn write_string(text: &mut String, value: &str) {
    text.push('"');
    let mut plain_from = 0;
    for (at, byte) in value.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            0x08 => "\\b",
            b'\t' => "\\t",
            b'\n' => "\\n",
            0x0c => "\\f",
            b'\r' => "\\r",
            0..0x20 => "",
            _ => continue,
        };
        text.push_str(&value[plain_from..at]);
        if escape.is_empty() {
            write!(text, "\\u{byte:04x}").expect("a String takes any text");
        } else {
            text.push_str(escape);
        }
        plain_from = at + 1;
    }
    text.push_str(&value[plain_from..]);
    text.push('"');
}

fn write_value(text: &mut String, value: &Value, origin: Origin) {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(true) => text.push_str("true"),
        Value::Bool(false) => text.push_str("false"),
        Value::Number(number) => write_number(text, number, origin),
        Value::String(string) => write_string(text, string),
        Value::Array(values) => {
            text.push('[');
            for (position, value) in values.iter().enumerate() {
                if position > 0 {
                    text.push(',');
                }
                write_value(text, value, origin);
            }
            text.push(']');
        }
        Value::Object(object) => write_object(text, object, origin),
    }
}

fn write_object(text: &mut String, object: &Map<String, Value>, origin: Origin) {
    let mut members: Vec<_> = object.iter().collect();
    // RFC 8785 §3.2.3 sorts by UTF-16 units, which differs from UTF-8 order beyond the BMP.
    members.sort_by(|(a, _), (b, _)| {
        if a.is_ascii() && b.is_ascii() {
            a.cmp(b)
        } else {
            a.encode_utf16().cmp(b.encode_utf16())
        }
    });
    text.push('{');
    for (position, (name, value)) in members.into_iter().enumerate() {
        if position > 0 {
            text.push(',');
        }
        write_string(text, name);
        text.push(':');
        write_value(text, value, origin);
    }
    text.push('}');
}

fn write_number(text: &mut String, number: &Number, origin: Origin) {
    let safe = number
        .as_i64()
        .is_some_and(|n| n.unsigned_abs() <= MAX_SAFE_INTEGER);
    if number.is_f64() || (!safe && origin == Origin::Canonical) {
        write_double(text, number.as_f64().unwrap_or_default());
    } else if safe {
        write!(text, "{number}").expect("a String takes any text");
    } else {
        write!(text, "\"{number}\"").expect("a String takes any text");
    }
}

/// Appends a double as ECMAScript's `Number::toString` formats it (ECMA-262 §6.1.6.1.20), as RFC 8785 §3.2.2.3
/// requires.
fn write_double(text: &mut String, value: f64) {
    if value == 0.0 {
        text.push('0');
        return;
    }
    let shortest = format!("{:e}", value.abs());
    let (mantissa, exponent) = shortest.split_once('e').expect("{:e} writes an exponent");
    let exponent: i32 = exponent.parse().expect("{:e} writes a decimal exponent");
    let digits = mantissa.replace('.', "");
    let count = i32::try_from(digits.len()).expect("a double has at most 17 digits");
    let point = exponent + 1;
    if value < 0.0 {
        text.push('-');
    }
    let place = point.unsigned_abs() as usize;
    if (count..=21).contains(&point) {
        text.push_str(&digits);
        text.extend(std::iter::repeat_n('0', place - digits.len()));
    } else if (1..=21).contains(&point) {
        text.push_str(&digits[..place]);
        text.push('.');
        text.push_str(&digits[place..]);
    } else if (-5..=0).contains(&point) {
        text.push_str("0.");
        text.extend(std::iter::repeat_n('0', place));
        text.push_str(&digits);
    } else {
        text.push_str(&digits[..1]);
        if count > 1 {
            text.push('.');
            text.push_str(&digits[1..]);
        }
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(text, "e{sign}{}", exponent.abs()).expect("a String takes any text");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text_of(value: &Value) -> String {
        object_text(value.as_object().expect("an object"))
    }

    #[test]
    fn rfc_8785_section_3_2_2_sample() {
        let value: Value = serde_json::from_str(
            r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],
                "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#,
        )
        .expect("the RFC's sample is JSON");
        assert_eq!(
            text_of(&value),
            "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\
             \"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}"
        );
    }

    #[test]
    fn rfc_8785_section_3_2_3_sorting() {
        let value =
            json!({"\u{20ac}": 1, "\r": 2, "\u{fb33}": 3, "1": 4, "\u{1f600}": 5, "\u{80}": 6, "\u{f6}": 7});
        assert_eq!(
            text_of(&value),
            "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"\u{f6}\":7,\"\u{20ac}\":1,\"\u{1f600}\":5,\"\u{fb33}\":3}"
        );
    }

    #[test]
    fn rfc_8785_appendix_b_numbers() {
        for (bits, expected) in [
            (0x0000_0000_0000_0000_u64, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
        ] {
            let mut text = String::new();
            write_double(&mut text, f64::from_bits(bits));
            assert_eq!(text, expected, "{bits:#x}");
        }
    }

    #[test]
    fn integers_without_an_exact_double_become_strings() {
        assert_eq!(
            text_of(&json!({"a": u64::MAX, "b": -9_007_199_254_740_991_i64})),
            r#"{"a":"18446744073709551615","b":-9007199254740991}"#
        );
    }
    /// An integral double is written as an integer, and read back as one.
    #[test]
    fn a_canonical_text_that_is_read_has_the_same_canonical_text() {
        for number in [
            1e17,
            -1e17,
            9_007_199_254_740_992.0,
            1.8e19,
            -9.3e18,
            1e20,
            1e21,
            0.5,
            7.0,
        ] {
            let text = text_of(&json!({ "limit": number, "big": u64::MAX, "more": [{ "n": number }] }));
            let read: Value = serde_json::from_str(&text).expect("canonical JSON is JSON");
            assert_eq!(
                object_text_again(read.as_object().expect("an object")),
                text,
                "{number}"
            );
        }
    }
}
