//! Where backups come from and restores go to: folders, commands, standard input; target folders and tar streams.
//!
//! A folder goes through [`Walk`] (which names its entries in archive order) and [`WalkItem::open`] (which reads one file and
//! notices when it changes meanwhile). An archive goes out through [`TarWriter`] or into a folder through [`Target`]. All of
//! them speak [`crate::repository::entry::Entry`], so that what is read is what is written, to the nanosecond and the hole.

pub mod command;
pub mod file;
pub mod globs;
pub mod meta;
pub mod patient;
pub mod restore;
pub mod tarstream;
pub mod walk;

#[cfg(test)]
mod roundtrip;
#[cfg(test)]
mod testing;

pub use command::{CommandLine, CommandStream, standard_input, stream_entry};
pub use file::{SourceFile, is_sqlite, segments};
pub use globs::PathGlobs;
pub use restore::{FileSink, RestoreReport, Target, TargetOptions};
pub use tarstream::TarWriter;
pub use walk::{Problem, Severity, Walk, WalkItem, WalkOptions, Walked, path_order};
