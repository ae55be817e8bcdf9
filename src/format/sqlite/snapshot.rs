//! (to be replaced)
use super::Image;
use crate::{Error, Result};
use std::path::Path;
/// stub
pub struct Snapshot(Vec<u8>, String);
impl Snapshot {
    /// stub
    pub fn open(path: &Path) -> Result<Snapshot> {
        Ok(Snapshot(std::fs::read(path).map_err(Error::io("read", path))?, path.display().to_string()))
    }
}
impl Image for Snapshot {
    fn path(&self) -> String {
        self.1.clone()
    }
    fn len(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        Image::read_at(&self.0, offset, buf)
    }
}
