//! Pieces that the restore gate makes on the way out: in memory while they are few, beyond that sealed under a key that exists only in this
//! process, in a file without a name. So a restore that many erasures are applied to takes no more memory than another.

use super::archive::PieceSource;
use super::edit::Sink;
use crate::Result;
use crate::env::Random;
use crate::format::NewPiece;
use crate::format::sqlite::spool::Spool;
use crate::format::sqlite::vfs::Medium;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are sealed together.
const PAGE: usize = 16 << 10;

/// A piece that was made and not stored.
#[derive(Clone, Default)]
pub struct HeldPiece(Place);

#[derive(Clone)]
enum Place {
    Memory(Arc<Vec<u8>>),
    File { spool: Arc<Mutex<Spool>>, at: u64, len: u64 },
}

impl Default for Place {
    fn default() -> Place {
        Place::Memory(Arc::default())
    }
}

impl HeldPiece {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match &self.0 {
            Place::Memory(bytes) => bytes.len() as u64,
            Place::File { len, .. } => *len,
        }
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes.
    pub fn bytes(&self) -> Result<Arc<Vec<u8>>> {
        match &self.0 {
            Place::Memory(bytes) => Ok(bytes.clone()),
            Place::File { spool, at, len } => {
                let mut bytes = vec![0; *len as usize];
                spool.lock().unwrap_or_else(PoisonError::into_inner).read_at(*at, &mut bytes)?;
                Ok(Arc::new(bytes))
            }
        }
    }
}

/// Holds pieces.
pub struct Holding {
    folder: PathBuf,
    random: Arc<dyn Random>,
    /// Bytes that may still be held in memory.
    left: usize,
    spool: Option<Arc<Mutex<Spool>>>,
    end: u64,
}

impl Holding {
    /// At most `memory` bytes in memory; what is more goes into a file in `folder`.
    pub fn new(memory: usize, folder: PathBuf, random: Arc<dyn Random>) -> Holding {
        Holding { folder, random, left: memory, spool: None, end: 0 }
    }
}

impl Sink for Holding {
    fn put(&mut self, piece: NewPiece) -> Result<PieceSource> {
        let bytes = piece.bytes;
        if let Some(left) = self.left.checked_sub(bytes.len()) {
            self.left = left;
            return Ok(PieceSource::Fresh(HeldPiece(Place::Memory(Arc::new(bytes)))));
        }
        let spool = match &self.spool {
            Some(spool) => spool.clone(),
            None => {
                let spool = Spool::new(PAGE, u64::MAX, &self.folder, self.random.as_ref())?;
                self.spool.insert(Arc::new(Mutex::new(spool))).clone()
            }
        };
        let (at, len) = (self.end, bytes.len() as u64);
        spool.lock().unwrap_or_else(PoisonError::into_inner).write(at, &bytes)?;
        // Each piece begins on a page of its own, so that none is sealed twice.
        self.end = (at + len).next_multiple_of(PAGE as u64);
        Ok(PieceSource::Fresh(HeldPiece(Place::File { spool, at, len })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;

    #[test]
    fn pieces_beyond_the_bound_are_on_disk_sealed_and_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let mut holding = Holding::new(100_000, dir.path().to_path_buf(), Env::system().random);
        let piece = |i: u8| NewPiece { replaces: 0..1, bytes: vec![i; 40_000 + usize::from(i)], marks: None };
        let held: Vec<PieceSource> = (0..20).map(|i| holding.put(piece(i)).unwrap()).collect();
        let in_memory = |p: &&PieceSource| matches!(p, PieceSource::Fresh(HeldPiece(Place::Memory(_))));
        assert_eq!(held.iter().filter(in_memory).count(), 2);
        for (i, source) in held.iter().enumerate() {
            let PieceSource::Fresh(held) = source else { panic!("a held piece") };
            assert_eq!((held.len(), &*held.bytes().unwrap()), (source.len(), &piece(i as u8).bytes));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
    }
}
