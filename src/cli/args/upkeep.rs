//! What keeps archives in order, and what helps with it: `rotate`, `verify`, `drill`, `nightly`, `retention`, `audit`, `map`, `catalog`,
//! `completions`, `demo`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `reseal retention`
#[derive(Debug, Args)]
pub struct Retention {
    /// About which datasets [default: all]
    #[arg(value_name = "DATASET")]
    pub datasets: Vec<String>,
    /// Into this new file instead of standard output (Markdown)
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `reseal rotate`
#[derive(Debug, Args)]
pub struct Rotate {
    /// Only print what would go, and by which rule
    #[arg(long)]
    pub dry_run: bool,
    /// An archive that is gone for good, or damaged beyond repair: it is given up, so that what it may have needed can be destroyed (may be
    /// repeated)
    #[arg(long, value_name = "ARCHIVE", requires = "reason", conflicts_with = "dry_run")]
    pub lost: Vec<String>,
    /// Why it is given up, for the audit log
    #[arg(long, value_name = "TEXT", requires = "lost")]
    pub reason: Option<String>,
}

/// `reseal verify`
#[derive(Debug, Args)]
pub struct Verify {
    /// Which archives [default: all]
    #[arg(value_name = "ARCHIVE")]
    pub archives: Vec<String>,
    /// Also read the data, or a sample of it
    #[arg(long, value_name = "PERCENT", num_args = 0..=1, require_equals = true, default_missing_value = "100%", value_parser = share)]
    pub read_data: Option<f64>,
}

/// `reseal drill`
#[derive(Debug, Args)]
pub struct Drill {
    /// Which datasets [default: all]
    #[arg(value_name = "DATASET")]
    pub datasets: Vec<String>,
}

/// `reseal nightly`
#[derive(Debug, Args)]
pub struct Nightly {
    /// Which datasets [default: all]
    #[arg(value_name = "DATASET")]
    pub datasets: Vec<String>,
}

/// `reseal audit`
#[derive(Debug, Args)]
pub struct Audit {
    /// Check that the chain is whole
    #[arg(long)]
    pub check: bool,
    /// With --check: certificates whose place in the chain is checked too
    #[arg(value_name = "CERTIFICATE", requires = "check")]
    pub certificates: Vec<PathBuf>,
}

/// `reseal map`
#[derive(Debug, Subcommand)]
pub enum Map {
    /// Check the data map against what the source holds now
    Check(MapDatasets),
    /// Draft a data map from the source, for a person to correct
    Suggest(MapDatasets),
}

/// Which datasets.
#[derive(Debug, Args)]
pub struct MapDatasets {
    /// Which datasets [default: all]
    #[arg(value_name = "DATASET")]
    pub datasets: Vec<String>,
}

/// `reseal catalog`
#[derive(Debug, Subcommand)]
pub enum Catalog {
    /// Forget what this machine has seen of the repository, and take what is there now as the truth
    Rebuild,
}

/// `reseal completions`
#[derive(Debug, Args)]
pub struct Completions {
    /// bash, elvish, fish, powershell or zsh
    pub shell: clap_complete::Shell,
}

/// `reseal demo`
#[derive(Debug, Args)]
pub struct Demo {
    /// A new or empty folder to work in, which stays [default: a temporary one, which does not]
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

/// `10%` → 0.1.
fn share(text: &str) -> Result<f64, String> {
    let percent: f64 = text.trim_end_matches('%').trim().parse().map_err(|_| "expected a percentage like 10%".to_string())?;
    if percent > 0.0 && percent <= 100.0 { Ok(percent / 100.0) } else { Err("expected more than 0% and at most 100%".to_string()) }
}
