//! Sealing an edited archive as its next generation: only new pieces are stored, everything else is referred to again.

use super::archive::OpenArchive;
use super::edit::{ArchiveEdit, EditedPiece, Walked, edited_chunks, edited_pieces};
use crate::env::Env;
use crate::repository::entry::{ChunkRef, Entry, Role};
use crate::repository::{ChunkWriter, Dataset, EntryListWriter, Head, Listed, TreeWriter};
use crate::{Error, Result};
use std::sync::Arc;

/// Writes the chunks of the next generation and returns its head. The head is not stored: that is the caller's next step, after
/// [`ChunkWriter::finish`].
pub fn reseal(
    archive: &OpenArchive,
    listed: &Listed,
    edit: &ArchiveEdit,
    dataset: &Dataset,
    writer: &ChunkWriter,
    epoch: u64,
    env: &Env,
) -> Result<Head> {
    let mut list = EntryListWriter::new(writer, dataset);
    let (mut count, mut bytes, mut stored) = (0u64, 0u64, 0u64);
    let len = |entry: &Entry| entry.content.as_ref().map_or(0, |t| t.len());
    edited_chunks(archive, edit, |walked| {
        env.stop.check("nothing was changed; run the same command again")?;
        let (entry, change) = match walked {
            Walked::Same(chunk, last) => {
                count += chunk.entries.len() as u64;
                bytes += chunk.entries.iter().map(|e| len(e)).sum::<u64>();
                if !list.push_chunk(&chunk.reference, chunk.entries.len(), last)? {
                    chunk.entries.iter().try_for_each(|e| list.push(e))?;
                }
                return Ok(());
            }
            Walked::Entry(entry, change) => (entry, change),
        };
        let mut entry = entry;
        if let Some(change) = change {
            let edited = Arc::make_mut(&mut entry);
            let refs = archive.refs(edited)?;
            let mut tree = TreeWriter::new(writer);
            let mut sealed: Vec<Option<ChunkRef>> = vec![None; change.pieces.len()];
            for piece in edited_pieces(&refs, change)? {
                tree.push(match piece {
                    EditedPiece::Kept(r) => r,
                    EditedPiece::Sealed(r) => r.clone(),
                    EditedPiece::New(i, new) => {
                        let data = writer.add(Role::Data, &new.bytes)?;
                        stored += data.stored;
                        let marks = match &new.marks {
                            Some(m) => Some(writer.add(Role::Marks, &m.encode()?)?.id),
                            None => None,
                        };
                        let reference = ChunkRef { id: data.id, len: new.bytes.len() as u64, marks };
                        if let Some(place) = sealed.get_mut(i) {
                            *place = Some(reference.clone());
                        }
                        reference
                    }
                })?;
            }
            let tree = tree.finish()?;
            // Set already where another archive's edit is used again.
            let _ = change.sealed.set(sealed);
            edited.size = tree.len();
            edited.content = Some(tree);
            edited.mapped = change.mapped.clone().or(edited.mapped.take());
            edited.edited = true;
        }
        count += 1;
        bytes += len(&entry);
        list.push(&entry)
    })?;
    let generation = archive.head.generation.checked_add(1).ok_or_else(|| Error::Refused("too many generations".into()))?;
    Ok(Head {
        generation,
        sealed_at: env.now(),
        ledger_epoch: epoch,
        entries: list.finish()?,
        entry_count: count,
        source_bytes: bytes,
        stored_bytes: stored,
        previous: Some(listed.digest.clone()),
        tool: crate::TOOL.to_string(),
        ..archive.head.clone()
    })
}
