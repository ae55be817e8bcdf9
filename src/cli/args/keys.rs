//! Who may open a repository, and who may only add to it: `keys`, `intake`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `reseal keys`
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// List the key slots, and the keys of put-only hosts
    List,
    /// Add a slot with another passphrase (RESEAL_NEW_PASSPHRASE, …_FILE, …_COMMAND or a prompt) or key file, or a key for a put-only host
    Add(KeysAdd),
    /// Remove a slot, or the key of a put-only host
    Remove(KeysRemove),
    /// Replace the root key, or complete a replacement that was interrupted
    Rotate,
    /// Write everything that opens archives into one file, for the day when the place of the keys is lost
    Export(KeysExport),
    /// List the exports, and which of them hold keys that an erasure destroyed
    Exports,
    /// Bring an export back to the place of the keys
    Import(KeysImport),
    /// Record that an export does not exist any more
    ForgetExport(KeysForgetExport),
}

/// `reseal keys export`
#[derive(Debug, Args)]
pub struct KeysExport {
    /// Into this new file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Where it will be kept, for the audit log
    #[arg(long, value_name = "TEXT")]
    pub label: String,
    /// The older export that it replaces, which you destroy now; can be repeated
    #[arg(long, value_name = "EXPORT")]
    pub replaces: Vec<String>,
}

/// `reseal keys import`
#[derive(Debug, Args)]
pub struct KeysImport {
    /// The export
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// `reseal keys forget-export`
#[derive(Debug, Args)]
pub struct KeysForgetExport {
    /// Its id or a unique prefix
    #[arg(value_name = "EXPORT")]
    pub export: String,
    /// How it was destroyed, for the audit log
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// `reseal keys add`
#[derive(Debug, Args)]
pub struct KeysAdd {
    /// Name of the slot
    #[arg(long, value_name = "NAME")]
    pub label: String,
    /// A key file, made when it is not there
    #[arg(long, value_name = "FILE")]
    pub new_key_file: Option<PathBuf>,
    /// Not a slot, but a key for a host that adds archives and can open and delete none, written into this new file
    #[arg(long, value_name = "FILE", conflicts_with = "new_key_file")]
    pub put_only: Option<PathBuf>,
    /// With --put-only: only to this dataset; can be repeated [default: all]
    #[arg(long = "dataset", value_name = "DATASET", requires = "put_only")]
    pub datasets: Vec<String>,
}

/// `reseal keys remove`
#[derive(Debug, Args)]
pub struct KeysRemove {
    /// The id of the slot or of the host's key, or a unique prefix
    #[arg(value_name = "KEY")]
    pub slot: String,
}

/// `reseal intake`
#[derive(Debug, Subcommand)]
pub enum Intake {
    /// List what is not admitted yet
    List,
    /// Check it and make archives of it; every command that changes a dataset does this first
    Admit,
    /// Throw an archive away that does not check
    Discard(IntakeDiscard),
}

/// `reseal intake discard`
#[derive(Debug, Args)]
pub struct IntakeDiscard {
    /// Its id or a unique prefix
    #[arg(value_name = "ARCHIVE")]
    pub archive: String,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}
