//! One chunk: compress and seal, open and decompress. Shared by writer, reader and compaction, so that there is one of each.

use super::dataset::Dataset;
use super::entry::ChunkId;
use super::id::{PackId, RepoId};
use super::sheet::{Codec, Row, role_byte};
use crate::crypto::seal::{self, ChunkPlace};
use crate::{Error, Result};
use std::cell::RefCell;
use std::io;

thread_local! {
    /// One for short and one for long pieces, since a thread gets both.
    static COMPRESSORS: RefCell<[Option<(Way, zstd::bulk::Compressor<'static>)>; 2]> = const { RefCell::new([None, None]) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// How a chunk is compressed: zstd's level, and parameters of our own instead of the level's.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Way {
    level: i32,
    own: Option<Own>,
}

/// A single table of hashes, and the shortest match that is looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Own {
    hash_log: u32,
    min_match: u32,
}

/// Up to here, in bytes, a chunk is a piece of records or a run of pages.
const SMALL: usize = 128 << 10;

impl Way {
    /// zstd's own parameters for its level 3 are made for long inputs and two tables. On pieces of 64 KiB a single table that fits into
    /// the first cache is faster by a third or more and as small; on longer ones as well, with longer matches (`docs/performance.md`
    /// has the commands that show it).
    fn of(len: usize, level: i32) -> Way {
        let own = match level {
            3 if len <= SMALL => Some(Own { hash_log: 14, min_match: 6 }),
            3 => Some(Own { hash_log: 15, min_match: 6 }),
            _ => None,
        };
        Way { level, own }
    }

    fn compressor(self) -> io::Result<zstd::bulk::Compressor<'static>> {
        use zstd::zstd_safe::{CParameter, Strategy};
        let mut compressor = zstd::bulk::Compressor::new(self.level)?;
        if let Some(own) = self.own {
            compressor.set_parameter(CParameter::Strategy(Strategy::ZSTD_fast))?;
            compressor.set_parameter(CParameter::HashLog(own.hash_log))?;
            compressor.set_parameter(CParameter::MinMatch(own.min_match))?;
        }
        Ok(compressor)
    }
}

/// A zstd frame with the length in its front, or the bytes themselves where that is not longer.
pub fn compress(bytes: &[u8], level: i32) -> Result<(Codec, Vec<u8>)> {
    let frame = COMPRESSORS.with_borrow_mut(|[short, long]| -> io::Result<Vec<u8>> {
        let slot = if bytes.len() <= SMALL { short } else { long };
        let way = Way::of(bytes.len(), level);
        let compressor = match slot {
            Some((at, compressor)) if *at == way => compressor,
            other => &mut other.insert((way, way.compressor()?)).1,
        };
        // Room for the tag as well: sealing in place must not move the bytes.
        let mut out = Vec::with_capacity(zstd::zstd_safe::compress_bound(bytes.len()) + seal::TAG);
        compressor.compress_to_buffer(bytes, &mut out)?;
        Ok(out)
    });
    let frame = frame.map_err(|e| Error::Refused(format!("zstd: {e}")))?;
    if frame.len() < bytes.len() {
        return Ok((Codec::Zstd, frame));
    }
    let mut raw = Vec::with_capacity(bytes.len() + seal::TAG);
    raw.extend_from_slice(bytes);
    Ok((Codec::Raw, raw))
}

fn decompress(frame: &[u8], len: usize, out: &mut Vec<u8>) -> io::Result<()> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(d) => d,
            None => slot.insert(zstd::bulk::Decompressor::new()?),
        };
        out.clear();
        out.reserve(len);
        decompressor.decompress_to_buffer(frame, out)?;
        Ok(())
    })
}

fn aad(repository: &RepoId, pack: &PackId, row: &Row) -> [u8; 73] {
    ChunkPlace { repository: &repository.0, pack: &pack.0, ordinal: row.ordinal, id: &row.id.0, role: role_byte(row.role) }.aad()
}

/// Seals `body` (as the row's codec says) in place for the row's place.
pub fn seal_body(repository: &RepoId, pack: &PackId, row: &Row, body: &mut Vec<u8>) -> Result<()> {
    seal::encrypt(&row.key, &aad(repository, pack, row), body)
}

/// Opens the seal only: the body as the row's codec says.
pub fn open_body(repository: &RepoId, pack: &PackId, row: &Row, mut sealed: Vec<u8>) -> Result<Vec<u8>, &'static str> {
    seal::decrypt(&row.key, &aad(repository, pack, row), &mut sealed).map_err(|_| "its seal does not open")?;
    Ok(sealed)
}

/// The plaintext of an opened body, checked against its id.
pub fn decode_body(dataset: &Dataset, row: &Row, body: Vec<u8>) -> Result<Vec<u8>, &'static str> {
    match row.codec {
        Codec::Raw => check(dataset, row, &body).map(|()| body),
        Codec::Zstd => {
            let mut plain = Vec::new();
            inflate(row, &body, &mut plain)?;
            check(dataset, row, &plain).map(|()| plain)
        }
    }
}

/// Opens, decompresses and checks a sealed chunk where it lies; the plaintext is in `sealed` itself or in `room`.
pub fn open_in_place<'b>(
    repository: &RepoId,
    dataset: &Dataset,
    pack: &PackId,
    row: &Row,
    sealed: &'b mut [u8],
    room: &'b mut Vec<u8>,
) -> Result<&'b [u8], &'static str> {
    let body = seal::decrypt_slice(&row.key, &aad(repository, pack, row), sealed).map_err(|_| "its seal does not open")?;
    let plain = match row.codec {
        Codec::Raw => body,
        Codec::Zstd => {
            inflate(row, body, room)?;
            room.as_slice()
        }
    };
    check(dataset, row, plain).map(|()| plain)
}

fn inflate(row: &Row, body: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    decompress(body, row.len as usize, out).map_err(|_| "it does not decompress to its length")
}

fn check(dataset: &Dataset, row: &Row, plain: &[u8]) -> Result<(), &'static str> {
    if plain.len() != row.len as usize {
        return Err("its length is another than its key sheet says");
    }
    if dataset.chunk_id(plain) != row.id {
        return Err("its contents are not what its id says");
    }
    Ok(())
}

/// The error for a chunk that does not open.
pub fn damaged(pack_key: &str, id: &ChunkId, detail: &str) -> Error {
    Error::damaged(pack_key, format!("chunk {id:?}: {detail}"))
}
