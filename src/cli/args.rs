//! The command line, as clap reads it: what every command takes, and the commands, with a file for each group of them. Names of commands and
//! flags are a contract with scripts: add, don't rename.

mod archives;
mod keys;
mod people;
#[cfg(test)]
mod tests;
mod upkeep;

pub use archives::*;
pub use keys::*;
pub use people::*;
pub use upkeep::*;

use clap::{ArgAction, Args, Parser, Subcommand};
use std::path::PathBuf;

/// Backups that can forget: encrypted archives from which a person can be erased, with proof.
#[derive(Debug, Parser)]
#[command(name = "reseal", version, after_help = AFTER_HELP, max_term_width = 110, disable_help_subcommand = true)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Secrets come from RESEAL_PASSPHRASE, RESEAL_PASSPHRASE_FILE, RESEAL_PASSPHRASE_COMMAND, --key-file or a prompt.

Exit codes:
  0  done
  1  failed; nothing changed, or everything can be resumed
  2  usage or configuration
  3  done in part; what is left is listed
  4  verification failed
  5  locked by another writer
  6  wrong secret, or damaged data

Start with `reseal demo`, or with docs/configuration.md and `reseal init`.";

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// The configuration
    #[arg(long, global = true, env = "RESEAL_CONFIG", hide_env_values = true, default_value = "./reseal.yaml", value_name = "FILE")]
    pub config: PathBuf,
    /// Print one JSON object on standard output, and nothing else there (docs/json.md)
    #[arg(long, global = true)]
    pub json: bool,
    /// Only results that were asked for, warnings and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Tell more; phases also without a terminal
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// No progress bars
    #[arg(long, global = true)]
    pub no_progress: bool,
    /// Open the repository with a key file instead of a passphrase
    #[arg(long, global = true, env = "RESEAL_KEY_FILE", hide_env_values = true, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Who acts, for the audit log [default: the configuration's actor, else user@host]
    #[arg(long, global = true, env = "RESEAL_ACTOR", hide_env_values = true, value_name = "NAME")]
    pub actor: Option<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a repository and its first key slot
    Init(Init),
    /// Seal a new archive of each dataset
    Backup(Backup),
    /// List archives
    Archives(Archives),
    /// Show an archive, or what is in it
    Show(Show),
    /// Restore an archive into a directory; later erasures are applied on the way
    Restore(Restore),
    /// Write an archive as plain tar to standard output; later erasures are applied on the way
    Export(Export),
    /// Where a person is, and what is held about them
    #[command(subcommand)]
    Subject(Subject),
    /// Requests to erase a person
    #[command(subcommand)]
    Request(Request),
    /// Erase the people of all due requests from every archive, and verify it
    Propagate(Propagate),
    /// Apply retention
    Rotate(Rotate),
    /// Check that archives are whole
    Verify(Verify),
    /// Restore for real into a scratch place, check, measure, report
    Drill(Drill),
    /// The signed proof of a request
    Certificate(Certificate),
    /// How long copies of personal data can stay in the backups: a statement to hand out
    Retention(Retention),
    /// Backup, due erasures, rotation, sample verification, drill when due: for cron or a systemd timer
    Nightly(Nightly),
    /// Who can open the repository
    #[command(subcommand)]
    Keys(Keys),
    /// Archives that put-only hosts handed in
    #[command(subcommand)]
    Intake(Intake),
    /// The audit log
    Audit(Audit),
    /// The data map against the live source
    #[command(subcommand)]
    Map(Map),
    /// Print the configuration's JSON Schema, for editors
    Schema,
    /// The local catalog
    #[command(subcommand)]
    Catalog(Catalog),
    /// Print a completion script for a shell
    Completions(Completions),
    /// The main job on a few made-up records in a temporary folder, each step shown
    Demo(Demo),
}
