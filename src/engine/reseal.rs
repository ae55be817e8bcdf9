//! Sealing an edited archive as its next generation: its new pieces are stored already, everything else is referred to again.

use super::archive::{OpenArchive, PieceSource};
use super::edit::{ArchiveEdit, EditedPiece, Walked, edited_chunks, edited_pieces};
use crate::env::Env;
use crate::repository::entry::Entry;
use crate::repository::{ChunkWriter, Dataset, EntryListWriter, Head, Listed, TreeWriter};
use crate::{Error, Result};
use std::sync::Arc;

/// Writes the lists of the next generation and returns its head, of which `stored` is the size of the edit's own chunks. The head is not stored: that is the caller's next step, after
/// [`ChunkWriter::finish`].
#[allow(clippy::too_many_arguments)]
pub fn reseal(
    archive: &OpenArchive,
    listed: &Listed,
    edit: &ArchiveEdit,
    dataset: &Dataset,
    writer: &ChunkWriter,
    epoch: u64,
    stored: u64,
    env: &Env,
) -> Result<Head> {
    let mut list = EntryListWriter::new(writer, dataset);
    let (mut count, mut bytes) = (0u64, 0u64);
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
            let mut tree = TreeWriter::new(writer);
            edited_pieces(archive.each_ref(edited), change, |piece| match piece {
                EditedPiece::Kept(old) => tree.push(old),
                EditedPiece::Made(PieceSource::Stored(new)) => tree.push(new.clone()),
                EditedPiece::Made(PieceSource::Fresh(_)) => Err(Error::Refused("an edit that was only tried out cannot be sealed".into())),
            })?;
            let tree = tree.finish()?;
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
