//! Giving back what an edit changed: the runs whose bytes differ, each with a fresh identity block.

use super::editor::SqliteEditor;
use super::marks::{Layout, Owners, block};
use super::overlay::Overlay;
use super::pages::{Btree, Header, Kind};
use super::scrub::{ScrubPlan, Scrubbed};
use super::{Image, RUN};
use crate::datamap::TokenKey;
use crate::format::{Marks, NewPiece};
use crate::{Error, Result};
use rusqlite::Connection;

/// Hands out the changed runs in order. An editor that changed nothing gives nothing.
pub(super) fn emit(mut editor: SqliteEditor<'_>, out: &mut dyn FnMut(NewPiece) -> Result<()>) -> Result<()> {
    if !editor.changed {
        return Ok(());
    }
    // Whatever SQLite still holds in its cache is committed; a connection must not see pages change behind it.
    drop(editor.db.take());
    let layout = match editor.content.covers().is_empty() {
        true => None,
        false => {
            let scratch = Connection::open_in_memory().map_err(Error::sqlite("opening a database in memory"))?;
            Some(Layout::of_covers(&scratch, &editor.schema, editor.content.covers())?)
        }
    };
    let overlay = editor.overlay();
    let header = overlay.header()?;
    let pieces = editor.content.pieces();
    let mut plan = match editor.content.scrubbed() {
        true => None,
        false => Some(ScrubPlan::build(&*overlay)?),
    };
    let runs: Vec<u64> = match plan {
        None => overlay.touched_runs().into_iter().collect(),
        Some(_) => (0..overlay.runs()).collect(),
    };
    let mut owners = Owners::default();
    for index in runs {
        let mut bytes = overlay.run(index)?;
        if let Some(plan) = &mut plan
            && let Some(bad) = plan.scrub_run(index * RUN as u64, &mut bytes, &mut Scrubbed::default()).first()
        {
            return Err(bad.at(&overlay.path()));
        }
        if overlay.base_run(index)?.is_some_and(|old| *old == bytes) {
            continue;
        }
        let marks = match &layout {
            Some(layout) => run_marks((&*overlay, &header), layout, &mut owners, index, &bytes, editor.key)?,
            None => None,
        };
        let at = usize::try_from(index).unwrap_or(usize::MAX).min(pieces);
        out(NewPiece { replaces: at..(at + 1).min(pieces), bytes, marks })?;
    }
    let left = usize::try_from(overlay.runs()).unwrap_or(usize::MAX);
    if left < pieces {
        out(NewPiece { replaces: left..pieces, bytes: Vec::new(), marks: None })?;
    }
    Ok(())
}

/// The identity block of a run that an edit changed. Whose rows a leaf page holds is found by descending from the covered tables'
/// roots to the page's first row: the few inner pages on the way were mostly read by the edit already.
fn run_marks(
    (image, header): (&Overlay, &Header),
    layout: &Layout,
    owners: &mut Owners,
    index: u64,
    run: &[u8],
    key: &TokenKey,
) -> Result<Option<Marks>> {
    let mut rows = Vec::new();
    let mut tree = Btree::default();
    let free_flag = |page: &[u8], no: u32| page.get(if no == 1 { super::pages::HEADER } else { 0 }).copied().and_then(Kind::of);
    for (i, page) in run.chunks_exact(header.page).enumerate() {
        let Ok(no) = u32::try_from(index * (RUN / header.page) as u64 + i as u64 + 1) else { break };
        if header.is_pointer_map(no) || no > header.pages || free_flag(page, no) != Some(Kind::TableLeaf) {
            continue;
        }
        tree.parse(page, no, header).map_err(|b| b.at(&image.path()))?;
        let Some(first) = tree.cells.first().map(|c| c.rowid) else { continue };
        for root in layout.roots() {
            if owners.locate(image, header, root, first)? == Some(no) {
                rows.extend(layout.rows_of_page(image, header, no, page, root, key)?);
                break;
            }
        }
    }
    Ok(layout.is_complete().then(|| block(rows)))
}
