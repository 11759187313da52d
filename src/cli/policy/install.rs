//! `latchkey plugin install`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::cli::{Global, files, orders, output};
use crate::service::plugins::{FileText, InstallOrder, PolicyOrder};

#[derive(Debug, Args)]
pub(in crate::cli) struct Install {
    /// Plugin file: a component, or a core module, which is converted to one.
    file: PathBuf,
    /// Signature of the plugin (minisign format). Checked if the node trusts keys (`plugins.trusted_keys`),
    /// or if --public-key names one.
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// Key that must have signed it: a minisign public key, or a file that holds it.
    #[arg(long, value_name = "FILE|KEY", requires = "signature")]
    public_key: Option<String>,
    /// Install it for this organisation only [default: every organisation may bind it].
    #[arg(long, value_name = "SLUG")]
    org: Option<String>,
    /// Print the installed plugin as JSON.
    #[arg(long)]
    json: bool,
}

impl Install {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let bytes = files::plugin(&self.file)?;
        let signature = self.signature.as_deref().map(files::text).transpose()?;
        let public_key = match self.public_key {
            Some(file) if Path::new(&file).is_file() => Some(files::text(Path::new(&file))?),
            key => key,
        };
        let order = InstallOrder {
            file: FileText::of(&bytes),
            signature,
            public_key,
            organization: self.org,
        };
        let installed = orders::carry_out_shown(global, PolicyOrder::Install(order), "installing")?;
        let [name, version, digest] =
            ["name", "version", "digest"].map(|key| installed[key].as_str().unwrap_or_default());
        if self.json {
            let (new, signed_by) = (&installed["new"], &installed["signedBy"]);
            output::json(&json!({
                "name": name, "version": version, "digest": digest, "new": new, "signedBy": signed_by,
            }))?;
            return super::warn(&installed);
        }
        let how = if installed["new"] == false {
            "was already installed"
        } else {
            "installed"
        };
        output::line(format_args!("{name} {version} {how}, SHA-256 {digest}"))?;
        if let Some(key) = installed["signedBy"].as_str() {
            output::line(format_args!("Signed with the key {key}"))?;
        }
        let wants: Vec<_> = super::texts(&installed["wants"]).collect();
        if !wants.is_empty() {
            output::line(format_args!("It requests: {}", wants.join(", ")))?;
        }
        output::line(format_args!(
            "Next: latchkey plugin bind {name} --org SLUG --config JSON"
        ))?;
        super::warn(&installed)
    }
}
