//! The metrics listener, as configured.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::first_line;

/// Shortest token, in characters, which keeps guessing infeasible.
const TOKEN_CHARACTERS: usize = 16;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RawMetrics {
    pub listen: String,
    pub token_file: PathBuf,
}

/// Address of the metrics listener, and the token that it requires.
#[derive(Clone)]
pub struct MetricsConfig {
    /// Address of its own: the address of the API serves no metrics.
    pub listen: SocketAddr,
    /// Bearer token that a reader must present; never `None` if other machines can connect.
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

/// Checks the section; `None` if metrics are off or the address is invalid.
pub(super) fn check(raw: &RawMetrics, problems: &mut Vec<String>) -> Option<MetricsConfig> {
    let token = first_line("metrics.token_file", &raw.token_file, problems);
    if raw.listen.is_empty() {
        if !raw.token_file.as_os_str().is_empty() {
            problems.push("metrics.token_file: has no effect without metrics.listen".to_owned());
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
            "metrics.token_file: its first line has fewer than {TOKEN_CHARACTERS} characters"
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
