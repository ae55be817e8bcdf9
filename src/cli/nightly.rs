//! `reseal nightly`: everything that has to happen every night, in one line of a crontab.

use super::args::Nightly;
use super::open::Context;
use super::{backup, deadlines, drill, exports, rotate, text, ui, verify};
use crate::engine::nightly::{self, Report};
use crate::{Error, Result};
use serde_json::{Value, json};

/// Runs the night.
pub fn run(cx: &Context, args: &Nightly) -> Result<u8> {
    let session = cx.session()?;
    let report = nightly::nightly(&session, &args.datasets)?;
    say(cx, &report);
    exports::warn(&cx.ui, &*session.state()?);
    deadlines::warn(&cx.ui, &session.state()?.requests, session.now());
    let code = report.exit_code();
    cx.ui.object(&object(&report, code));
    Ok(code)
}

fn say(cx: &Context, report: &Report) {
    let failed = |what: &str, e: &Error| cx.ui.warn(&format!("{what}: {}", ui::error_text(e)));
    for (name, done) in &report.backups {
        match done {
            Ok(r) => backup::say(cx, r),
            Err(e) => failed(&format!("no archive of {name} was made"), e),
        }
    }
    match &report.propagated {
        Some(Ok(r)) if r.started > 0 => {
            let left: u64 = r.archives.iter().map(|a| a.left.len() as u64).sum();
            cx.ui.say(&format!(
                "erased: {} done, {} in part, over {}; old objects gone: {}",
                text::count(r.done.len() as u64, "request", "requests"),
                r.partial.len(),
                text::count(r.archives.len() as u64, "archive", "archives"),
                r.gone
            ));
            for a in &r.archives {
                for left in &a.left {
                    cx.ui.warn(&format!("archive {} of {}: left: {left}", text::short(a.archive), a.dataset));
                }
            }
            if left > 0 {
                cx.ui.warn("some erasures are done in part; the next night tries again");
            }
        }
        Some(Ok(_)) => cx.ui.say("no erasure is due"),
        Some(Err(e)) => failed("the erasures that are due were not done", e),
        None => {}
    }
    if !report.verified.is_empty() {
        verify::say(cx, &report.verified);
    }
    for e in &report.verify_errors {
        failed("an archive could not be verified", e);
    }
    for (name, done) in &report.rotated {
        match done {
            Ok(r) => rotate::say(cx, r, false),
            Err(e) => failed(&format!("{name} was not rotated"), e),
        }
    }
    for (name, done) in &report.drilled {
        match done {
            Ok(r) => drill::say(cx, r),
            Err(e) => failed(&format!("{name} was not drilled"), e),
        }
    }
}

fn object(report: &Report, code: u8) -> Value {
    fn either<T>(result: &Result<T>, name: &str, object: impl Fn(&T) -> Value) -> Value {
        match result {
            Ok(r) => object(r),
            Err(e) => backup::failed(name, &ui::error_text(e), e.exit_code()),
        }
    }
    let errors: Vec<Value> = report.verify_errors.iter().map(|e| ui::error_object(&ui::error_text(e), e.exit_code())).collect();
    let propagated = report.propagated.as_ref().map(|p| match p {
        Ok(r) => json!({
            "done": r.done, "partial": r.partial, "gone": r.gone.to_string(), "bytes_read": r.bytes_read, "bytes_written": r.bytes_written,
            "archives": r.archives.iter().map(|a| json!({
                "dataset": a.dataset, "archive": a.archive.to_string(), "generation_before": a.before.0, "generation_after": a.after.0,
                "verification": a.verification.to_string(), "left": a.left,
            })).collect::<Vec<_>>(),
        }),
        Err(e) => ui::error_object(&ui::error_text(e), e.exit_code()),
    });
    json!({
        "nightly": {
            "exit_code": code,
            "backups": report.backups.iter().map(|(n, r)| either(r, n, backup::object)).collect::<Vec<_>>(),
            "propagation": propagated,
            "verified": verify::objects(&report.verified),
            "verify_errors": errors,
            "rotated": report.rotated.iter().map(|(n, r)| either(r, n, rotate::object)).collect::<Vec<_>>(),
            "refused": super::intake::refused_objects(&report.refused),
            "drills": report.drilled.iter().map(|(n, r)| either(r, n, drill::object)).collect::<Vec<_>>(),
        }
    })
}
