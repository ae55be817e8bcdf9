//! The command line, as clap reads it. Names of commands and flags are a contract with scripts: add, don't rename.

use crate::policy::Kind;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;
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

/// `reseal subject`
#[derive(Debug, Subcommand)]
pub enum Subject {
    /// In which archives and collections a person is: counts, no values
    Find(SubjectFind),
    /// Write what the latest archives hold about a person (GDPR Art. 15 and 20): JSON, CSV and a page to read
    Export(SubjectExport),
}

/// `reseal subject find`
#[derive(Debug, Args)]
pub struct SubjectFind {
    /// The person: YAML or JSON, `{email: …, customer_id: …}`; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    pub identity_file: PathBuf,
}

/// `reseal subject export`
#[derive(Debug, Args)]
pub struct SubjectExport {
    /// The person: YAML or JSON, `{email: …, customer_id: …}`; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    pub identity_file: PathBuf,
    /// Into this directory, new or empty
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
}

/// `reseal request`
#[derive(Debug, Subcommand)]
pub enum Request {
    /// Open one request per person in the identity file
    Open(RequestOpen),
    /// List requests, with their deadlines
    List(RequestList),
    /// Show one request
    Show(RequestId),
    /// Take back a request that is not due yet
    Cancel(RequestId),
    /// Put a request on legal hold
    Hold(RequestReason),
    /// End a hold
    Release(RequestId),
    /// Approve a request (as the actor; nobody can approve twice)
    Approve(RequestId),
    /// Extend the deadline by two months, once (GDPR Art. 12(3))
    Extend(RequestReason),
    /// Refuse a request, on a ground
    Refuse(RequestRefuse),
    /// Record that an erased person is a customer again
    CameBack(RequestReason),
    /// Add identities of the same person to an open request
    AddIdentities(RequestAdd),
}

/// `reseal request open`
#[derive(Debug, Args)]
pub struct RequestOpen {
    /// Who: YAML or JSON, `{email: …, customer_id: …}` or a list of these; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    pub identity_file: PathBuf,
    /// Only in this dataset; can be repeated [default: all with a data map]
    #[arg(long = "dataset", value_name = "DATASET")]
    pub datasets: Vec<String>,
    /// Which clock runs
    #[arg(long, value_enum, default_value = "subject-request")]
    pub kind: RequestKind,
    /// When it was received (a date or RFC 3339) [default: now]
    #[arg(long, value_name = "DATE", value_parser = moment)]
    pub received: Option<Timestamp>,
    /// A note for the audit log; name no person in it
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// Why a person is erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RequestKind {
    /// The person asked (GDPR Art. 17): `cooling_off`, then due, with a statutory deadline
    SubjectRequest,
    /// The operator deleted the account: recoverable for `document_lifetime`, then due
    Deletion,
}

impl From<RequestKind> for Kind {
    fn from(kind: RequestKind) -> Kind {
        match kind {
            RequestKind::SubjectRequest => Kind::SubjectRequest,
            RequestKind::Deletion => Kind::Deletion,
        }
    }
}

/// `reseal request list`
#[derive(Debug, Args)]
pub struct RequestList {
    /// Only those that are not over
    #[arg(long)]
    pub open: bool,
}

/// A request.
#[derive(Debug, Args)]
pub struct RequestId {
    /// Its id or a unique prefix
    #[arg(value_name = "REQUEST")]
    pub request: String,
}

/// A request and a reason.
#[derive(Debug, Args)]
pub struct RequestReason {
    /// Its id or a unique prefix
    #[arg(value_name = "REQUEST")]
    pub request: String,
    /// Why, for the audit log; name no person in it
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// `reseal request refuse`
#[derive(Debug, Args)]
pub struct RequestRefuse {
    /// Its id or a unique prefix
    #[arg(value_name = "REQUEST")]
    pub request: String,
    /// On what ground; name no person in it
    #[arg(long, alias = "reason", value_name = "TEXT")]
    pub ground: String,
    /// The law or contract
    #[arg(long, value_name = "TEXT")]
    pub cite: Option<String>,
}

/// `reseal request add-identities`
#[derive(Debug, Args)]
pub struct RequestAdd {
    /// Its id or a unique prefix
    #[arg(value_name = "REQUEST")]
    pub request: String,
    /// More identities of the same person; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    pub identity_file: PathBuf,
}

/// How much is searched after an erasure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scope {
    /// The chunks that were changed, and every record by its identities
    Changed,
    /// Every byte of every archive
    Full,
}

/// `reseal propagate`
#[derive(Debug, Args)]
pub struct Propagate {
    /// Only this request; can be repeated [default: all that are due]
    #[arg(long = "request", value_name = "ID")]
    pub requests: Vec<String>,
    /// Only print what would happen
    #[arg(long)]
    pub dry_run: bool,
    /// How much is searched afterwards
    #[arg(long, value_enum, default_value = "changed", value_name = "SCOPE")]
    pub verify: Scope,
    /// Skip the waiting of the requests named; the reason stands in the audit log
    #[arg(long, requires_all = ["reason", "requests"])]
    pub now: bool,
    /// Why the waiting is skipped
    #[arg(long, requires = "now", value_name = "TEXT")]
    pub reason: Option<String>,
}

