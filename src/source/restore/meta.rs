//! Owner, attributes, mode and time of what was just restored, in the order that is safe.

use crate::repository::entry::{Entry, EntryKind};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::{Errno, Result};
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Mode bits that lend the owner's rights to others.
const SET_IDS: u32 = 0o6000;

/// What the metadata is applied to: something open, or something that cannot be opened without an effect (pipes, devices)
/// or at all (symbolic links) by its name in an open folder.
pub(super) enum Handle<'a> {
    Fd(BorrowedFd<'a>),
    Name(&'a OwnedFd, &'a [u8]),
}

/// What the system did not take.
#[derive(Default)]
pub(super) struct Refused {
    pub(super) owner: bool,
    pub(super) set_id: bool,
    pub(super) attributes: u64,
}

impl<'a> Handle<'a> {
    pub(super) fn by_name(parent: &'a OwnedFd, name: &'a [u8]) -> Handle<'a> {
        Handle::Name(parent, name)
    }

    /// Applies an entry's metadata. The owner comes first, because giving a file away takes its set-id bits and capabilities
    /// off; the mode after the attributes, because it may forbid to write them; the time last.
    pub(super) fn apply(&self, entry: &Entry, (uid, gid): (u32, u32)) -> Result<Refused> {
        let mut refused = Refused::default();
        let before = self.stat()?;
        if (before.st_uid, before.st_gid) != (uid, gid) {
            let owner = (valid(uid).map(Uid::from_raw), valid(gid).map(Gid::from_raw));
            // Who may not give a file away may still give it to one of their groups.
            if self.chown(owner.0, owner.1).is_err() && before.st_gid != gid {
                let _ = self.chown(None, owner.1);
            }
            let after = self.stat()?;
            refused.owner = (after.st_uid, after.st_gid) != (uid, gid);
        }
        for (name, value) in &entry.xattrs {
            refused.attributes += u64::from(self.set_xattr(name, value).is_err());
        }
        if entry.kind != EntryKind::Symlink {
            let mut mode = entry.mode & 0o7777;
            if refused.owner && mode & SET_IDS != 0 {
                refused.set_id = true;
                mode &= !SET_IDS;
            }
            self.chmod(Mode::from_raw_mode(mode))?;
        }
        refused.attributes += u64::from(self.set_mtime(entry).is_err());
        Ok(refused)
    }

    fn stat(&self) -> Result<Stat> {
        match self {
            Handle::Fd(fd) => rustix::fs::fstat(fd),
            Handle::Name(parent, name) => rustix::fs::statat(parent, *name, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    fn chown(&self, uid: Option<Uid>, gid: Option<Gid>) -> Result<()> {
        match self {
            Handle::Fd(fd) => rustix::fs::fchown(fd, uid, gid),
            Handle::Name(parent, name) => rustix::fs::chownat(parent, *name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<()> {
        match self {
            Handle::Fd(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Handle::Name(parent, at) => {
                let path = proc_path(parent.as_fd()).join(OsStr::from_bytes(at));
                rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())
            }
        }
    }

    pub(super) fn chmod(&self, mode: Mode) -> Result<()> {
        match self {
            Handle::Fd(fd) => rustix::fs::fchmod(fd, mode),
            Handle::Name(parent, name) => {
                // There is no call that changes a mode by name without following a link; holding the thing itself is the way.
                let held = rustix::fs::openat(parent, *name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
                if rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&held)?.st_mode) == rustix::fs::FileType::Symlink {
                    return Err(Errno::LOOP);
                }
                rustix::fs::chmod(proc_path(held.as_fd()), mode)
            }
        }
    }

    fn set_mtime(&self, entry: &Entry) -> Result<()> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: entry.mtime.0, tv_nsec: entry.mtime.1.into() },
        };
        match self {
            Handle::Fd(fd) => rustix::fs::futimens(fd, &times),
            Handle::Name(parent, name) => rustix::fs::utimensat(parent, *name, &times, AtFlags::SYMLINK_NOFOLLOW),
        }
    }
}

fn proc_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The number that means "leave it as it is" is nobody's; an archive that names it gets what it asks for.
fn valid(id: u32) -> Option<u32> {
    (id != u32::MAX).then_some(id)
}
