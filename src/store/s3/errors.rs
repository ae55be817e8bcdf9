//! What a service's answer means for us: try again, somebody was first, not there, not allowed, and the words that tell the user what
//! to do about it. Services differ in their words more than in their codes, so everything is decided on HTTP status and error code.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use std::fmt;
use std::time::Duration;

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// No such object (the bucket is there).
    Missing,
    /// A condition does not hold: somebody else was first.
    Condition,
    /// The range begins behind the object's end.
    Range,
    /// Not allowed, or locked.
    Denied,
    /// The service does not know the request.
    NotImplemented,
    /// The user asked to stop.
    Stopped,
    /// Anything else.
    Other,
}

/// A request that failed.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub kind: Kind,
    /// The service's error code, where it gave one.
    pub code: Option<String>,
    /// HTTP status, where there was an answer.
    pub status: Option<u16>,
    pub text: String,
    /// Whether another attempt may go better.
    pub again: bool,
    /// Whether an attempt (this or an earlier one of the same request) may have been carried out although no answer said so.
    pub uncertain: bool,
}

impl Failure {
    /// A failure of our own making.
    pub fn other(text: impl Into<String>) -> Failure {
        Failure { kind: Kind::Other, code: None, status: None, text: text.into(), again: false, uncertain: false }
    }

    /// Something on the way broke: worth another attempt.
    pub fn transport(text: impl Into<String>) -> Failure {
        Failure { again: true, uncertain: true, ..Failure::other(text) }
    }

    /// The user asked to stop.
    pub fn stopped() -> Failure {
        Failure { kind: Kind::Stopped, uncertain: true, ..Failure::other("stopped on request; run the same command again") }
    }

    /// The last of many attempts: whom it did not reach, and what to do.
    pub fn given_up(self, service: &str, patience: Duration) -> Failure {
        let tried = patience.as_secs();
        let text = match self.status {
            None => {
                format!("{service} cannot be reached (tried for {tried} s): {}; when it is back, run the same command again", self.text)
            }
            Some(_) => format!("{} ({service}, again and again for {tried} s)", self.text),
        };
        Failure { text, ..self }
    }

    /// Whether the service's code is this.
    pub fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = self.code.as_deref().and_then(hint);
        f.write_str(hint.unwrap_or(&self.text))?;
        match (self.status, &self.code) {
            (Some(status), Some(code)) => {
                write!(f, " (HTTP {status} {code}{})", if hint.is_some() { detail(&self.text) } else { String::new() })
            }
            (Some(status), None) => write!(f, " (HTTP {status})"),
            (None, Some(code)) => write!(f, " ({code})"),
            (None, None) => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

fn detail(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// What to do about it, where the service's own words do not say.
fn hint(code: &str) -> Option<&'static str> {
    Some(match code {
        "NoSuchBucket" => "the bucket is not there (any more)",
        "ExpiredToken" | "TokenRefreshRequired" | "RequestExpired" => {
            "the credentials have expired; get new ones and run the same command again"
        }
        "InvalidAccessKeyId" | "InvalidToken" | "InvalidClientTokenId" => "the service does not know these credentials",
        "SignatureDoesNotMatch" => "the secret key does not fit the access key, or something on the way changes requests",
        "RequestTimeTooSkewed" => "this machine's clock and the service's differ too much; set the clock",
        "SlowDown" | "ServiceUnavailable" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded" => {
            "the service asked for fewer requests until the time for trying again was over; run the same command again, with a smaller concurrency"
        }
        "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
            "the bucket is in another region than the configuration says (s3: region)"
        }
        "XAmzContentSHA256Mismatch" | "BadDigest" | "XAmzContentChecksumMismatch" => {
            "what arrived at the service is not what was sent, again and again"
        }
        "AccessDenied" | "AllAccessDisabled" | "Forbidden" => "the credentials do not allow this",
        "InvalidObjectState" => "the object is in an archive class and must be brought back there first",
        "KMS.DisabledException" | "KMS.NotFoundException" | "KMS.KMSInvalidStateException" => "the KMS key cannot be used",
        _ => return None,
    })
}

/// Codes after which the same request may succeed.
fn is_passing(status: Option<u16>, code: Option<&str>) -> bool {
    let by_code = code.is_some_and(|c| {
        matches!(
            c,
            "SlowDown"
                | "InternalError"
                | "ServiceUnavailable"
                | "Throttling"
                | "ThrottlingException"
                | "RequestLimitExceeded"
                | "RequestTimeout"
                | "OperationAborted"
                | "ConditionalRequestConflict"
                | "BadDigest"
                | "XAmzContentSHA256Mismatch"
                | "XAmzContentChecksumMismatch"
                | "IncompleteBody"
        )
    });
    by_code || status.is_some_and(|s| matches!(s, 408 | 409 | 429 | 500 | 502 | 503 | 504))
}

