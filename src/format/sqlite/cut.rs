//! Cutting a database into runs on its way into an archive: scrubbed page by page, each run with its identity block.

use super::connect::STEPS;
use super::marks::Layout;
use super::schema::Schema;
use super::scrub::{SchemaPages, ScrubPlan, Scrubbed, Tag, schema_pages};
use super::vfs::{Bounds, Database, Medium};
use super::{Image, RUN};
use crate::datamap::{DataMap, TokenKey};
use crate::env::Stop;
use crate::format::Marks;
use crate::format::cutter::MAX_RECORD;
use crate::{Error, Result};
use std::sync::{Arc, Mutex};

/// A database of which only the schema's pages exist: enough for SQLite to tell tables and columns, without reading anything else.
struct SchemaOnly {
    pages: SchemaPages,
    page: usize,
    len: u64,
}

impl Medium for SchemaOnly {
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let (no, inside) = ((offset / self.page as u64 + 1) as u32, (offset % self.page as u64) as usize);
        buf.fill(0);
        if let Some(page) = self.pages.pages.get(&no) {
            buf.iter_mut().zip(page.iter().skip(inside)).for_each(|(to, from)| *to = *from);
        }
        Ok(buf.len().min(self.len.saturating_sub(offset) as usize))
    }
    fn write(&mut self, _: u64, _: &[u8]) -> Result<()> {
        Err(Error::Refused("a schema is only read".into()))
    }
    fn truncate(&mut self, _: u64) -> Result<()> {
        Err(Error::Refused("a schema is only read".into()))
    }
    fn size(&mut self) -> u64 {
        self.len
    }
}

/// The schema of an image, read without opening more than its pages; and a connection to evaluate defaults with.
pub fn schema_of(image: &dyn Image) -> Result<(Schema, Database)> {
    let header = image.header()?;
    let mut pages = schema_pages(image, &header)?;
    if let Some(bytes) = pages.pages.get_mut(&1).and_then(|p| p.get_mut(18..20)) {
        bytes.fill(1); // no write-ahead log: there is none to look for
    }
    let medium = SchemaOnly { pages, page: header.page, len: header.offset(header.pages) + header.page as u64 };
    let bounds = Bounds { path: image.path(), stop: Stop::default(), steps: STEPS, longest: MAX_RECORD as u64 };
    let db = Database::bounded(Arc::new(Mutex::new(medium)), false, bounds)?;
    let _ = db.connection().pragma_update(None, "temp_store", "MEMORY");
    let schema = Schema::load(db.connection()).map_err(|e| match e {
        Error::Sqlite { source, .. } => Error::format(image.path(), format!("its schema cannot be read: {source}")),
        other => other,
    })?;
    Ok((schema, db))
}

/// What became of a database on its way into an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CutReport {
    /// For [`crate::repository::entry::Mapped::covers`].
    pub covers: Vec<String>,
    /// For [`crate::repository::entry::Mapped::scrubbed`].
    pub scrubbed: bool,
    /// Pages, and what the scrub found on them.
    pub scrub: Scrubbed,
    /// What the user should know. No values.
    pub warnings: Vec<String>,
}

/// Makes a run's identity block when it is asked for: not for runs that an earlier archive already has one for.
pub type LazyMarks<'a> = &'a dyn Fn() -> Result<Option<Marks>>;

/// A run on its way into an archive.
pub struct CutRun<'r> {
    /// Scrubbed.
    pub bytes: &'r [u8],
    /// Of its identity block.
    pub context: &'r [u8],
    /// Makes the block.
    pub marks: LazyMarks<'r>,
    /// [`TakeSame`] was asked about it, and the scrub has changed nothing since.
    pub as_asked: bool,
}

/// Takes a run.
pub type TakeRun<'a> = dyn FnMut(CutRun<'_>) -> Result<()> + 'a;

/// Takes a run as it was before, if it is the same.
pub type TakeSame<'a> = dyn FnMut(&[u8]) -> Result<bool> + 'a;

/// A database about to be cut into runs.
pub struct Cut<'a> {
    image: &'a dyn Image,
    key: &'a TokenKey,
    layout: Option<Layout>,
    plan: Option<ScrubPlan>,
    warnings: Vec<String>,
}

