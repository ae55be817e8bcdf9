//! The roots of a walk: what each is stored as, and which lie within others.

use super::{FileId, id, path_order};
use crate::error::{Error, Result};
use crate::repository::entry::display_path;
use rustix::fs::FileType;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// A root: where it is stored ("" for the folder the others are in) and where it is.
#[derive(Debug, Clone)]
pub(super) struct Root {
    pub(super) stored: Vec<u8>,
    pub(super) path: PathBuf,
}

/// Finds all roots; sorts those that lie within others (second) from those that do not (first).
pub(super) fn plan(roots: &[PathBuf], skip: &HashSet<FileId>) -> Result<(Vec<Root>, Vec<Root>)> {
    let named = roots.iter().map(|p| Ok((stored_path(p)?, p.clone()))).collect::<Result<Vec<_>>>()?;
    plan_named(&named, skip)
}

/// Like [`plan`], for roots whose stored paths are given.
pub(super) fn plan_named(roots: &[(Vec<u8>, PathBuf)], skip: &HashSet<FileId>) -> Result<(Vec<Root>, Vec<Root>)> {
    let mut planned: Vec<Root> = Vec::new();
    let mut inner = Vec::new();
    let mut roots = roots.iter().map(|(stored, p)| find(stored.clone(), p, skip)).collect::<Result<Vec<_>>>()?;
    roots.sort_by(|a, b| path_order(&a.stored, &b.stored));
    for root in roots {
        match planned.last().and_then(|outer| Some((outer, below(&outer.stored, &root.stored)?))) {
            None => planned.push(root),
            Some((outer, rest)) => {
                check_within(outer, &rest, &root)?;
                if !rest.is_empty() {
                    inner.push(root);
                }
            }
        }
    }
    Ok((planned, inner))
}

pub(super) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

/// What leads from `outer` to `path`, if `path` is `outer` or below it.
pub(super) fn below(outer: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    if outer.is_empty() {
        return Some(path.to_vec());
    }
    let rest = path.strip_prefix(outer)?;
    if rest.is_empty() { Some(Vec::new()) } else { rest.strip_prefix(b"/").map(<[u8]>::to_vec) }
}

/// What a path is stored as, from how it was written.
fn stored_path(written: &Path) -> Result<Vec<u8>> {
    let shown = written.display();
    let mut stored = Vec::new();
    for part in written.components() {
        match part {
            Component::Normal(name) => stored = join(&stored, name.as_bytes()),
            Component::ParentDir => {
                return Err(Error::Usage(format!(
                    "source path {shown}: `..` is not allowed, because it says nothing about where to restore to"
                )));
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if written.as_os_str().is_empty() {
        return Err(Error::Usage("a source path is empty; write `.` for the current folder".to_string()));
    }
    Ok(stored)
}

fn find(stored: Vec<u8>, written: &Path, skip: &HashSet<FileId>) -> Result<Root> {
    let shown = written.display();
    let lost = |e: io::Error| Error::Source { what: shown.to_string(), detail: e.to_string() };
    let is_link = rustix::fs::lstat(written).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Symlink);
    let path = if is_link { std::fs::canonicalize(written).map_err(lost)? } else { written.to_path_buf() };
    let stat = rustix::fs::stat(&path).map_err(|e| lost(e.into()))?;
    if skip.contains(&id(&stat)) {
        return Err(Error::Usage(format!("source path {shown} is the repository itself")));
    }
    Ok(Root { stored, path })
}

/// A root within another has to be what the outer one has at that place, reached without a symbolic link.
fn check_within(outer: &Root, rest: &[u8], root: &Root) -> Result<()> {
    let mut there = outer.path.clone();
    let mut parts = rest.split(|b| *b == b'/').filter(|p| !p.is_empty()).peekable();
    while let Some(part) = parts.next() {
        there.push(OsStr::from_bytes(part));
        let is_link = rustix::fs::lstat(&there).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Symlink);
        if is_link && parts.peek().is_some() {
            return Err(Error::Usage(format!(
                "source path {} lies behind the symbolic link {}; name the folder by its real path",
                root.path.display(),
                there.display()
            )));
        }
    }
    match (rustix::fs::stat(&there), rustix::fs::stat(&root.path)) {
        (Ok(a), Ok(b)) if id(&a) == id(&b) => Ok(()),
        _ => Err(Error::Usage(format!(
            "source paths {} and {} would be stored in the same place, {:?}; make them two datasets",
            outer.path.display(),
            root.path.display(),
            display_path(&root.stored)
        ))),
    }
}
