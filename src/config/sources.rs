//! The sources of the configuration, and how they override each other.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use figment::providers::{Format as _, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::raw::{LogFormat, RawConfig};

const PREFIX: &str = "LATCHKEY_";
/// Variable that names the configuration file; not a key of the file.
const FILE_VARIABLE: &str = "LATCHKEY_CONFIG_FILE";
/// Variables with our prefix that mean something else: those that our guide has API clients export, and those
/// that Kubernetes sets in every container beside a service called `latchkey`. None of them can become a key.
const OF_OTHERS: [&str; 5] = [
    "LATCHKEY_URL",
    "LATCHKEY_TOKEN",
    "LATCHKEY_SERVICE_HOST",
    "LATCHKEY_SERVICE_PORT",
    "LATCHKEY_PORT",
];
/// Prefixes of further such variables, for additional and numbered ports of a service:
/// `LATCHKEY_PORT_8080_TCP_ADDR`.
const BEGINNINGS_OF_OTHERS: [&str; 2] = ["LATCHKEY_SERVICE_PORT_", "LATCHKEY_PORT_"];
const PLACES: [&str; 2] = ["latchkey.toml", "/etc/latchkey/latchkey.toml"];

/// All sources of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file, which must exist; `None` looks in the usual places.
    pub file: Option<PathBuf>,
    /// Environment variables; those without the prefix `LATCHKEY_` are ignored.
    pub variables: Vec<(String, String)>,
    /// Command-line flags.
    pub flags: Flags,
    /// Values for keys that no other source sets, in place of the built-in ones.
    pub defaults: RawConfig,
    text: Option<String>,
}

/// The configuration given on the command line.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// Value of `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// Value of `--listen`.
    pub listen: Option<String>,
    /// Value of `--log-format`.
    pub log_format: Option<LogFormat>,
    /// Value of `--log-level`.
    pub log_level: Option<String>,
}

/// The merged sources.
pub(super) struct Read {
    pub(super) raw: RawConfig,
    pub(super) file: Option<PathBuf>,
    /// Unknown keys and values of the wrong type.
    pub(super) problems: Vec<String>,
}

impl Sources {
    /// Returns sources that consist of the text of a configuration file only.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self {
            text: Some(text.to_owned()),
            ..Self::default()
        }
    }

    /// Returns the environment of this process, together with the command line.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the environment"
    )]
    pub fn of_process(file: Option<PathBuf>, flags: Flags) -> Self {
        // A variable that is not Unicode is not meant for us, whatever its name.
        let variables: Vec<_> = std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect();
        let named = variables
            .iter()
            .find(|(name, _)| name == FILE_VARIABLE)
            .map(|(_, file)| PathBuf::from(file));
        Self {
            file: file.or(named),
            variables,
            flags,
            ..Self::default()
        }
    }

    /// Reads all sources into one configuration. A value that can't be read is reported as a problem, and the
    /// built-in one is used.
    pub(super) fn read(&self) -> Result<Read> {
        let mut figment = Figment::from(Serialized::defaults(&self.defaults));
        let file = self.find_file()?;
        if let Some(file) = &file {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("the configuration file {} can't be read", file.display()))?;
            figment = figment.merge(Named {
                name: file.display().to_string(),
                toml: text,
            });
        }
        if let Some(text) = &self.text {
            figment = figment.merge(Named {
                name: "the given text".to_owned(),
                toml: text.clone(),
            });
        }
        for (name, value) in &self.variables {
            if let Some(key) = name.strip_prefix(PREFIX).filter(|_| is_ours(name)) {
                figment = figment.merge(Variable {
                    name,
                    key: key.to_lowercase().replace("__", "."),
                    value,
                });
            }
        }
        figment = figment.merge(FlagValues(&self.flags));
        let mut problems = unknown_keys(&figment)?;
        let raw = extract(figment, &mut problems)?;
        Ok(Read { raw, file, problems })
    }

    fn find_file(&self) -> Result<Option<PathBuf>> {
        if self.text.is_some() {
            return Ok(None);
        }
        if let Some(file) = &self.file {
            if !file.is_file() {
                bail!("the configuration file {} does not exist", file.display());
            }
            return Ok(Some(file.clone()));
        }
        Ok(PLACES
            .iter()
            .map(Path::new)
            .find(|place| place.is_file())
            .map(Path::to_owned))
    }
}

