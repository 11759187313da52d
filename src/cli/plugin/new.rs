//! `latchkey plugin new`: creates a project from a template embedded in this binary.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use include_dir::{Dir, DirEntry, include_dir};

use crate::cli::exit::Refusal;
use crate::cli::output;
use crate::domain::policy::is_kebab;
use crate::plugin_host::{BASE_QUESTION, CONTRACT_WIT};

/// Arguments of `latchkey plugin new`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  latchkey plugin new --lang rust ticket-required")]
pub struct New {
    /// Name of the plugin, in kebab-case; also the name of the folder that is created.
    #[arg(value_name = "NAME")]
    name: String,
    /// Language of the plugin.
    #[arg(long, value_enum)]
    lang: Language,
    /// Folder to create instead of ./NAME.
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
}

/// Languages with a template.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Language {
    Rust,
    /// Also for TypeScript: the README of the project explains how.
    #[value(name = "javascript", alias = "typescript")]
    JavaScript,
    Python,
    C,
}

impl Language {
    fn template(self) -> &'static Dir<'static> {
        let name = match self {
            Self::Rust => "rust",
            Self::JavaScript => "javascript",
            Self::Python => "python",
            Self::C => "c",
        };
        TEMPLATES
            .get_dir(name)
            .expect("each language has its folder; a test makes all of them")
    }
}

impl New {
    pub(super) fn run(self) -> Result<()> {
        if !is_kebab(&self.name) {
            let text = format!(
                "{:?} is not a valid name: it must be kebab-case, 1 to 64 characters, such as ticket-required",
                self.name
            );
            return Err(Refusal(text).into());
        }
        let folder = self.path.clone().unwrap_or_else(|| PathBuf::from(&self.name));
        // Never write into an existing folder, so that nothing of the author's is overwritten.
        if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        fs::create_dir(&folder)
            .map_err(|error| Refusal(format!("cannot make {}: {error}", folder.display())))?;

        let project = Project {
            folder: &folder,
            name: &self.name,
        };
        project.copy(self.lang.template(), "")?;
        project.write("wit/policy.wit", CONTRACT_WIT.as_bytes())?;
        match self.lang {
            Language::Rust => {
                project.copy(&RUST_SDK, "sdk/src")?;
                project.write("sdk/Cargo.toml", RUST_SDK_MANIFEST.as_bytes())?;
                project.write("sdk/base-question.json", BASE_QUESTION.as_bytes())?;
                project.write("sdk/wit/policy.wit", CONTRACT_WIT.as_bytes())?;
            }
            Language::C => project.copy(&C_SDK, "sdk")?,
            Language::JavaScript | Language::Python => {}
        }
        output::line(format_args!(
            "{}: README.md there has the next steps",
            folder.display()
        ))
    }
}

/// A project being written.
struct Project<'a> {
    folder: &'a Path,
    name: &'a str,
}

impl Project<'_> {
    /// Copies the files in `dir`, at any depth, to below `to`.
    fn copy(&self, dir: &Dir<'_>, to: &str) -> Result<()> {
        self.copy_below(dir, dir.path(), Path::new(to))
    }

    fn copy_below(&self, dir: &Dir<'_>, root: &Path, to: &Path) -> Result<()> {
        for entry in dir.entries() {
            match entry {
                DirEntry::Dir(inner) => self.copy_below(inner, root, to)?,
                DirEntry::File(file) => {
                    let below = file
                        .path()
                        .strip_prefix(root)
                        .expect("entries are below their folder");
                    self.write(to.join(below), file.contents())?;
                }
            }
        }
        Ok(())
    }

    fn write(&self, at: impl AsRef<Path>, content: &[u8]) -> Result<()> {
        let path = self.folder.join(at);
        let text = std::str::from_utf8(content).with_context(|| format!("{} is not text", path.display()))?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        fs::write(&path, text.replace("{{name}}", self.name))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

static TEMPLATES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/plugins/templates");
static RUST_SDK: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/plugins/sdk/src");
static C_SDK: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/plugins/sdk-c");
const RUST_SDK_MANIFEST: &str = include_str!("../../../plugins/sdk/Cargo.toml");