/// `reseal rotate`
#[derive(Debug, Args)]
pub struct Rotate {
    /// Only print what would go, and by which rule
    #[arg(long)]
    pub dry_run: bool,
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

/// `reseal certificate`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Certificate {
    /// Checking one instead.
    #[command(subcommand)]
    pub check: Option<CertificateCommand>,
    /// The request's id or a unique prefix
    #[arg(value_name = "REQUEST", required = true)]
    pub request: Option<String>,
    /// Into this file instead of standard output; a name that ends in .html gives a page to read and print
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `reseal certificate check`
#[derive(Debug, Subcommand)]
pub enum CertificateCommand {
    /// Check a certificate's signature and, with a repository, its place in the audit chain
    Check {
        /// The certificate; `-` reads standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// `reseal nightly`
#[derive(Debug, Args)]
pub struct Nightly {
    /// Which datasets [default: all]
    #[arg(value_name = "DATASET")]
    pub datasets: Vec<String>,
}

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

/// A date (midnight UTC) or an RFC 3339 time.
pub fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let bad = || "expected a date like 2026-11-01 or a time like 2026-11-01T02:00:00Z".to_string();
    let day: jiff::civil::Date = text.parse().map_err(|_| bad())?;
    // Anything longer than a date was meant to be a time, and is not one without its zone.
    if text.len() > "2026-11-01".len() {
        return Err(bad());
    }
    day.to_zoned(jiff::tz::TimeZone::UTC).map(|z| z.timestamp()).map_err(|_| bad())
}

/// `10%` → 0.1.
fn share(text: &str) -> Result<f64, String> {
    let percent: f64 = text.trim_end_matches('%').trim().parse().map_err(|_| "expected a percentage like 10%".to_string())?;
    if percent > 0.0 && percent <= 100.0 { Ok(percent / 100.0) } else { Err("expected more than 0% and at most 100%".to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_contract_parses() {
        for line in [
            "reseal init",
            "reseal backup",
            "reseal backup crm shop --tag before-upgrade --json",
            "reseal archives crm --json",
            "reseal show latest --entries",
            "reseal restore crm@2026-11-01 --to out --path a --path b/** --dry-run",
            "reseal restore latest --to out --overwrite --skip-gate --reason x --approver y",
            "reseal export latest --path *.csv",
            "reseal subject find --identity-file -",
            "reseal subject export --identity-file f --to out",
            "reseal request open --identity-file f --dataset a --dataset b --kind deletion --received 2026-10-01 --reason x",
            "reseal request list",
            "reseal request show ab12",
            "reseal request cancel ab12",
            "reseal request hold ab12 --reason x",
            "reseal request release ab12",
            "reseal request approve ab12",
            "reseal request extend ab12 --reason x",
            "reseal request refuse ab12 --ground x",
            "reseal request came-back ab12 --reason x",
            "reseal request add-identities ab12 --identity-file f",
            "reseal propagate",
            "reseal propagate --request a --request b --dry-run --verify full",
            "reseal propagate --request a --now --reason x",
            "reseal rotate --dry-run",
            "reseal verify",
            "reseal verify a b --read-data=10%",
            "reseal verify --read-data a",
            "reseal drill crm",
            "reseal certificate ab12",
            "reseal certificate ab12 --out f",
            "reseal certificate check f",
            "reseal nightly -q",
            "reseal keys list",
            "reseal keys add --label safe --new-key-file f",
            "reseal keys remove ab",
            "reseal keys rotate",
            "reseal init --put-only-key f",
            "reseal keys add --label web1 --put-only f --dataset crm --dataset shop",
            "reseal intake list",
            "reseal intake admit",
            "reseal intake discard ab12 --reason x",
            "reseal keys export f --label safe --replaces ab --replaces cd",
            "reseal keys exports",
            "reseal keys import f",
            "reseal keys forget-export ab --reason x",
            "reseal audit --check",
            "reseal map check",
            "reseal map suggest crm",
            "reseal schema",
            "reseal catalog rebuild",
            "reseal completions fish",
            "reseal demo",
            "reseal --config x -v --no-progress --key-file k --actor me archives",
        ] {
            if let Err(e) = parse(line) {
                panic!("{line}: {e}");
            }
        }
    }

    #[test]
    fn half_given_decisions_are_refused() {
        for line in [
            "reseal restore latest",
            "reseal restore latest --to out --skip-gate",
            "reseal restore latest --to out --skip-gate --reason x",
            "reseal restore latest --to out --reason x",
            "reseal propagate --now",
            "reseal propagate --now --reason x",
            "reseal propagate --request a --reason x",
            "reseal request hold ab12",
            "reseal verify --read-data=0%",
            "reseal verify --read-data=101%",
            "reseal certificate",
            "reseal certificate check",
            "reseal backup -q -v",
            "reseal keys export f",
            "reseal keys forget-export ab",
            "reseal keys add --label web1 --dataset crm",
            "reseal keys add --label web1 --put-only f --new-key-file g",
            "reseal intake discard ab12",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn shares_and_moments() {
        let Command::Verify(v) = parse("reseal verify --read-data=10%").unwrap().command else { panic!() };
        assert_eq!(v.read_data, Some(0.1));
        let Command::Verify(v) = parse("reseal verify --read-data x").unwrap().command else { panic!() };
        assert_eq!((v.read_data, v.archives), (Some(1.0), vec!["x".to_string()]));
        assert_eq!(moment("2026-11-01").unwrap().to_string(), "2026-11-01T00:00:00Z");
        assert_eq!(moment("2026-11-01T02:00:00+02:00").unwrap().to_string(), "2026-11-01T00:00:00Z");
        for bad in ["", "yesterday", "2026-11-01T02:00:00", "2026-13-01"] {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }
}
