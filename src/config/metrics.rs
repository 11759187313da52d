//! The address for metrics, as configured.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::first_line;

/// Shortest token, in characters: guessing it is to take for ever.
const TOKEN_CHARACTERS: usize = 16;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RawMetrics {
    pub listen: String,
    pub token_file: PathBuf,
}

/// Where metrics are served, and to whom.
#[derive(Clone)]
pub struct MetricsConfig {
    /// An address of its own: what serves users serves no metrics.
    pub listen: SocketAddr,
    /// What a reader has to show as its bearer token; never absent where others than this machine can connect.
    pub token: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for MetricsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let has_token = self.token.is_some();
        f.debug_struct("MetricsConfig")
            .field("listen", &self.listen)
            .field("has_token", &has_token)
            .finish()
    }
}

/// The section, checked; nothing where metrics are off.
pub(super) fn check(raw: &RawMetrics, problems: &mut Vec<String>) -> Option<MetricsConfig> {
    let token = first_line("metrics.token_file", &raw.token_file, problems);
    if raw.listen.is_empty() {
        if !raw.token_file.as_os_str().is_empty() {
            problems.push("metrics.token_file: says nothing without metrics.listen".to_owned());
        }
        return None;
    }
    let Ok(listen) = raw.listen.parse::<SocketAddr>() else {
        problems.push(format!(
            "metrics.listen: {:?} is not an address and port such as 127.0.0.1:9464",
            raw.listen
        ));
        return None;
    };
    if token
        .as_ref()
        .is_some_and(|token| token.chars().count() < TOKEN_CHARACTERS)
    {
        problems.push(format!(
            "metrics.token_file: its first line has less than {TOKEN_CHARACTERS} characters"
        ));
    }
    if raw.token_file.as_os_str().is_empty() && !listen.ip().to_canonical().is_loopback() {
        problems.push(format!(
            "metrics.token_file: is needed for metrics.listen = {:?}, which others than this machine may reach",
            raw.listen
        ));
    }
    Some(MetricsConfig { listen, token })
}
