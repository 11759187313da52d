//! `latchkey plugin keygen`, `sign` and `verify`, in the minisign format: compatible with the `minisign`
//! tool.

use std::fs;
use std::io::{Cursor, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use minisign::{KeyPair, SecretKey, SecretKeyBox};
use serde_json::json;

use super::{Loaded, line};
use crate::cli::exit::{CodedRefusal, Refusal};
use crate::cli::{files, output};
use crate::plugin_host::{SignerKey, verify_signature};

/// Arguments of `latchkey plugin keygen`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  latchkey plugin keygen acme\n  # writes acme.key (keep it secret) and acme.pub (hand it to operators)"
)]
pub struct Keygen {
    /// Path of the key files without extension: NAME.key and NAME.pub are created.
    #[arg(value_name = "NAME")]
    name: PathBuf,
    #[command(flatten)]
    password: Password,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Source of the password of the secret key.
#[derive(Debug, Args)]
struct Password {
    /// File with the password of the secret key [default: ask on the terminal].
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The secret key has no password (for CI that protects secrets itself).
    #[arg(long, conflicts_with = "password_file")]
    no_password: bool,
}

impl Password {
    /// Reads the password; `None` lets minisign ask on the terminal.
    fn read(&self) -> Result<Option<String>> {
        let Some(path) = &self.password_file else {
            return match fs::File::open("/dev/tty") {
                Ok(_) => Ok(None),
                Err(_) => Err(Refusal(
                    "there is no terminal to ask for a password on: give --password-file FILE or --no-password"
                        .to_owned(),
                )
                .into()),
            };
        };
        Ok(Some(files::text(path)?.trim_end_matches(['\r', '\n']).to_owned()))
    }

    /// Decodes the secret key in this text.
    fn open(&self, text: &str) -> Result<SecretKey> {
        if SignerKey::parse(text).is_ok() {
            return Err(
                Refusal("this is a public key; a plugin is signed with the secret one".to_owned()).into(),
            );
        }
        let wrong = match SecretBytes::read(text) {
            None => "this is not a minisign secret key",
            Some(key) if key.encrypted() && self.no_password => {
                "this key has a password: leave out --no-password, or give --password-file FILE"
            }
            Some(key) if !key.encrypted() && !self.no_password => {
                "this key has no password: give --no-password"
            }
            Some(key) => {
                let secret = if self.no_password {
                    key.unencrypted(text)
                } else {
                    let password = self.read()?;
                    SecretKeyBox::from_string(text).and_then(|boxed| boxed.into_secret_key(password))
                };
                return secret.map_err(|error| Refusal(error.to_string()).into());
            }
        };
        Err(Refusal(wrong.to_owned()).into())
    }
}

impl Keygen {
    pub(super) fn run(self) -> Result<()> {
        let (secret_path, public_path) = (with_ending(&self.name, "key"), with_ending(&self.name, "pub"));
        let pair = if self.password.no_password {
            KeyPair::generate_unencrypted_keypair()?
        } else {
            KeyPair::generate_encrypted_keypair(self.password.read()?)?
        };
        let secret = pair.sk.to_box(Some("latchkey plugin secret key"))?.to_bytes();
        // Never overwrite an existing key: a lost secret key cannot be recovered.
        let create = |path: &Path, mode: u32, bytes: &[u8]| -> Result<()> {
            let file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(path);
            file.and_then(|mut file| file.write_all(bytes))
                .with_context(|| format!("cannot write {}", path.display()))
        };
        create(&secret_path, 0o600, &secret)?;
        create(&public_path, 0o644, &pair.pk.to_box()?.to_bytes())?;
        if self.json {
            return output::json(&json!({
                "secretKeyFile": secret_path, "publicKeyFile": public_path, "publicKey": pair.pk.to_base64(),
            }));
        }
        line(format_args!("secret key  {}", secret_path.display()))?;
        line(format_args!(
            "public key  {}  {}",
            public_path.display(),
            pair.pk.to_base64()
        ))
    }
}

/// Arguments of `latchkey plugin sign`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  latchkey plugin sign policy.wasm --key acme.key
  minisign -Vm policy.wasm -p acme.pub          # minisign's own tool agrees")]
pub struct Sign {
    /// Plugin file.
    #[arg(value_name = "PLUGIN.wasm")]
    plugin: PathBuf,
    /// File with the secret key (minisign format).
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// File to write the signature to [default: PLUGIN.wasm.minisig].
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    password: Password,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl Sign {
    pub(super) fn run(self) -> Result<()> {
        // A plugin that an appliance would refuse is not signed. The trusted comment, which the signature
        // covers, says what was signed.
        let loaded = Loaded::open(&self.plugin, false)?;
        let manifest = loaded.manifest(&self.plugin)?;
        let comment = format!(
            "latchkey plugin {} {} sha256:{}",
            manifest.name,
            manifest.version,
            loaded.prepared.digest()
        );

        let text = files::text(&self.key)?;
        let secret = self.password.open(&text);
        let secret = secret.with_context(|| self.key.display().to_string())?;
        let signature = minisign::sign(
            None,
            &secret,
            Cursor::new(&loaded.bytes),
            Some(&comment),
            Some("latchkey plugin"),
        )?;

        let output = self.output.unwrap_or_else(|| signature_path(&self.plugin));
        fs::write(&output, signature.to_bytes())
            .with_context(|| format!("cannot write {}", output.display()))?;
        if self.json {
            return output::json(&json!({ "signatureFile": output, "comment": comment }));
        }
        line(format_args!("{}: {comment}", output.display()))
    }
}

/// Decoded content of a secret key file.
struct SecretBytes(Vec<u8>);

impl SecretBytes {
    fn read(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text.lines().nth(1)?.trim()).ok()?;
        (bytes.len() == SECRET_KEY_BYTES).then_some(Self(bytes))
    }

