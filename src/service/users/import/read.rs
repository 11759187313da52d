//! Strict parsing of an import file: problems are reported by line and field, and a cell's text is kept
//! unchanged, however a spreadsheet would interpret it.

use serde_json::Value;

use super::{Format, Line, Refused};
use crate::domain::account::Role;
use crate::domain::{Error, Result};

/// Maximum number of users in one file.
pub const LINES_LIMIT: usize = 100_000;
const COLUMNS: [&str; 3] = ["email", "name", "role"];
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Returns the lines that can be parsed, and the refused ones.
///
/// # Errors
/// [`Error::Malformed`] if the file as a whole is not in the format.
pub fn read(bytes: &[u8], format: Format) -> Result<(Vec<Line>, Vec<Refused>)> {
    if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") {
        return malformed("The file is in UTF-16; save it as UTF-8");
    }
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let (lines, refused) = match format {
        Format::Csv => read_csv(bytes)?,
        Format::Json => read_json(bytes)?,
    };
    if lines.is_empty() && refused.is_empty() {
        return malformed("The file contains no users");
    }
    if lines.len() + refused.len() > LINES_LIMIT {
        return malformed(&format!(
            "There are more than {LINES_LIMIT} people in the file; split it"
        ));
    }
    Ok((lines, refused))
}

fn read_csv(bytes: &[u8]) -> Result<(Vec<Line>, Vec<Refused>)> {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter(bytes))
        .flexible(true)
        .has_headers(false)
        .from_reader(bytes);
    let mut record = csv::ByteRecord::new();
    if !reader.read_byte_record(&mut record).map_err(unreadable)? {
        return malformed("The file contains no users");
    }
    let columns = columns(&record)?;
    let (mut lines, mut refused) = (Vec::new(), Vec::new());
    let mut counter = LineCounter {
        bytes,
        reached: 0,
        line: 1,
    };
    while reader.read_byte_record(&mut record).map_err(unreadable)? {
        let at = counter.line_at(record.position().map_or(0, csv::Position::byte));
        if lines.len() + refused.len() > LINES_LIMIT {
            break;
        }
        match csv_line(at, &record, &columns) {
            Ok(line) => lines.push(line),
            Err(why) => refused.push(why),
        }
    }
    Ok((lines, refused))
}

/// Counts lines as an editor does: the parser's own count is one behind if lines end with CR LF, and includes
/// blank lines before a record in the record.
struct LineCounter<'a> {
    bytes: &'a [u8],
    reached: usize,
    line: u64,
}

impl LineCounter<'_> {
    /// Returns the line of the record that begins at or after `byte`, which must not decrease between calls.
    fn line_at(&mut self, byte: u64) -> u64 {
        let byte = usize::try_from(byte).unwrap_or(usize::MAX);
        while let Some(next) = self.bytes.get(self.reached) {
            let blank = matches!(next, b'\r' | b'\n');
            if self.reached >= byte && !blank {
                break;
            }
            self.line += u64::from(*next == b'\n');
            self.reached += 1;
        }
        self.line
    }
}

/// Parses the heading, which names the columns in any order; an unknown name is refused, since it may be a
/// typo.
fn columns(heading: &csv::ByteRecord) -> Result<Vec<&'static str>> {
    let mut columns = Vec::new();
    for cell in heading {
        let name = String::from_utf8_lossy(cell).trim().to_lowercase();
        let Some(known) = COLUMNS.into_iter().find(|known| *known == name) else {
            return malformed(&format!(
                "The first line must name the columns, of which there are {}; it has {name:?}",
                COLUMNS.join(", ")
            ));
        };
        if columns.contains(&known) {
            return malformed(&format!("The column {known} appears twice"));
        }
        columns.push(known);
    }
    if !columns.contains(&"email") {
        return malformed("The first line names no column email");
    }
    Ok(columns)
}