impl<'a> Cut<'a> {
    /// Looks at the schema and the structure. A database that is damaged or that cannot be scrubbed is no error: it will be stored byte
    /// for byte, not covered, with a warning. Only reading fails.
    pub fn plan(image: &'a dyn Image, map: &DataMap, collections: &[usize], key: &'a TokenKey) -> Result<Cut<'a>> {
        let mut cut = Cut { image, key, layout: None, plan: None, warnings: Vec::new() };
        if image.is_empty() {
            return Ok(cut);
        }
        match ScrubPlan::build(image) {
            Ok(plan) => cut.plan = Some(plan),
            Err(Error::Format { detail, .. }) => {
                cut.warnings.push(format!("stored as it is, not scrubbed of deleted data: {detail}"));
                return Ok(cut);
            }
            Err(error) => return Err(error),
        }
        let layout = schema_of(image).and_then(|(schema, db)| Layout::plan(db.connection(), &schema, map, collections));
        match layout {
            Ok(layout) => cut.layout = Some(layout),
            Err(Error::Format { detail, .. }) => cut.warnings.push(format!("no identity blocks: {detail}")),
            Err(error) => return Err(error),
        }
        Ok(cut)
    }

    /// What the identity blocks will cover, known before the first run. Blocks of an earlier archive fit unchanged runs exactly when
    /// they were made with an equal list.
    pub fn covers(&self) -> &[String] {
        self.layout.as_ref().map(Layout::covers).unwrap_or_default()
    }

    /// Hands out the runs in order, scrubbed, each with its block's context and the means to make the block. Blocks of an earlier archive fit
    /// equal runs only where the context is equal too. `same` is asked first, and may say that it has taken a run: one that was scrubbed
    /// when it had the same bytes, and then had a context that was empty. It is asked only where both still hold if the bytes are the same.
    pub fn stream(mut self, same: &mut TakeSame<'_>, out: &mut TakeRun<'_>) -> Result<CutReport> {
        let mut scrub = Scrubbed::default();
        let mut unscrubbed = 0u64;
        let mut run = Vec::new();
        for index in 0..self.image.runs() {
            self.image.run_into(index, &mut run)?;
            let only_trees = self.plan.as_ref().and_then(|p| p.only_trees(index, &run));
            if let Some(pages) = only_trees
                && same(&run)?
            {
                scrub.pages += pages;
                continue;
            }
            let wiped = scrub.bytes;
            if let Some(plan) = &mut self.plan {
                for bad in plan.scrub_run(index * RUN as u64, &mut run, &mut scrub) {
                    if unscrubbed == 0 {
                        self.warnings.push(format!("not scrubbed everywhere: {bad}"));
                    }
                    unscrubbed += 1;
                    if let (Tag::Leaf(root), Some(layout)) = (plan.tag(bad.page), &self.layout)
                        && let Some(root) = plan.roots().get(root as usize)
                    {
                        layout.lose_table(*root);
                    }
                }
            }
            let covering = self.layout.as_ref().zip(self.plan.as_ref()).filter(|(layout, _)| !layout.covers().is_empty());
            let context = match covering.filter(|(_, plan)| plan.has_chains()) {
                Some((layout, plan)) => layout.context((self.image, plan.header()), &mut plan.leaves(index, &run), self.key)?,
                None => Vec::new(),
            };
            let marks = || {
                let Some((layout, plan)) = covering else { return Ok(None) };
                let leaves = &mut plan.leaves(index, &run);
                layout.block((self.image, plan.header()), leaves, (run.len(), context.clone()), self.key).map(Some)
            };
            out(CutRun { bytes: &run, context: &context, marks: &marks, as_asked: only_trees.is_some() && scrub.bytes == wiped })?;
        }
        let covers = self.layout.as_ref().map(Layout::covered).unwrap_or_default();
        if covers.iter().any(String::is_empty) {
            self.warnings.push("some rows could not be decoded: their table will be searched by reading it".into());
        }
        if self.plan.as_ref().is_some_and(|p| p.orphans() > 0) {
            self.warnings.push(format!("{} pages belonged to nothing and were zeroed", scrub.orphans));
        }
        Ok(CutReport {
            covers,
            scrubbed: (self.plan.is_some() || self.image.is_empty()) && unscrubbed == 0,
            scrub,
            warnings: self.warnings,
        })
    }
}

/// Plans and streams in one go.
pub fn cut(image: &dyn Image, map: &DataMap, collections: &[usize], key: &TokenKey, out: &mut TakeRun<'_>) -> Result<CutReport> {
    Cut::plan(image, map, collections, key)?.stream(&mut |_| Ok(false), out)
}
