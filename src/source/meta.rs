//! What the system says about a file, as an [`Entry`]: one translation for the walk and for files that are opened later.

use crate::repository::entry::{Entry, EntryKind, Seen, Time};
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use serde_bytes::ByteBuf;
use std::collections::HashMap;
use std::path::Path;

/// Names of owners and groups. Asking the system for one can go over the network, so each is asked once.
#[derive(Debug, Default)]
pub struct Owners {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Owners {
    /// The user's name, or nothing when the system knows none.
    pub fn user(&mut self, uid: u32) -> String {
        let ask = || nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|u| u.name).unwrap_or_default();
        self.users.entry(uid).or_insert_with(ask).clone()
    }

    /// The group's name, or nothing when the system knows none.
    pub fn group(&mut self, gid: u32) -> String {
        let ask = || nix::unistd::Group::from_gid(gid.into()).ok().flatten().map(|g| g.name).unwrap_or_default();
        self.groups.entry(gid).or_insert_with(ask).clone()
    }
}

/// Numbers of owners and groups by name, for a restore on a machine that numbers them differently.
#[derive(Debug, Default)]
pub struct OwnerNumbers {
    users: HashMap<String, Option<u32>>,
    groups: HashMap<String, Option<u32>>,
}

impl OwnerNumbers {
    /// The owner and group that this machine calls by the entry's names, or else the entry's numbers.
    pub fn of(&mut self, entry: &Entry) -> (u32, u32) {
        let user = self.users.entry(entry.user.clone()).or_insert_with_key(|name| {
            if name.is_empty() { None } else { nix::unistd::User::from_name(name).ok().flatten().map(|u| u.uid.as_raw()) }
        });
        let group = self.groups.entry(entry.group.clone()).or_insert_with_key(|name| {
            if name.is_empty() { None } else { nix::unistd::Group::from_name(name).ok().flatten().map(|g| g.gid.as_raw()) }
        });
        (user.unwrap_or(entry.uid), group.unwrap_or(entry.gid))
    }
}

/// The kind of entry a file becomes; nothing for sockets, which no archive can hold.
pub fn kind_of(stat: &Stat) -> Option<EntryKind> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Some(EntryKind::File),
        FileType::Directory => Some(EntryKind::Directory),
        FileType::Symlink => Some(EntryKind::Symlink),
        FileType::Fifo => Some(EntryKind::Fifo),
        FileType::CharacterDevice => Some(EntryKind::CharDevice),
        FileType::BlockDevice => Some(EntryKind::BlockDevice),
        FileType::Socket | FileType::Unknown => None,
    }
}

/// Time of the last modification.
pub fn mtime(stat: &Stat) -> Time {
    Time(stat.st_mtime, stat.st_mtime_nsec as u32)
}

/// Time of the last change of status.
pub fn ctime(stat: &Stat) -> Time {
    Time(stat.st_ctime, stat.st_ctime_nsec as u32)
}

/// How many names a file has.
#[allow(clippy::useless_conversion)] // Its width depends on the processor.
pub fn names(stat: &Stat) -> u64 {
    stat.st_nlink.into()
}

/// The entry that `stat` describes, without link, attributes and content.
pub fn entry(path: Vec<u8>, kind: EntryKind, stat: &Stat, owners: &mut Owners) -> Entry {
    let mut entry = Entry::bare(path, kind);
    (entry.user, entry.group) = (owners.user(stat.st_uid), owners.group(stat.st_gid));
    refresh(&mut entry, stat);
    entry
}

/// Brings an entry up to date with a later `stat` of a file of the same kind; owners' names stay.
pub fn refresh(entry: &mut Entry, stat: &Stat) {
    entry.mode = stat.st_mode & 0o7777;
    entry.uid = stat.st_uid;
    entry.gid = stat.st_gid;
    entry.mtime = mtime(stat);
    match entry.kind {
        EntryKind::File => {
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            entry.size = size;
            entry.seen = Some(Seen { ino: stat.st_ino, dev: stat.st_dev, ctime: ctime(stat), size });
        }
        EntryKind::CharDevice | EntryKind::BlockDevice => {
            entry.rdev = Some((rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)));
        }
        _ => {}
    }
}

/// Extended attributes (name, value) by name.
pub type Xattrs = Vec<(ByteBuf, ByteBuf)>;

/// Extended attributes of a file, symbolic links not followed, sorted by name; and a note when some could not be read.
pub fn xattrs(path: &Path) -> (Xattrs, Option<String>) {
    let names = match grow(|buf| rustix::fs::llistxattr(path, buf)) {
        Ok(names) => names,
        // A file system without attributes has none; that is no loss.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return (Vec::new(), None),
        Err(e) => return (Vec::new(), Some(format!("its extended attributes cannot be listed: {e}"))),
    };
    let mut found = Vec::new();
    let mut refused = Vec::new();
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        match grow(|buf| rustix::fs::lgetxattr(path, name, buf)) {
            Ok(value) => found.push((ByteBuf::from(name), ByteBuf::from(value))),
            // Gone since it was listed, or listed but not kept by this file system.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(e) => refused.push(format!("{} ({e})", String::from_utf8_lossy(name))),
        }
    }
    found.sort();
    let note = (!refused.is_empty()).then(|| format!("extended attributes cannot be read: {}", refused.join(", ")));
    (found, note)
}

/// Calls with a buffer that grows until the answer fits; the kernel's own limit is 64 KiB for each answer.
fn grow(mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buf = vec![0; 256];
    loop {
        match call(&mut buf) {
            Ok(n) => {
                buf.truncate(n);
                return Ok(buf);
            }
            Err(Errno::RANGE) if buf.len() < 1 << 20 => buf.resize(buf.len() * 4, 0),
            Err(e) => return Err(e),
        }
    }
}
