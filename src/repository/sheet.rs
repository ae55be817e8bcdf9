//! Key sheets: for one pack, where each chunk lies and the key that opens it. Rewriting a sheet without a row destroys that
//! chunk in every copy of the pack that exists anywhere. A sheet is written only after its pack is durable.

use super::cbor;
use super::entry::{ChunkId, Role};
use super::id::PackId;
use super::params::MAX_CHUNK;
use super::sealer::{How, Sealer};
use crate::crypto::seal::{Purpose, TAG};
use crate::store::Store;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use zeroize::{Zeroize, Zeroizing};

/// How a chunk's bytes are stored inside its seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// As they are.
    Raw,
    /// One zstd frame.
    Zstd,
}

impl Codec {
    fn byte(self) -> u8 {
        match self {
            Codec::Raw => 0,
            Codec::Zstd => 1,
        }
    }

    fn from_byte(byte: u8) -> Option<Codec> {
        match byte {
            0 => Some(Codec::Raw),
            1 => Some(Codec::Zstd),
            _ => None,
        }
    }
}

/// The role's number in sheets and seals.
pub fn role_byte(role: Role) -> u8 {
    match role {
        Role::Data => 0,
        Role::Entries => 1,
        Role::Index => 2,
        Role::Marks => 3,
    }
}

/// The reverse of [`role_byte`].
pub fn role_from_byte(byte: u8) -> Option<Role> {
    [Role::Data, Role::Entries, Role::Index, Role::Marks].into_iter().find(|r| role_byte(*r) == byte)
}

/// One chunk of a pack. Holds its key: wiped when dropped, no `Debug`.
pub(crate) struct Row {
    pub id: ChunkId,
    pub key: [u8; 32],
    /// Its number within the pack.
    pub ordinal: u32,
    /// Where its seal begins.
    pub offset: u32,
    /// Length of the seal in bytes.
    pub stored: u32,
    /// Length of the plaintext in bytes.
    pub len: u32,
    pub codec: Codec,
    pub role: Role,
}

impl Row {
    /// A second one, key included; not `Clone`, so that every copy of a key is a decision.
    pub fn duplicate(&self) -> Row {
        Row {
            id: self.id,
            key: self.key,
            ordinal: self.ordinal,
            offset: self.offset,
            stored: self.stored,
            len: self.len,
            codec: self.codec,
            role: self.role,
        }
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// The sheet of one pack.
pub(crate) struct Sheet {
    pub pack: PackId,
    /// The pack's length in bytes.
    pub size: u64,
    /// By offset.
    pub rows: Vec<Row>,
    /// Ranges (offset, length) whose rows are gone and whose bytes are not yet known to be wiped.
    pub pending: Vec<(u64, u64)>,
}

/// The stored form: columns, which compress to nothing and read quickly.
#[derive(Serialize, Deserialize)]
struct Stored {
    pack: PackId,
    size: u64,
    ids: ByteBuf,
    keys: ByteBuf,
    ord: Vec<u32>,
    off: Vec<u32>,
    len: Vec<u32>,
    raw: Vec<u32>,
    codec: ByteBuf,
    role: ByteBuf,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pending: Vec<(u64, u64)>,
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.keys.zeroize();
    }
}

/// The sheet's key.
pub fn key(dataset: &str, pack: &PackId) -> String {
    format!("sheets/{dataset}/{pack}")
}

/// The pack's key.
pub fn pack_key(dataset: &str, pack: &PackId) -> String {
    let name = pack.to_string();
    format!("packs/{dataset}/{}/{name}", name.get(..2).unwrap_or_default())
}

/// The pack that a sheet's key names.
pub fn pack_of_key(key: &str) -> Option<PackId> {
    key.rsplit('/').next()?.parse().ok()
}

impl Sheet {
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>> {
        let n = self.rows.len();
        let mut stored = Stored {
            pack: self.pack,
            size: self.size,
            ids: ByteBuf::with_capacity(32 * n),
            keys: ByteBuf::with_capacity(32 * n),
            ord: Vec::with_capacity(n),
            off: Vec::with_capacity(n),
            len: Vec::with_capacity(n),
            raw: Vec::with_capacity(n),
            codec: ByteBuf::with_capacity(n),
            role: ByteBuf::with_capacity(n),
            pending: self.pending.clone(),
        };
        for row in &self.rows {
            stored.ids.extend_from_slice(&row.id.0);
            stored.keys.extend_from_slice(&row.key);
            stored.ord.push(row.ordinal);
            stored.off.push(row.offset);
            stored.len.push(row.stored);
            stored.raw.push(row.len);
            stored.codec.push(row.codec.byte());
            stored.role.push(role_byte(row.role));
        }
        cbor::encode(&stored)
    }

