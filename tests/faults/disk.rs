//! A data directory on a disk that can fail: what the faults' tests begin with.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::load_support::seed::{self, Seeded};
use crate::load_support::{Server, shim};

/// A seeded data directory on a disk that fails as it is told to.
pub struct Disk {
    folder: TempDir,
    shim: PathBuf,
    /// The data directory.
    pub data: PathBuf,
    /// Who is in it.
    pub seeded: Seeded,
}

#[expect(clippy::unwrap_used, reason = "a test may fail")]
impl Disk {
    /// With so many users; nothing where it can't be made.
    pub fn new(users: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let shim = shim(folder.path())?;
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        let seeded = seed::seed(&data, users);
        let disk = Self {
            folder,
            shim,
            data,
            seeded,
        };
        disk.says("-");
        Some(disk)
    }

    /// Fails from now on by a letter that the shim knows; `-`: works.
    pub fn says(&self, letter: &str) {
        fs::write(self.control(), letter).unwrap();
    }

    fn control(&self) -> PathBuf {
        self.folder.path().join("fault")
    }

    /// The server over it, with further variables.
    pub fn serve(&self, further: &[(&str, &str)]) -> Server {
        let control = self.control();
        let mut variables = vec![
            ("LD_PRELOAD", self.shim.to_str().unwrap()),
            ("FAULT_FILE", control.to_str().unwrap()),
        ];
        variables.extend(further);
        Server::start(&self.data, &variables)
    }
}
