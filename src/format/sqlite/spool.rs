//! Where pages go that have to wait and may be too many for memory (a snapshot of the online backup, what an edit wrote): in memory when it is
//! known that they are few, otherwise sealed page by page into a file without a name, under a key that exists only in this process. No plaintext reaches the disk, and nothing is left after a crash.

use super::vfs::Medium;
use crate::env::{Random, random_bytes};
use crate::{Error, Result};
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Bytes that a sealed page takes beyond its own: nonce and tag.
const SEAL: u64 = 12 + 16;

/// Snapshots up to this many bytes stay in memory.
pub const IN_MEMORY: u64 = 64 << 20;

enum Store {
    Memory(HashMap<u64, Box<[u8]>>),
    File { file: File, place: PathBuf, cipher: Box<Aes256Gcm>, writes: u64 },
}

/// Pages that wait.
pub struct Spool {
    store: Store,
    page: usize,
    len: u64,
}

impl Spool {
    /// For a database of about `expected` bytes, with pages of `page` bytes. `folder` is for the file.
    pub fn new(page: usize, expected: u64, folder: &Path, random: &dyn Random) -> Result<Spool> {
        let store = if expected <= IN_MEMORY {
            Store::Memory(HashMap::new())
        } else {
            let key = Zeroizing::new(random_bytes::<32>(random)?);
            let cipher = Box::new(Aes256Gcm::new((&*key).into()));
            Store::File { file: nameless(folder, random)?, place: folder.to_path_buf(), cipher, writes: 0 }
        };
        Ok(Spool { store, page, len: 0 })
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads from anywhere within the length; what was never written is zero.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut at = 0;
        while at < buf.len() {
            let position = offset + at as u64;
            let (index, inside) = (position / self.page as u64, (position % self.page as u64) as usize);
            let n = (buf.len() - at).min(self.page - inside);
            let to = buf.get_mut(at..at + n).unwrap_or_default();
            match self.get(index)? {
                Some(page) => to.iter_mut().zip(page.iter().skip(inside)).for_each(|(to, from)| *to = *from),
                None => to.fill(0),
            }
            at += n;
        }
        Ok(())
    }

    fn get(&self, index: u64) -> Result<Option<std::borrow::Cow<'_, [u8]>>> {
        match &self.store {
            Store::Memory(pages) => Ok(pages.get(&index).map(|p| p.as_ref().into())),
            Store::File { file, place, cipher, .. } => {
                let mut sealed = vec![0; self.page + SEAL as usize];
                let mut got = 0;
                while got < sealed.len() {
                    let rest = sealed.get_mut(got..).unwrap_or_default();
                    match file.read_at(rest, index * (self.page as u64 + SEAL) + got as u64) {
                        Ok(0) => break,
                        Ok(n) => got += n,
                        Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                        Err(e) => return Err(Error::io("read pages kept in", place)(e)),
                    }
                }
                let Some((nonce, msg)) = sealed.split_first_chunk::<12>() else { return Ok(None) };
                if *nonce == [0; 12] {
                    return Ok(None);
                }
                let opened = cipher.decrypt(&Nonce::from(*nonce), Payload { msg, aad: &index.to_be_bytes() });
                opened
                    .map(|p| Some(p.into()))
                    .map_err(|_| Error::damaged("temporary file", "a page read back from the temporary file is not the one written"))
            }
        }
    }

    fn put(&mut self, index: u64, page: Vec<u8>) -> Result<()> {
        match &mut self.store {
            Store::Memory(pages) => {
                pages.insert(index, page.into());
            }
            Store::File { file, place, cipher, writes } => {
                // Every write has its own nonce: the key is used for this spool only, and no counter comes twice.
                *writes += 1;
                let mut nonce = [0; 12];
                nonce.iter_mut().skip(4).zip(writes.to_be_bytes()).for_each(|(to, from)| *to = from);
                let sealed = cipher
                    .encrypt(&Nonce::from(nonce), Payload { msg: &page, aad: &index.to_be_bytes() })
                    .map_err(|_| Error::damaged("temporary file", "a page cannot be sealed"))?;
                let record: Vec<u8> = nonce.into_iter().chain(sealed).collect();
                file.write_all_at(&record, index * (self.page as u64 + SEAL)).map_err(Error::io("keep pages in", &*place))?;
            }
        }
        Ok(())
    }
}

impl Medium for Spool {
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let n = (buf.len() as u64).min(self.len.saturating_sub(offset)) as usize;
        self.read_at(offset, buf.get_mut(..n).unwrap_or_default())?;
        Ok(n)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut at = 0;
        while at < bytes.len() {
            let position = offset + at as u64;
            let (index, inside) = (position / self.page as u64, (position % self.page as u64) as usize);
            let n = (bytes.len() - at).min(self.page - inside);
            let mut page = vec![0; self.page];
            if n < self.page {
                self.read_at(index * self.page as u64, &mut page)?;
            }
            page.iter_mut().skip(inside).zip(bytes.iter().skip(at).take(n)).for_each(|(to, from)| *to = *from);
            self.put(index, page)?;
            at += n;
        }
        self.len = self.len.max(offset + bytes.len() as u64);
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        let keep = len.div_ceil(self.page as u64);
        match &mut self.store {
            Store::Memory(pages) => pages.retain(|i, _| *i < keep),
            Store::File { file, place, .. } => {
                file.set_len(keep * (self.page as u64 + SEAL)).map_err(Error::io("keep pages in", &*place))?;
            }
        }
        self.len = self.len.min(len);
        Ok(())
    }

    fn size(&mut self) -> u64 {
        self.len
    }
}

/// A file that no name leads to, so that it is gone with the process.
fn nameless(folder: &Path, random: &dyn Random) -> Result<File> {
    use rustix::fs::{Mode, OFlags};
    let mode = Mode::RUSR | Mode::WUSR;
    #[cfg(target_os = "linux")]
    if let Ok(fd) = rustix::fs::open(folder, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode) {
        return Ok(fd.into());
    }
    let path = folder.join(format!(".reseal-{}", hex::encode(random_bytes::<12>(random)?)));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(&path, flags, mode).map_err(|e| Error::io("create a temporary file in", folder)(e.into()))?;
    std::fs::remove_file(&path).map_err(Error::io("unlink a temporary file in", folder))?;
    Ok(fd.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SystemRandom;

    #[test]
    fn pages_come_back_and_the_file_holds_none_of_them_in_plain() {
        let dir = tempfile::tempdir().unwrap();
        for expected in [0, IN_MEMORY + 1] {
            let mut spool = Spool::new(512, expected, dir.path(), &SystemRandom).unwrap();
            let text = b"a person's data, a person's data".repeat(100);
            spool.write(700, &text).unwrap();
            spool.write(700, &text).unwrap();
            let mut back = vec![0; text.len()];
            spool.read_at(700, &mut back).unwrap();
            assert_eq!(back, text);
            assert_eq!(spool.len(), 700 + text.len() as u64);
            if let Store::File { file, .. } = &spool.store {
                let mut raw = vec![0; file.metadata().unwrap().len() as usize];
                file.read_exact_at(&mut raw, 0).unwrap();
                assert!(memchr::memmem::find(&raw, b"person").is_none());
            }
            spool.truncate(512).unwrap();
            spool.write(2048, b"x").unwrap();
            spool.read_at(600, &mut back[..500]).unwrap();
            assert!(back[..500].iter().all(|b| *b == 0));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
