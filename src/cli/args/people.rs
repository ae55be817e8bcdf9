//! Everything about a person: `subject`, `request`, `propagate`, `certificate`.

use crate::policy::Kind;
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use std::path::PathBuf;

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
