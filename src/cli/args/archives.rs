//! What archives are made of, shown and handed out by: `init`, `backup`, `archives`, `show`, `restore`, `export`.

use clap::Args;
use std::path::PathBuf;

/// `reseal init`
#[derive(Debug, Args)]
pub struct Init {
    /// Name of the first key slot
    #[arg(long, default_value = "first", value_name = "NAME")]
    pub label: String,
    /// Also make a key for a host that only adds archives (to all datasets), and write it into this new file
    #[arg(long, value_name = "FILE")]
    pub put_only_key: Option<PathBuf>,
}

/// `reseal backup`
#[derive(Debug, Args)]
pub struct Backup {
    /// Which datasets [default: all]
    #[arg(value_name = "DATASET")]
    pub datasets: Vec<String>,
    /// A name for the archives
    #[arg(long, value_name = "TEXT")]
    pub tag: Option<String>,
}

/// `reseal archives`
#[derive(Debug, Args)]
pub struct Archives {
    /// Of one dataset
    #[arg(value_name = "DATASET")]
    pub dataset: Option<String>,
}

/// `reseal show`
#[derive(Debug, Args)]
pub struct Show {
    /// Id, unique prefix, `latest`, `DATASET@latest` or `DATASET@2026-11-01`
    #[arg(value_name = "ARCHIVE")]
    pub archive: String,
    /// List what is in it
    #[arg(long)]
    pub entries: bool,
}

/// How the restore gate is passed.
#[derive(Debug, Args)]
pub struct SkipGate {
    /// Hand out erased people too: needs a reason and a second person, and stands in the audit log
    #[arg(long, requires_all = ["reason", "approver"])]
    pub skip_gate: bool,
    /// Why the gate is skipped
    #[arg(long, requires = "skip_gate", value_name = "TEXT")]
    pub reason: Option<String>,
    /// The second person who agrees
    #[arg(long, requires = "skip_gate", value_name = "NAME")]
    pub approver: Option<String>,
}

/// `reseal restore`
#[derive(Debug, Args)]
pub struct Restore {
    /// Id, unique prefix, `latest`, `DATASET@latest` or `DATASET@2026-11-01`
    #[arg(value_name = "ARCHIVE")]
    pub archive: String,
    /// Into this directory, new or empty
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    pub to: Option<PathBuf>,
    /// Only what matches (a folder brings what is in it); can be repeated
    #[arg(long = "path", value_name = "GLOB")]
    pub paths: Vec<String>,
    /// Only list what would be written
    #[arg(long)]
    pub dry_run: bool,
    /// Write into a directory that is not empty, over what is there
    #[arg(long)]
    pub overwrite: bool,
    /// The gate.
    #[command(flatten)]
    pub gate: SkipGate,
}

/// `reseal export`
#[derive(Debug, Args)]
pub struct Export {
    /// Id, unique prefix, `latest`, `DATASET@latest` or `DATASET@2026-11-01`
    #[arg(value_name = "ARCHIVE")]
    pub archive: String,
    /// Only what matches (a folder brings what is in it); can be repeated
    #[arg(long = "path", value_name = "GLOB")]
    pub paths: Vec<String>,
    /// Into this new file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// The gate.
    #[command(flatten)]
    pub gate: SkipGate,
}
