//! Reads files named on the command line, with a size limit and an error that says what is wrong with the
//! file.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::exit::{CodedRefusal, Refusal};
use crate::plugin_host::{FILE_BYTES_MAX, PackageError, printable};

/// Reads a plugin file.
///
/// # Errors
/// The file can't be read, or is larger than a plugin may be.
pub(super) fn plugin(path: &Path) -> Result<Vec<u8>> {
    match read(path, FILE_BYTES_MAX).with_context(|| format!("cannot read the plugin {}", path.display()))? {
        Content::Whole(bytes) => Ok(bytes),
        Content::TooLarge(size) => Err(refused_plugin(
            path,
            &PackageError::TooLarge {
                size,
                limit: FILE_BYTES_MAX,
            },
        )),
    }
}

/// Returns a refusal that says why an appliance would not accept this plugin file, with the stable code for
/// scripts.
pub(super) fn refused_plugin(path: &Path, error: &PackageError) -> anyhow::Error {
    let text = printable(&format!("{}: {error}", path.display()));
    CodedRefusal {
        text,
        code: error.code(),
    }
    .into()
}

/// Reads a text file: a configuration, a case, a key or a signature. A byte order mark is removed.
///
/// # Errors
/// The file can't be read, is too large, or is not UTF-8.
pub(super) fn text(path: &Path) -> Result<String> {
    let refused = |why: String| anyhow::Error::from(Refusal(format!("{}: {why}", path.display())));
    let bytes = match read(path, TEXT_BYTES_MAX)
        .with_context(|| format!("{} can't be read", path.display()))?
    {
        Content::Whole(bytes) => bytes,
        Content::TooLarge(_) => return Err(refused(format!("has more than {} MiB", TEXT_BYTES_MAX >> 20))),
    };
    let utf16 = [[0xff, 0xfe], [0xfe, 0xff]]
        .iter()
        .any(|mark| bytes.starts_with(mark));
    match String::from_utf8(bytes) {
        Ok(text) => Ok(match text.strip_prefix('\u{feff}') {
            Some(unmarked) => unmarked.to_owned(),
            None => text,
        }),
        Err(_) if utf16 => Err(refused("is UTF-16, not UTF-8: save it as UTF-8".to_owned())),
        Err(error) => Err(refused(format!(
            "is not UTF-8 (byte {}): save it as UTF-8",
            error.utf8_error().valid_up_to() + 1
        ))),
    }
}

/// Reads a JSON file.
///
/// # Errors
/// As for [`text`] and [`json_of`].
pub(super) fn json(path: &Path) -> Result<Value> {
    json_of(&text(path)?).map_err(|error| Refusal(format!("{}: {error}", path.display())).into())
}

/// Parses JSON and refuses an object with a repeated key, because it is unclear which value was meant.
///
/// # Errors
/// The text is not JSON, or an object in it repeats a key.
pub(super) fn json_of(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str::<Unique>(text).map(|Unique(value)| value)
}

enum Content {
    Whole(Vec<u8>),
    /// The size in bytes, as far as it is known.
    TooLarge(usize),
}

/// Reads at most `limit` bytes. The size alone is no guard: a device reports none, and may never end.
fn read(path: &Path, limit: usize) -> std::io::Result<Content> {
    let file = File::open(path)?;
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if size > limit {
        return Ok(Content::TooLarge(size));
    }
    let mut bytes = Vec::with_capacity(size);
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(if bytes.len() > limit {
        Content::TooLarge(bytes.len())
    } else {
        Content::Whole(bytes)
    })
}

/// A JSON value in which no object has a repeated key.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Unique(value)) = items.next_element()? {
            array.push(value);
        }
        Ok(array.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} is there twice")));
            }
            let Unique(value) = entries.next_value()?;
            object.insert(key, value);
        }
        Ok(object.into())
    }
}

/// Largest text file, in bytes: the limit for all golden cases of a plugin together.
const TEXT_BYTES_MAX: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_read_as_it_is_and_a_key_once() {
        let text = r#"{"b":[1,-2,2.5,null,true,"x"],"a":{"b":{}}}"#;
        assert_eq!(json_of(text).expect("JSON").to_string(), text);
        let error = json_of("{\"a\":{\"b\":1,\n\"b\":1}}")
            .expect_err("twice")
            .to_string();
        assert!(error.contains("\"b\" is there twice at line 2"), "{error}");
        assert!(json_of("{} {}").is_err());
    }

    #[test]
    fn texts_are_utf_8_with_or_without_a_mark() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("text");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("written");
            text(&path).map_err(|error| error.to_string())
        };
        assert_eq!(read("\u{feff}{}".as_bytes()), Ok("{}".to_owned()));
        assert!(read(b"\xff\xfe{\0}\0").is_err_and(|error| error.contains("UTF-16")));
        assert!(read(b"caf\xe9").is_err_and(|error| error.contains("not UTF-8 (byte 4)")));
        assert!(read(&vec![b' '; TEXT_BYTES_MAX + 1]).is_err_and(|error| error.contains("more than 4 MiB")));
    }
}
