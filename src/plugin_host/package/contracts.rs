//! The versions of the contract that a host speaks.

use semver::Version;

use super::PackageError;
use crate::plugin_host::printable;

/// The contract as text; what `latchkey plugin new` writes into a project.
pub const CONTRACT_WIT: &str = include_str!("../../../plugins/wit/v1/policy.wit");

/// Every version that was released, word for word, oldest first; the last one is [`CONTRACT_WIT`]. A core module
/// is made a component by the text of the version it was built for, so a later version is a row more, and the rows
/// before it stay.
const RELEASED: &[(&str, &str)] = &[(
    "1.0.0",
    include_str!("../../../fixtures/contract/policy-1.0.0.wit"),
)];

/// The contracts that a host speaks, oldest first.
#[derive(Clone, Debug)]
pub struct Contracts(Vec<(Version, &'static str)>);

impl Contracts {
    /// Those of this host.
    #[must_use]
    pub fn released() -> Self {
        let parsed = |&(version, text): &(&str, &'static str)| {
            (Version::parse(version).expect("a version of ours is one"), text)
        };
        Self(RELEASED.iter().map(parsed).collect())
    }

    /// These and a newer one, as a later host will have them.
    #[must_use]
    pub fn and(mut self, version: Version, text: &'static str) -> Self {
        self.0.push((version, text));
        self
    }

    /// The newest version.
    #[must_use]
    pub fn newest(&self) -> Version {
        let (version, _) = self.0.last().expect("a host speaks some contract");
        version.clone()
    }

    /// The contract of exactly this version.
    pub(super) fn text(&self, version: &Version) -> Option<&'static str> {
        let found = self.0.iter().find(|(known, _)| known == version);
        found.map(|(_, text)| *text)
    }

    /// The version, if this host speaks it: the same major, and no newer minor (a plugin built for a
    /// newer minor may rest on facts that this host does not tell).
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

/// The newest contract that this host speaks.
#[must_use]
pub fn contract_version() -> Version {
    Contracts::released().newest()
}

pub(super) fn speaks(supported: &Version, asked: &Version) -> bool {
    asked.major == supported.major && asked.minor <= supported.minor && asked.pre.is_empty()
}