/// Returns whether a variable names a key, or is meant to.
fn is_ours(variable: &str) -> bool {
    variable != FILE_VARIABLE
        && !OF_OTHERS.contains(&variable)
        && !BEGINNINGS_OF_OTHERS
            .iter()
            .any(|beginning| variable.starts_with(beginning))
}

/// Largest file that the configuration may name, in bytes.
const NAMED_FILE_LIMIT: u64 = 1 << 20;

/// Reads a file that the configuration names. Refuses devices and pipes, which may never end.
pub(super) fn read_named(file: &Path) -> std::io::Result<Vec<u8>> {
    let refused = |problem: &str| Err(std::io::Error::other(problem.to_owned()));
    if !std::fs::metadata(file)?.is_file() {
        return refused("it is not a regular file");
    }
    let mut bytes = Vec::new();
    let mut start = std::fs::File::open(file)?.take(NAMED_FILE_LIMIT + 1);
    if start.read_to_end(&mut bytes)? as u64 > NAMED_FILE_LIMIT {
        return refused("it is larger than 1 MiB");
    }
    Ok(bytes)
}

/// Returns a problem for every key that [`RawConfig`] does not have, with the nearest key that it has.
fn unknown_keys(figment: &Figment) -> Result<Vec<String>> {
    let merged: serde_json::Value = figment.extract().map_err(unreadable)?;
    let known = built_in();
    let mut unknown = Vec::new();
    find_unknown(&merged, &known, "", &mut unknown);
    let mut candidates = Vec::new();
    known_keys(&known, "", &mut candidates);
    let texts = unknown
        .iter()
        .map(|key| unknown_text(figment, key, &candidates))
        .collect();
    Ok(texts)
}

/// Extracts the values. A value of the wrong type is reported and replaced by the built-in one, so that later
/// ones are reported too.
fn extract(mut figment: Figment, problems: &mut Vec<String>) -> Result<RawConfig> {
    let built_in = built_in();
    let mut keys = Vec::new();
    known_keys(&built_in, "", &mut keys);
    let mut mended = Vec::new();
    loop {
        let error = match figment.extract() {
            Ok(raw) => return Ok(raw),
            Err(error) => error,
        };
        // A section that is not a table has no keys: its own value stands for all of them.
        let path = error.path.join(".");
        let mut at = keys.iter().map(String::as_str).find(|key| lies_in(&path, key));
        at = at.or_else(|| keys.iter().any(|key| lies_in(key, &path)).then_some(&path));
        let Some(key) = at.filter(|key| !mended.iter().any(|mended| mended == key)) else {
            return Err(unreadable(error));
        };
        let value = built_in.pointer(&format!("/{}", key.replace('.', "/")));
        mended.push(key.to_owned());
        let source = error.metadata.as_ref().map_or("", |metadata| &*metadata.name);
        problems.push(format!("{path}: {} (in {source})", error.kind));
        figment = figment.merge(Serialized::default(key, value));
    }
}

/// Returns whether a dotted name equals `outer` or lies inside it.
fn lies_in(name: &str, outer: &str) -> bool {
    let inner = name.strip_prefix(outer);
    inner.is_some_and(|inner| inner.is_empty() || inner.starts_with('.'))
}

fn unreadable(error: figment::Error) -> anyhow::Error {
    let texts: Vec<_> = error.into_iter().map(|e| e.to_string()).collect();
    anyhow!("the configuration can't be read:\n  {}", texts.join("\n  "))
}

fn built_in() -> serde_json::Value {
    serde_json::to_value(RawConfig::default()).expect("the configuration is plain data")
}