fn csv_line(at: u64, record: &csv::ByteRecord, columns: &[&'static str]) -> Result<Line, Refused> {
    let refuse = |field: &'static str, reason: String| Refused { at, field, reason };
    if record.len() != columns.len() {
        let reason = format!(
            "has {} cells, but the heading has {}",
            record.len(),
            columns.len()
        );
        return Err(refuse("", reason));
    }
    let (mut email, mut name, mut role) = ("", None, Role::Member);
    for (cell, column) in record.iter().zip(columns) {
        let text = std::str::from_utf8(cell).map_err(|error| {
            let byte = cell.get(error.valid_up_to()).copied().unwrap_or_default();
            refuse(
                column,
                format!("is not UTF-8 (byte {byte:#04x}); save the file as UTF-8"),
            )
        })?;
        match *column {
            "email" => email = text,
            "name" => name = Some(text.to_owned()),
            _ => role = read_role(text).ok_or_else(|| refuse("role", no_role(text)))?,
        }
    }
    Ok(Line {
        at,
        email: email.to_owned(),
        name,
        role,
    })
}

fn read_json(bytes: &[u8]) -> Result<(Vec<Line>, Vec<Refused>)> {
    let people: Vec<Value> = match serde_json::from_slice(bytes) {
        Ok(Value::Array(people)) => people,
        Ok(_) => return malformed("The file must be an array of objects with email, name and role"),
        Err(error) => return malformed(&format!("The file is not valid JSON: {error}")),
    };
    let (mut lines, mut refused) = (Vec::new(), Vec::new());
    for (at, person) in (1..).zip(&people) {
        match json_line(at, person) {
            Ok(line) => lines.push(line),
            Err(why) => refused.push(why),
        }
    }
    Ok((lines, refused))
}

fn json_line(at: u64, person: &Value) -> Result<Line, Refused> {
    let refuse = |field: &'static str, reason: &str| Refused {
        at,
        field,
        reason: reason.to_owned(),
    };
    let Some(fields) = person.as_object() else {
        return Err(refuse("", "must be an object with email, name and role"));
    };
    if let Some(unknown) = fields.keys().find(|name| !COLUMNS.contains(&name.as_str())) {
        let reason = format!(
            "has an unknown field {unknown:?}; known are {}",
            COLUMNS.join(", ")
        );
        return Err(refuse("", &reason));
    }
    let text = |field: &'static str| match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(refuse(field, "must be a string")),
    };
    let role = text("role")?.unwrap_or_default();
    Ok(Line {
        at,
        email: text("email")?.ok_or_else(|| refuse("email", "is missing"))?,
        name: text("name")?,
        role: read_role(&role).ok_or_else(|| refuse("role", &no_role(&role)))?,
    })
}

/// Parses a role as written on the command line or on the wire; empty means member.
fn read_role(text: &str) -> Option<Role> {
    match text.trim().to_lowercase().replace('_', "-").as_str() {
        "" | "member" => Some(Role::Member),
        "help-desk" => Some(Role::HelpDesk),
        "org-admin" => Some(Role::OrgAdmin),
        _ => None,
    }
}

fn no_role(text: &str) -> String {
    let shown: String = text.chars().filter(|c| !c.is_control()).take(40).collect();
    format!("must be member, help-desk or org-admin, not {shown:?}")
}

/// Guesses the delimiter: spreadsheets in some locales write semicolons, others tabs.
fn delimiter(bytes: &[u8]) -> u8 {
    let heading = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    [b',', b';', b'\t']
        .into_iter()
        .find(|delimiter| heading.contains(delimiter))
        .unwrap_or(b',')
}

fn unreadable(error: csv::Error) -> Error {
    Error::Malformed(format!("The file is not valid CSV: {error}"))
}