    /// Reads and checks: columns of one length, ordinals that differ, places within the pack that do not overlap.
    pub fn decode(key: &str, plain: &[u8]) -> Result<Sheet> {
        let bad = |detail: &str| Error::damaged(key, detail);
        let stored: Stored = cbor::decode(key, plain)?;
        let n = stored.ord.len();
        let columns = [stored.off.len(), stored.len.len(), stored.raw.len(), stored.codec.len(), stored.role.len()];
        if columns.iter().any(|c| *c != n) || stored.ids.len() != 32 * n || stored.keys.len() != 32 * n {
            return Err(bad("its columns differ in length"));
        }
        if Some(stored.pack) != pack_of_key(key) {
            return Err(bad("it belongs to another pack"));
        }
        if stored.size > u64::from(u32::MAX) {
            return Err(bad("its pack is impossibly large"));
        }
        let mut rows = Vec::with_capacity(n);
        let columns = stored.ids.chunks_exact(32).zip(stored.keys.chunks_exact(32)).zip(&stored.ord).zip(&stored.off);
        let columns = columns.zip(&stored.len).zip(&stored.raw).zip(stored.codec.iter()).zip(stored.role.iter());
        let mut end = 0u64;
        for (((((((id, chunk_key), ordinal), offset), sealed), len), codec), role) in columns {
            let (Some(codec), Some(role)) = (Codec::from_byte(*codec), role_from_byte(*role)) else {
                return Err(bad("an unknown codec or role"));
            };
            if u64::from(*offset) < end || (*sealed as usize) < TAG || *len > MAX_CHUNK {
                return Err(bad("chunks overlap or have impossible lengths"));
            }
            end = u64::from(*offset) + u64::from(*sealed);
            let mut row =
                Row { id: ChunkId([0; 32]), key: [0; 32], ordinal: *ordinal, offset: *offset, stored: *sealed, len: *len, codec, role };
            row.id.0.copy_from_slice(id);
            row.key.copy_from_slice(chunk_key);
            rows.push(row);
        }
        if end > stored.size || stored.pending.iter().any(|(offset, len)| offset.checked_add(*len).is_none_or(|e| e > stored.size)) {
            return Err(bad("a chunk lies beyond its pack's end"));
        }
        let mut ordinals = stored.ord.clone();
        ordinals.sort_unstable();
        if ordinals.windows(2).any(|w| w.first() == w.last()) {
            return Err(bad("an ordinal occurs twice"));
        }
        Ok(Sheet { pack: stored.pack, size: stored.size, rows, pending: stored.pending.clone() })
    }

    /// Opens the sealed bytes of a sheet.
    pub fn open(sealer: &Sealer, key: &str, bytes: &[u8]) -> Result<Sheet> {
        Sheet::decode(key, &sealer.open(Purpose::Sheet, key, bytes)?)
    }

    /// Stores it, replacing an older one atomically.
    pub fn put(&self, sealer: &Sealer, keys: &dyn Store, dataset: &str) -> Result<()> {
        sealer.put(keys, Purpose::Sheet, &key(dataset, &self.pack), &self.encode()?, How::Put)?;
        Ok(())
    }

    /// A second one, keys included.
    pub fn duplicate(&self) -> Sheet {
        let rows = self.rows.iter().map(Row::duplicate).collect();
        Sheet { pack: self.pack, size: self.size, rows, pending: self.pending.clone() }
    }

    /// Bytes of the pack that its rows use.
    pub fn live(&self) -> u64 {
        self.rows.iter().map(|r| u64::from(r.stored)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sheet(lens: &[(u16, bool)]) -> Sheet {
        let mut sheet = Sheet { pack: PackId([5; 16]), size: 0, rows: vec![], pending: vec![] };
        for (n, (len, keep)) in lens.iter().enumerate() {
            let stored = u32::from(*len) + 16;
            if *keep {
                sheet.rows.push(Row {
                    id: ChunkId([n as u8; 32]),
                    key: [!(n as u8); 32],
                    ordinal: n as u32,
                    offset: sheet.size as u32,
                    stored,
                    len: u32::from(*len),
                    codec: if n % 2 == 0 { Codec::Raw } else { Codec::Zstd },
                    role: role_from_byte(n as u8 % 4).unwrap(),
                });
            } else {
                sheet.pending.push((sheet.size, u64::from(stored)));
            }
            sheet.size += u64::from(stored);
        }
        sheet
    }

    const KEY: &str = "sheets/x/05050505050505050505050505050505";

    proptest! {
        #[test]
        fn a_sheet_reads_back(lens in proptest::collection::vec(any::<(u16, bool)>(), 0..100)) {
            let sheet = sheet(&lens);
            let plain = sheet.encode().unwrap();
            let again = Sheet::decode(KEY, &plain).unwrap();
            prop_assert_eq!(&*again.encode().unwrap(), &*plain);
            prop_assert_eq!((again.live(), again.size, again.rows.len()), (sheet.live(), sheet.size, sheet.rows.len()));
            prop_assert!(Sheet::decode("sheets/x/00000000000000000000000000000000", &plain).is_err());
        }

        #[test]
        fn hostile_sheets_are_an_error_or_make_sense(at in 0usize..2000, to in any::<u8>(), bytes in any::<Vec<u8>>()) {
            prop_assert!(Sheet::decode(KEY, &bytes).is_err());
            let mut plain = sheet(&[(10, true), (300, false), (70, true), (0, true)]).encode().unwrap().to_vec();
            if let Some(b) = plain.get_mut(at) { *b = to; }
            if let Ok(sheet) = Sheet::decode(KEY, &plain) {
                prop_assert!(sheet.live() <= sheet.size);
            }
        }
    }
}