fn unknown_text(figment: &Figment, key: &str, candidates: &[String]) -> String {
    let source = figment
        .find_metadata(key)
        .map_or_else(String::new, |metadata| metadata.name.to_string());
    // Compare a section with sections: the prefixes of the candidates with the same depth.
    let depth = key.matches('.').count() + 1;
    let nearest = candidates
        .iter()
        .flat_map(|candidate| {
            let same_depth = candidate.split('.').take(depth).collect::<Vec<_>>().join(".");
            let leaf = candidate.rsplit('.').next().unwrap_or(candidate);
            [
                (strsim::jaro_winkler(key, &same_depth), same_depth.clone()),
                // The right name in the wrong section.
                (
                    strsim::jaro_winkler(key.rsplit('.').next().unwrap_or(key), leaf) - 0.01,
                    candidate.clone(),
                ),
            ]
        })
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.8)
        .map(|(_, nearest)| nearest);
    if let Some(variable) = source.strip_prefix("variable ") {
        let hint = nearest.map_or_else(String::new, |nearest| {
            // A section is not a variable, but its keys are.
            let rest = if candidates.contains(&nearest) {
                ""
            } else {
                "__…"
            };
            let variable = nearest.to_uppercase().replace('.', "__");
            format!("; did you mean {PREFIX}{variable}{rest}?")
        });
        return format!("{variable} is unknown{hint}");
    }
    let hint = nearest.map_or_else(String::new, |nearest| format!("; did you mean {nearest}?"));
    format!("{key} is unknown{hint} (in {source})")
}

fn find_unknown(value: &serde_json::Value, known: &serde_json::Value, path: &str, unknown: &mut Vec<String>) {
    let (Some(value), Some(known)) = (value.as_object(), known.as_object()) else {
        return;
    };
    for (key, inner) in value {
        let path = join(path, key);
        match known.get(key) {
            Some(known) => find_unknown(inner, known, &path, unknown),
            None => unknown.push(path),
        }
    }
}

/// Collects the dotted names of all keys.
pub(super) fn known_keys(known: &serde_json::Value, path: &str, keys: &mut Vec<String>) {
    match known.as_object() {
        Some(section) => section
            .iter()
            .for_each(|(key, inner)| known_keys(inner, &join(path, key), keys)),
        None => keys.push(path.to_owned()),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

type Data = Result<Map<Profile, Dict>, figment::Error>;

/// A TOML text whose messages name its file.
struct Named {
    name: String,
    toml: String,
}

impl Provider for Named {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Data {
        Toml::string(&self.toml)
            .data()
            .map_err(|e| figment::Error::from(format!("{} is not valid TOML: {}", self.name, e.kind)))
    }
}

/// One environment variable: `LATCHKEY_HTTP__MAX_HEADERS` is `http.max_headers`.
struct Variable<'a> {
    name: &'a str,
    key: String,
    value: &'a str,
}

impl Provider for Variable<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named(format!("variable {}", self.name))
    }

    fn data(&self) -> Data {
        let value: Value = self.value.parse().expect("figment reads any text as a value");
        let nested = figment::util::nest(&self.key, value);
        Ok(nested.into_dict().unwrap_or_default()).map(|dict| Profile::Default.collect(dict))
    }
}

struct FlagValues<'a>(&'a Flags);

impl Provider for FlagValues<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named("the command line")
    }

    fn data(&self) -> Data {
        let mut dict = Dict::new();
        let mut log = Dict::new();
        let text = |value: &str| Value::from(value.to_owned());
        if let Some(dir) = &self.0.data_dir {
            dict.insert("data_dir".to_owned(), Value::serialize(dir)?);
        }
        if let Some(listen) = &self.0.listen {
            dict.insert("listen".to_owned(), text(listen));
        }
        if let Some(format) = self.0.log_format {
            log.insert("format".to_owned(), Value::serialize(format)?);
        }
        if let Some(level) = &self.0.log_level {
            log.insert("level".to_owned(), text(level));
        }
        if !log.is_empty() {
            dict.insert("log".to_owned(), log.into());
        }
        Ok(Profile::Default.collect(dict))
    }
}