fn malformed<T>(why: &str) -> Result<T> {
    Err(Error::Malformed(why.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(text: &[u8], format: Format) -> String {
        match read(text, format) {
            Err(error) => error.to_string(),
            Ok((lines, refused)) => {
                let lines = lines.into_iter().map(|line| {
                    let name = line.name.unwrap_or_else(|| "-".into());
                    format!("{} {} {name} {:?}", line.at, line.email, line.role)
                });
                let refused = refused
                    .into_iter()
                    .map(|r| format!("{} [{}] {}", r.at, r.field, r.reason));
                lines.chain(refused).collect::<Vec<_>>().join("\n")
            }
        }
    }

    #[test]
    fn csv_as_spreadsheets_write_it() {
        for text in [
            "email,name,role\na@x.example,\"Able, Ann\",ORG_ADMIN\nb@x.example,,\n",
            "\u{feff}Role;E-Mail \n".replace("E-Mail ", "EMAIL;name").as_str(),
            "email\tname\n=a@x.example\t=1+1\n",
        ] {
            let said = told(text.as_bytes(), Format::Csv);
            match text.as_bytes()[0] {
                b'e' if text.contains('\t') => assert_eq!(said, "2 =a@x.example =1+1 Member"),
                b'e' => assert_eq!(said, "2 a@x.example Able, Ann OrgAdmin\n3 b@x.example  Member"),
                _ => assert_eq!(said, "The file contains no users"),
            }
        }
        let lines = "email,name\r\n\r\n a@x.example ,\"two\nlines\"\r\n";
        assert_eq!(
            told(lines.as_bytes(), Format::Csv),
            "3  a@x.example  two\nlines Member"
        );
    }

    #[test]
    fn what_is_wrong_is_told_by_line_and_field() {
        let text =
            b"email,name,role\na@x.example,J\xe9r\xf4me,\nb@x.example\nc@x.example,C,boss\nd@x.example,D,\n";
        assert_eq!(
            told(text, Format::Csv),
            "5 d@x.example D Member\n\
             2 [name] is not UTF-8 (byte 0xe9); save the file as UTF-8\n\
             3 [] has 1 cells, but the heading has 3\n\
             4 [role] must be member, help-desk or org-admin, not \"boss\""
        );
        let text = br#"[{"email":"a@x.example"},{"name":"B"},{"email":1},7,{"email":"c@x.example","admin":true},{"email":"d@x.example","role":"root"}]"#;
        assert_eq!(
            told(text, Format::Json),
            "1 a@x.example - Member\n\
             2 [email] is missing\n\
             3 [email] must be a string\n\
             4 [] must be an object with email, name and role\n\
             5 [] has an unknown field \"admin\"; known are email, name, role\n\
             6 [role] must be member, help-desk or org-admin, not \"root\""
        );
    }

    #[test]
    fn what_is_no_such_file_is_refused_as_a_whole() {
        for (text, format, says) in [
            (&b""[..], Format::Csv, "The file contains no users"),
            (b"email\n", Format::Csv, "The file contains no users"),
            (b"[]", Format::Json, "The file contains no users"),
            (
                b"a@x.example,A\n",
                Format::Csv,
                "The first line must name the columns, of which there are email, name, role; it has \"a@x.example\"",
            ),
            (
                b"name,role\n",
                Format::Csv,
                "The first line names no column email",
            ),
            (b"email,email\n", Format::Csv, "The column email appears twice"),
            (
                b"\xff\xfee\0m\0",
                Format::Csv,
                "The file is in UTF-16; save it as UTF-8",
            ),
            (
                b"{}",
                Format::Json,
                "The file must be an array of objects with email, name and role",
            ),
            (
                b"[{\"email\":\"\xff\"}]",
                Format::Json,
                "The file is not valid JSON: invalid unicode code point at line 1 column 12",
            ),
            (
                b"[{",
                Format::Json,
                "The file is not valid JSON: EOF while parsing an object at line 1 column 2",
            ),
        ] {
            assert_eq!(told(text, format), says);
        }
        let many = "email\n".to_owned() + &"a@x.example\n".repeat(LINES_LIMIT + 1);
        assert_eq!(
            told(many.as_bytes(), Format::Csv),
            "There are more than 100000 people in the file; split it"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fall_over(bytes in prop::collection::vec(any::<u8>(), 0..300), json: bool) {
            let format = if json { Format::Json } else { Format::Csv };
            let _ = read(&bytes, format);
            let _ = read(&[b"email,name\n", &bytes[..]].concat(), format);
        }

        #[test]
        fn a_cell_is_kept_as_it_is(name in "[^\\p{Cc}]{0,40}") {
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(["email", "name"]).expect("writes");
            writer.write_record(["a@x.example", &name]).expect("writes");
            let bytes = writer.into_inner().expect("flushes");
            let (lines, _) = read(&bytes, Format::Csv).expect("reads");
            prop_assert_eq!(lines[0].name.as_deref(), Some(name.as_str()));
        }
    }
}