/// One line, without control characters, not too long: services answer with anything.
fn tame(text: &str) -> String {
    let mut out: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    out.truncate(out.trim_end().len());
    out
}

/// All causes, outermost first.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(e) = next {
        let text = e.to_string();
        if !out.contains(&text) {
            out = format!("{out}: {text}");
        }
        next = e.source();
    }
    tame(&out)
}

impl<E> From<SdkError<E, HttpResponse>> for Failure
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Failure {
        match &error {
            SdkError::ServiceError(answer) => {
                let status = answer.raw().status().as_u16();
                let code = answer.err().code().map(tame).filter(|c| !c.is_empty());
                let text = answer.err().message().map(tame).filter(|m| !m.is_empty());
                of_answer(status, code, text)
            }
            SdkError::ResponseError(answer) => {
                // An answer that could not be read: cut off, or a proxy's page.
                let status = answer.raw().status().as_u16();
                let again = status < 400 || is_passing(Some(status), None);
                Failure { status: Some(status), again, uncertain: true, ..Failure::other(chain(&error)) }
            }
            SdkError::TimeoutError(_) => Failure::transport("no answer in time"),
            SdkError::DispatchFailure(e) => {
                let text = e.as_connector_error().map_or_else(|| chain(&error), |e| chain(e));
                // Credentials that cannot be found do not come by waiting.
                if text.contains("credential") {
                    return Failure::other(format!(
                        "no credentials for the service: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or profile or credentials_file under `s3:` ({text})"
                    ));
                }
                // Nor does trust.
                if text.contains("peer certificate") {
                    return Failure::other(format!(
                        "the service's certificate is not accepted; when it is signed by a CA of your own, name the file with that CA's certificate: ca_bundle under `s3:` (or `keys_s3:`) ({text})"
                    ));
                }
                Failure::transport(text)
            }
            _ => Failure::other(chain(&error)),
        }
    }
}

/// From status, code and message.
fn of_answer(status: u16, code: Option<String>, text: Option<String>) -> Failure {
    let kind = match (status, code.as_deref()) {
        (_, Some("NoSuchKey" | "NotFound" | "NoSuchVersion" | "NoSuchUpload")) => Kind::Missing,
        (404, None) => Kind::Missing,
        (412, _) => Kind::Condition,
        (416, _) => Kind::Range,
        (501, _) | (_, Some("NotImplemented" | "MethodNotAllowed" | "XNotImplemented" | "UnsupportedOperation")) => Kind::NotImplemented,
        (_, Some("ExpiredToken" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "RequestTimeTooSkewed" | "InvalidToken")) => Kind::Other,
        (401 | 403, _) => Kind::Denied,
        _ => Kind::Other,
    };
    let again = kind == Kind::Other && is_passing(Some(status), code.as_deref());
    let silent = if status < 300 { "its answer cannot be understood" } else { "the service refused" };
    let text = text.unwrap_or_else(|| silent.to_string());
    // Some answers begin well and end badly: "200 OK" with an error in its body.
    Failure { kind, status: Some(status), text, again, uncertain: again && !(300..500).contains(&status), code }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: &str) -> Failure {
        of_answer(status, Some(code.to_string()).filter(|c| !c.is_empty()), None)
    }

    #[test]
    fn answers_are_told_apart() {
        assert_eq!(answer(404, "NoSuchKey").kind, Kind::Missing);
        assert_eq!(answer(404, "NoSuchBucket").kind, Kind::Other, "a vanished bucket is no missing object");
        assert_eq!(answer(412, "PreconditionFailed").kind, Kind::Condition);
        assert_eq!(answer(403, "AccessDenied").kind, Kind::Denied);
        assert_eq!(answer(501, "NotImplemented").kind, Kind::NotImplemented);
        for (status, code) in
            [(500, "InternalError"), (503, "SlowDown"), (409, "ConditionalRequestConflict"), (400, "BadDigest"), (502, "")]
        {
            assert!(answer(status, code).again, "{code}");
        }
        for (status, code) in [(403, "AccessDenied"), (400, "ExpiredToken"), (403, "RequestTimeTooSkewed"), (404, "NoSuchBucket")] {
            assert!(!answer(status, code).again, "{code}");
        }
    }

    #[test]
    fn messages_say_what_to_do_and_stay_one_line() {
        assert!(answer(400, "ExpiredToken").to_string().contains("have expired"));
        assert!(answer(403, "RequestTimeTooSkewed").to_string().contains("set the clock"));
        assert_eq!(tame("a\nb\0c"), "a b c");
        assert!(tame(&"x".repeat(10_000)).len() <= 300);
    }
}
