//! The versions of the contract that a host supports.

use semver::Version;

use super::PackageError;
use crate::plugin_host::printable;

/// The newest contract as WIT text, which `latchkey plugin new` writes into a project.
pub const CONTRACT_WIT: &str = include_str!("../../../plugins/wit/v1/policy.wit");

/// Every released version, word for word, oldest first; the last one is [`CONTRACT_WIT`]. A core module is made
/// a component with the text of the version that it was built for, so a new version adds a row and the earlier
/// rows stay.
const RELEASED: &[(&str, &str)] = &[(
    "1.0.0",
    include_str!("../../../fixtures/contract/policy-1.0.0.wit"),
)];

/// The contracts that a host supports, oldest first.
#[derive(Clone, Debug)]
pub struct Contracts(Vec<(Version, &'static str)>);

impl Contracts {
    /// Returns the contracts of this host.
    #[must_use]
    pub fn released() -> Self {
        let parsed = |&(version, text): &(&str, &'static str)| {
            (Version::parse(version).expect("a version of ours is one"), text)
        };
        Self(RELEASED.iter().map(parsed).collect())
    }

    /// Adds a newer contract, as a later host will have it.
    #[must_use]
    pub fn and(mut self, version: Version, text: &'static str) -> Self {
        self.0.push((version, text));
        self
    }

    /// Returns the newest version.
    #[must_use]
    pub fn newest(&self) -> Version {
        let (version, _) = self.0.last().expect("a host speaks some contract");
        version.clone()
    }

    /// Returns the text of exactly this version.
    pub(super) fn text(&self, version: &Version) -> Option<&'static str> {
        let found = self.0.iter().find(|(known, _)| known == version);
        found.map(|(_, text)| *text)
    }

    /// Returns the version if this host supports it: the same major and no newer minor, since a plugin built
    /// for a newer minor may rely on facts that this host does not provide.
    pub(super) fn spoken(&self, interface: &str, version: &str) -> Result<Version, PackageError> {
        let supported = self.newest();
        match Version::parse(version) {
            Ok(version) if speaks(&supported, &version) => Ok(version),
            _ => Err(PackageError::WrongVersion {
                interface: interface.to_owned(),
                found: if version.is_empty() {
                    "none".to_owned()
                } else {
                    printable(version)
                },
                supported,
            }),
        }
    }
}

/// Returns the newest contract version that this host supports.
#[must_use]
pub fn contract_version() -> Version {
    Contracts::released().newest()
}

pub(super) fn speaks(supported: &Version, asked: &Version) -> bool {
    asked.major == supported.major && asked.minor <= supported.minor && asked.pre.is_empty()
}
