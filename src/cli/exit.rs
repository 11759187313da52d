//! Exit codes, for scripts.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::domain::Error;
use crate::keys::KeyError;
use crate::service::backup::BackupError;
use crate::service::key_match::KeysOfAnother;
use crate::service::trail::RolledBack;
use crate::store::OpenError;
use crate::store::audit::VerifyError;

/// The end of `latchkey --help`.
pub(super) const HELP: &str = "\
Exit codes:
  0  done
  1  failed: something unexpected, or a check that found something
  2  the command line is invalid
  3  the configuration is invalid
  4  the data directory can't be used: missing, in use, damaged, or of a newer version
  5  refused: no such organisation or user, a rule forbids it, or a file is malformed

To try it out: latchkey demo
To see examples: latchkey help COMMAND";

/// The exit code of a failed command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// An unexpected failure, or a check that found something.
    Failed = 1,
    /// The configuration is wrong.
    Config = 3,
    /// The data directory can't be used.
    DataDirectory = 4,
    /// A rule forbids it, or the object it names does not exist.
    Refused = 5,
    /// The reader of the output closed the pipe.
    BrokenPipe = 6,
}

/// The configuration is wrong; the text lists every problem.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct BadConfig(pub String);

/// The command needs a data directory that does not exist.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoDataDirectory(pub String);

/// The operator's input can't be used; the text says what and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// A refusal with a stable code for scripts, in brackets at its end.
#[derive(Debug, thiserror::Error)]
#[error("{text} [{code}]")]
pub(super) struct CodedRefusal {
    /// What was refused, and why.
    pub text: String,
    /// The stable code, in kebab-case.
    pub code: &'static str,
}

impl Exit {
    /// Returns the exit code of an error, by the first cause that has one.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Self {
        for cause in error.chain() {
            if cause.is::<BadConfig>() {
                return Self::Config;
            }
            let data_directory = cause.is::<OpenError>()
                || cause.is::<RolledBack>()
                || cause.is::<NoDataDirectory>()
                || cause.is::<KeysOfAnother>()
                || cause.is::<KeyError>()
                || cause.is::<VerifyError>();
            if data_directory {
                return Self::DataDirectory;
            }
            let refused = cause.is::<Refusal>()
                || cause.is::<CodedRefusal>()
                || matches!(cause.downcast_ref(), Some(BackupError::Refused(_)));
            if refused {
                return Self::Refused;
            }
            if let Some(error) = cause.downcast_ref::<Error>() {
                return if error.is_refusal() {
                    Self::Refused
                } else {
                    Self::Failed
                };
            }
            let pipe = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            if pipe == Some(std::io::ErrorKind::BrokenPipe) {
                return Self::BrokenPipe;
            }
        }
        Self::Failed
    }
}

/// Returns the error with its causes in one line. The person at the command line owns the machine, and is
/// shown details that an API caller is not: the same as in the log, which holds no secret either (invariant
/// 7).
pub(super) fn told(error: &anyhow::Error) -> String {
    let causes = error.chain().map(|cause| match cause.downcast_ref::<Error>() {
        Some(error) => error.for_operator(),
        None => cause.to_string(),
    });
    causes.collect::<Vec<_>>().join(": ")
}

/// Returns each invalid field and its problem, if the error is about fields.
pub(super) fn problems(error: &anyhow::Error) -> impl Iterator<Item = (&String, &String)> {
    let causes = error.chain().filter_map(|cause| cause.downcast_ref::<Error>());
    causes.flat_map(|cause| match cause {
        Error::Validation(problems) => problems.iter().collect(),
        _ => Vec::new(),
    })
}

/// Returns the error for `--json`: `error` as [`told`], `code` if it has a stable one, and `problems` (field →
/// problem) if it is about fields.
pub(super) fn in_json(error: &anyhow::Error) -> Value {
    let mut value = json!({ "error": told(error) });
    let coded = error.chain().find_map(|cause| cause.downcast_ref());
    if let Some(CodedRefusal { code, .. }) = coded {
        value["code"] = json!(code);
    }
    let problems: BTreeMap<_, _> = problems(error).collect();
    if !problems.is_empty() {
        value["problems"] = json!(problems);
    }
    value
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            // The code that a shell reports for a command ended by SIGPIPE: 128 + 13.
            Exit::BrokenPipe => Self::from(141),
            other => Self::from(other as u8),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use anyhow::Context as _;

    use super::*;

    #[test]
    fn an_operator_is_told_what_went_wrong_inside() {
        let full = Error::Internal("database: database or disk is full".to_owned());
        let error = anyhow::Error::from(full).context("the sample can't be loaded");
        assert_eq!(
            told(&error),
            "the sample can't be loaded: database: database or disk is full"
        );
        assert_eq!(told(&Error::NoMfa.into()), "MFA is not enabled");
    }

    #[test]
    fn in_json_an_error_has_its_code_and_its_fields() {
        let coded = CodedRefusal {
            text: "x.wasm: not WebAssembly".to_owned(),
            code: "not-wasm",
        };
        let fields = Error::field("slug", "is taken");
        for (error, expected) in [
            (
                anyhow::Error::from(Error::NoMfa),
                json!({ "error": "MFA is not enabled" }),
            ),
            (
                anyhow::Error::from(coded).context("checking"),
                json!({ "error": "checking: x.wasm: not WebAssembly [not-wasm]", "code": "not-wasm" }),
            ),
            (
                fields.into(),
                json!({ "error": "Validation failed", "problems": { "slug": "is taken" } }),
            ),
        ] {
            assert_eq!(in_json(&error), expected);
        }
    }

    #[test]
    fn a_cause_is_told_once() {
        let denied = || std::io::Error::from_raw_os_error(13);
        let path = || PathBuf::from("/x");
        let errors = [
            anyhow::Error::from(KeyError::Io {
                path: path(),
                problem: denied(),
            }),
            OpenError::Io {
                path: path(),
                problem: denied(),
            }
            .into(),
            BackupError::Io {
                path: path(),
                problem: denied(),
            }
            .into(),
        ];
        for error in errors {
            assert_eq!(told(&error), "/x: Permission denied (os error 13)");
            assert_eq!(format!("{error:#}"), "/x: Permission denied (os error 13)");
        }
        let unread: anyhow::Result<()> = Err(denied()).context("/x");
        assert_eq!(
            told(&unread.expect_err("it is one")),
            "/x: Permission denied (os error 13)"
        );
    }
}
