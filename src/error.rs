//! What can go wrong, by what the user has to do about it. Every variant maps to one documented exit code.
//!
//! Errors carry what, where and the cause. They never carry a person's data: no field values, no identities.
//! File names do appear (a user cannot act without them), except where the data map says that a path carries an identity.

use std::fmt;
use std::path::PathBuf;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The command was given something it cannot work with. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The configuration or data map is wrong; every finding names its place. Exit code 2.
    #[error("{}", display_findings(.0))]
    Config(Vec<ConfigFinding>),
    /// The operating system refused something. Exit code 1.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: "read", "create".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The object store failed. Exit code 1 (6 when an object that must exist does not).
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// Stored bytes are not what was sealed: altered, truncated, swapped, missing or rolled back. Exit code 6.
    #[error("{object} is damaged: {detail}")]
    Damaged {
        /// The object's key, or what it holds.
        object: String,
        /// What does not fit.
        detail: String,
    },
    /// No key slot opens with the secret given. Exit code 6.
    #[error("wrong passphrase or key file: none of the {slots} key slots of this repository opens with it")]
    WrongSecret {
        /// Slots tried.
        slots: usize,
    },
    /// Another writer holds the dataset. Exit code 5.
    #[error("{what} is locked by {holder} since {since}; its lease ends {expires} unless renewed")]
    Locked {
        /// Which lease.
        what: String,
        /// Host and process.
        holder: String,
        /// RFC 3339.
        since: String,
        /// RFC 3339.
        expires: String,
    },
    /// Something that was checked is not so. Exit code 4.
    #[error("verification failed: {0}")]
    Verification(String),
    /// A source could not be read. Exit code 1.
    #[error("cannot back up {what}: {detail}")]
    Source {
        /// Which source or entry.
        what: String,
        /// Why.
        detail: String,
    },
    /// An entry is not of the format that the map says, or cannot be edited safely. Exit code 1; nothing was changed.
    #[error("{entry}: {detail}")]
    Format {
        /// Path of the entry.
        entry: String,
        /// What was found, and where; no values.
        detail: String,
    },
    /// A rule of the policy or of the format forbids it. Exit code 1.
    #[error("refused: {0}")]
    Refused(String),
    /// Stopped by Ctrl-C or SIGTERM at a safe point. Exit code 1: everything resumable.
    #[error("stopped: {0}")]
    Interrupted(String),
    /// An SQLite call on the catalog or on an entry failed.
    #[error("sqlite: {context}: {source}")]
    Sqlite {
        /// What was being done.
        context: String,
        /// SQLite's answer, without row values.
        source: rusqlite::Error,
    },
}

impl Error {
    /// The documented exit code of a process that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) | Error::Config(_) => 2,
            Error::Verification(_) => 4,
            Error::Locked { .. } => 5,
            Error::WrongSecret { .. } | Error::Damaged { .. } => 6,
            Error::Store(e) if e.is_missing() => 6,
            _ => 1,
        }
    }

    /// Wraps an I/O error with what was tried on which path. An error of ours that came through a reader or a writer comes out as it was: a damaged
    /// chunk is no failure of a disk, and whoever reads again when archives were sealed anew must be able to tell.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| match source.downcast::<Error>() {
            Ok(ours) => ours,
            Err(source) => Error::Io { action, path, source },
        }
    }

    /// Shorthand for [`Error::Damaged`].
    pub fn damaged(object: impl Into<String>, detail: impl Into<String>) -> Error {
        Error::Damaged { object: object.into(), detail: detail.into() }
    }

    /// Shorthand for [`Error::Format`].
    pub fn format(entry: impl Into<String>, detail: impl Into<String>) -> Error {
        Error::Format { entry: entry.into(), detail: detail.into() }
    }

    /// Wraps an SQLite error with what was being done.
    pub fn sqlite(context: impl Into<String>) -> impl FnOnce(rusqlite::Error) -> Error {
        let context = context.into();
        move |source| Error::Sqlite { context, source }
    }
}

/// One finding in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFinding {
    /// The file, as the user named it.
    pub file: String,
    /// 1-based; 0 when the finding is about the file as a whole.
    pub line: usize,
    /// 1-based; 0 when unknown.
    pub column: usize,
    /// What is wrong and, where possible, what to write instead.
    pub message: String,
}

impl fmt::Display for ConfigFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.column) {
            (0, _) => write!(f, "{}: {}", self.file, self.message),
            (l, 0) => write!(f, "{}:{l}: {}", self.file, self.message),
            (l, c) => write!(f, "{}:{l}:{c}: {}", self.file, self.message),
        }
    }
}

fn display_findings(findings: &[ConfigFinding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_ours_comes_through_a_reader_as_it_was() {
        let through = |e: Error| Error::io("read", "a/b")(std::io::Error::other(e));
        assert!(matches!(through(Error::damaged("a pack", "it is missing")), Error::Damaged { .. }));
        assert!(matches!(through(Error::Interrupted("x".into())), Error::Interrupted(_)));
        assert!(matches!(Error::io("read", "a/b")(std::io::Error::other("disk")), Error::Io { .. }));
    }
}