    fn encrypted(&self) -> bool {
        self.0[2..4] != NO_KDF
    }

    /// Reads a key without a password. `minisign -W` (0.11) writes no checksum into such a key, which the
    /// `minisign` crate takes for corruption; then the public half in it is checked against the secret half
    /// instead.
    fn unencrypted(&self, text: &str) -> Result<SecretKey, minisign::PError> {
        let Self(bytes) = self;
        if bytes[KEY_PAIR.end..].iter().all(|byte| *byte == 0)
            && let Ok(pair) = <[u8; 64]>::try_from(&bytes[KEY_PAIR])
            && ed25519_dalek::SigningKey::from_keypair_bytes(&pair).is_ok()
        {
            return SecretKey::from_bytes(bytes);
        }
        SecretKeyBox::from_string(text)?.into_unencrypted_secret_key()
    }
}

/// Layout of a secret key: algorithms, salt and costs (54 bytes), key id (8), key pair (64), checksum (32).
const SECRET_KEY_BYTES: usize = KEY_PAIR.end + 32;
const KEY_PAIR: std::ops::Range<usize> = 62..126;
const NO_KDF: [u8; 2] = [0; 2];

/// Arguments of `latchkey plugin verify`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  latchkey plugin verify policy.wasm --public-key acme.pub")]
pub struct Verify {
    /// Plugin file.
    #[arg(value_name = "PLUGIN.wasm")]
    plugin: PathBuf,
    /// Public key: a file, or the key itself (base64).
    #[arg(long, value_name = "KEY|FILE")]
    public_key: String,
    /// File with the signature [default: PLUGIN.wasm.minisig].
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(super) fn run(self) -> Result<()> {
        let bytes = files::plugin(&self.plugin)?;
        let path = self.signature.unwrap_or_else(|| signature_path(&self.plugin));
        if !path.exists() {
            let text = format!(
                "there is no signature at {}: name it with --signature FILE",
                path.display()
            );
            let code = "signature-missing";
            return Err(CodedRefusal { text, code }.into());
        }
        let signature = files::text(&path)?;
        let given = Path::new(&self.public_key);
        let key = if given.exists() {
            SignerKey::parse(&files::text(given)?)
        } else {
            SignerKey::parse(&self.public_key)
                .map_err(|_| "there is no such file, and the text is not a key".to_owned())
        };
        let key = key.map_err(|reason| Refusal(format!("{}: {reason}", self.public_key)))?;
        let signed = verify_signature(&bytes, &signature, &[key]).map_err(|error| CodedRefusal {
            text: format!("{}: {error}", self.plugin.display()),
            code: error.code(),
        })?;
        if self.json {
            return output::json(&json!({ "keyId": signed.key_id, "comment": signed.comment }));
        }
        line(format_args!(
            "good signature by {}: {}",
            signed.key_id, signed.comment
        ))
    }
}

fn signature_path(plugin: &Path) -> PathBuf {
    with_ending(plugin, "minisig")
}

/// Returns `path` with `.ending` appended, without replacing an extension that it has.
fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}
