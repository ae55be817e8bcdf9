//! Giving back what an edit changed: the runs whose bytes differ, each with a fresh identity block.

use super::editor::SqliteEditor;
use super::marks::Layout;
use super::overlay::Overlay;
use super::owners::Owners;
use super::pages::Header;
use super::schema::Schema;
use super::scrub::{ScrubPlan, Scrubbed};
use super::text::leaf_pages;
use super::{Image, RUN};
use crate::datamap::TokenKey;
use crate::format::{Marks, NewPiece};
use crate::{Error, Result};
use rusqlite::Connection;
use std::collections::BTreeSet;

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
    let mut owners = Owners::default();
    let rewritten = match &layout {
        Some(layout) => runs_of((&overlay, &header), &editor.schema, layout, &mut owners, &editor.rewritten)?,
        None => BTreeSet::new(),
    };
    let mut runs: BTreeSet<u64> = match plan {
        None => overlay.touched_runs(),
        Some(_) => (0..overlay.runs()).collect(),
    };
    runs.extend(&rewritten);
    for index in runs {
        let mut bytes = overlay.run(index)?;
        if let Some(plan) = &mut plan
            && let Some(bad) = plan.scrub_run(index * RUN as u64, &mut bytes, &mut Scrubbed::default()).first()
        {
            return Err(bad.at(&overlay.path()));
        }
        let same = overlay.base_run(index)?.is_some_and(|old| *old == bytes);
        if same && !rewritten.contains(&index) {
            continue;
        }
        let marks = match &layout {
            Some(layout) => run_marks((&*overlay, &header), layout, &mut owners, index, &bytes, editor.key)?,
            None => None,
        };
        let at = usize::try_from(index).unwrap_or(usize::MAX).min(pieces);
        if same && editor.content.marks(at)?.as_deref() == marks.as_ref() {
            continue;
        }
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
    let mut leaves = Vec::new();
    for (no, page) in leaf_pages(header, index, run) {
        let owner = owners.owner(image, header, (no, page), &mut layout.roots())?;
        leaves.extend(owner.map(|root| (no, page, root)));
    }
    let context = layout.context((image, header), &mut leaves.iter().copied(), key)?;
    let block = layout.block((image, header), &mut leaves.into_iter(), (run.len(), context), key)?;
    Ok(layout.is_complete().then_some(block))
}

/// Runs with rows that were rewritten. Where a row's change is all on overflow pages its own page may be as it was, but not its run's block.
fn runs_of(
    (image, header): (&Overlay, &Header),
    schema: &Schema,
    layout: &Layout,
    owners: &mut Owners,
    rows: &[(String, i64)],
) -> Result<BTreeSet<u64>> {
    let roots: BTreeSet<u32> = layout.roots().collect();
    let mut out = BTreeSet::new();
    for (table, row) in rows {
        let Some(root) = schema.table(table).map(|t| t.root).filter(|root| roots.contains(root)) else { continue };
        if let Some(no) = owners.locate(image, header, root, *row)? {
            out.insert(header.offset(no) / RUN as u64);
        }
    }
    Ok(out)
}
