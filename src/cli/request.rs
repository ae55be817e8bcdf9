//! `reseal request`: opening requests and the steps of their lives. Identities come from a file and are never printed.

use super::args::{Request as Command, RequestList, RequestOpen};
use super::open::Context;
use super::text::{self, Align, Table};
use super::{DONE, deadlines, secrets};
use crate::Result;
use crate::engine::request::{self, Opening};
use crate::engine::session::Session;
use crate::engine::state::Request;
use crate::policy::{State as Stage, Transition};
use serde_json::{Value, json};
use zeroize::Zeroize;

/// Carries a step out.
pub fn run(cx: &Context, command: &Command) -> Result<u8> {
    let session = cx.session()?;
    match command {
        Command::Open(a) => open(cx, &session, a),
        Command::List(a) => list(cx, &session, a),
        Command::Show(a) => {
            let state = session.state()?;
            let request = state.request(&a.request)?;
            show(cx, &session, request);
            Ok(DONE)
        }
        Command::Cancel(a) => step(cx, &session, &a.request, Transition::Cancel, "cancelled; its identities are destroyed"),
        Command::Hold(a) => {
            step(cx, &session, &a.request, Transition::Hold { reason: a.reason.clone() }, "on hold; end it with: reseal request release")
        }
        Command::Release(a) => step(cx, &session, &a.request, Transition::Release, "released"),
        Command::Approve(a) => step(cx, &session, &a.request, Transition::Approve { actor: session.actor.clone() }, "approved"),
        Command::Extend(a) => step(
            cx,
            &session,
            &a.request,
            Transition::Extend { reason: a.reason.clone() },
            "extended; tell the person why, within the first month (GDPR Art. 12(3))",
        ),
        Command::Refuse(a) => {
            let ground = a.cite.as_ref().map_or_else(|| a.ground.clone(), |c| format!("{} ({c})", a.ground));
            step(
                cx,
                &session,
                &a.request,
                Transition::Refuse { ground },
                "refused; its identities are destroyed. Tell the person why, and how to complain (GDPR Art. 12(4))",
            )
        }
        Command::CameBack(a) => {
            request::came_back(&session, &a.request, a.reason.clone())?;
            done(cx, &session, &a.request, "recorded: the person is a customer again; later backups of them are no finding any more")
        }
        Command::AddIdentities(a) => {
            let text = secrets::identities(&a.identity_file, &cx.ui)?;
            request::add_identities(&session, &a.request, &text)?;
            done(cx, &session, &a.request, "has the identities added; the next propagation searches every archive for them")
        }
    }
}

fn open(cx: &Context, session: &Session, args: &RequestOpen) -> Result<u8> {
    let text = secrets::identities(&args.identity_file, &cx.ui)?;
    let mut opening = Opening {
        identities: text.to_string(),
        datasets: args.datasets.clone(),
        kind: args.kind.into(),
        received: args.received,
        reason: args.reason.clone(),
    };
    let opened = request::open(session, &opening);
    opening.identities.zeroize();
    let ids = opened?;
    let state = session.state()?;
    let requests: Vec<&Request> = ids.iter().map(|id| state.request(id)).collect::<Result<_>>()?;
    let now = session.now();
    for r in &requests {
        let deadline = r.deadline.map_or_else(String::new, |d| format!(", deadline {} UTC", text::time(d)));
        cx.ui.say(&format!("opened request {}: {}, due {} UTC{deadline}", r.id, r.stage(now), text::time(r.clock.due_at)));
        if r.clock.approvals_missing() > 0 {
            cx.ui.say(&format!(
                "it needs {}: reseal request approve {}",
                text::count(r.clock.approvals_missing().into(), "approval", "approvals"),
                r.id
            ));
        }
    }
    deadlines::warn(&cx.ui, requests.iter().copied(), now);
    if args.identity_file.as_os_str() != "-" {
        cx.ui.say(&format!(
            "the identities are sealed in the repository; {} is no longer needed for this: delete it",
            args.identity_file.display()
        ));
    }
    let mut objects = Vec::new();
    for r in &requests {
        let (mut object, not_covered) = (object(r, now), session.not_covered(r)?);
        if !not_covered.is_empty() {
            cx.ui.say(&format!("request {} does not cover {}", r.id, not_covered.join(", ")));
        }
        object["not_covered"] = not_covered.into();
        objects.push(object);
    }
    cx.ui.object(&json!({ "request": objects.first(), "requests": objects }));
    Ok(DONE)
}

fn list(cx: &Context, session: &Session, args: &RequestList) -> Result<u8> {
    let state = session.state()?;
    let now = session.now();
    let shown: Vec<&Request> = state.requests.iter().filter(|r| !args.open || !r.stage(now).is_final()).collect();
    let mut table = Table::new(&[
        ("id", Align::Left),
        ("state", Align::Left),
        ("kind", Align::Left),
        ("received", Align::Left),
        ("due (UTC)", Align::Left),
        ("deadline (UTC)", Align::Left),
        ("datasets", Align::Left),
        ("note", Align::Left),
    ]);
    for r in &shown {
        let datasets: Vec<&str> = r.datasets.keys().map(String::as_str).collect();
        table.row(vec![
            r.id.clone(),
            r.stage(now).to_string(),
            r.clock.kind.to_string(),
            text::time(r.clock.received),
            text::time(r.clock.due_at),
            text::time_or_dash(r.deadline),
            datasets.join(", "),
            note(r, now),
        ]);
    }
    if table.is_empty() {
        cx.ui.say("there are no requests; open one with: reseal request open --identity-file FILE");
    } else {
        cx.ui.data(&table.render());
    }
    deadlines::warn(&cx.ui, shown.iter().copied(), now);
    cx.ui.object(&json!({ "requests": shown.iter().map(|r| object(r, now)).collect::<Vec<_>>() }));
    Ok(DONE)
}

fn note(r: &Request, now: jiff::Timestamp) -> String {
    match r.stage(now) {
        Stage::Open => format!("needs {}", text::count(r.clock.approvals_missing().into(), "approval", "approvals")),
        Stage::Held => r.hold.clone().unwrap_or_default(),
        Stage::Cancelled | Stage::Refused => r.ended.clone().unwrap_or_default(),
        _ if !r.still_live.is_empty() && r.came_back.is_none() => "still in the live source".to_string(),
        _ => String::new(),
    }
}

fn show(cx: &Context, session: &Session, r: &Request) {
    let now = session.now();
    let at = |t: jiff::Timestamp| format!("{} UTC", text::time(t));
    let mut lines: Vec<(&str, String)> = vec![
        ("request", r.id.clone()),
        ("state", r.stage(now).to_string()),
        ("kind", r.clock.kind.to_string()),
        ("received", at(r.clock.received)),
        ("opened", format!("{} by {}", at(r.clock.opened), r.opened_by)),
        ("due", at(r.clock.due_at)),
    ];
    if let Some(d) = r.deadline {
        lines.push(("deadline", format!("{}{}", at(d), if r.clock.extended { " (extended)" } else { "" })));
    }
    for (dataset, identities) in &r.datasets {
        let mut kinds: Vec<&str> = identities.iter().map(|i| i.kind.as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        lines.push(("dataset", format!("{dataset} (by {})", kinds.join(", "))));
    }
    if r.clock.approvals_needed > 0 {
        lines.push(("approvals", format!("{} of {}: {}", r.clock.approvals.len(), r.clock.approvals_needed, r.clock.approvals.join(", "))));
    }
    let optional = [("reason", &r.reason), ("hold", &r.hold), ("ended", &r.ended)];
    lines.extend(optional.into_iter().filter_map(|(name, text)| Some((name, text.clone()?))));
    if let Some(t) = r.effective_at {
        lines.push(("erased", format!("from archives made before {}", at(t))));
    }
    if let Some(f) = &r.finished {
        let left = f.archives.iter().filter(|a| !a.left.is_empty()).count();
        let result =
            if f.done { "everything".to_string() } else { format!("in part: {left} of {} archives have something left", f.archives.len()) };
        lines.push(("propagated", format!("{} by {}, {result}", at(f.at), f.actor)));
    }
    for (dataset, archive, when) in &r.still_live {
        lines.push(("still live", format!("{dataset}, found in archive {} on {}", text::short(archive), at(*when))));
    }
    if let Some(t) = r.came_back {
        lines.push(("came back", at(t)));
    }
    for (name, value) in lines {
        cx.ui.data(&format!("{name:<11} {value}"));
    }
    deadlines::warn(&cx.ui, [r], now);
    cx.ui.object(&json!({ "request": object(r, now) }));
}

fn step(cx: &Context, session: &Session, id: &str, transition: Transition, words: &str) -> Result<u8> {
    let request = request::step(session, id, transition)?;
    report(cx, session, &request, words);
    Ok(DONE)
}

fn done(cx: &Context, session: &Session, id: &str, words: &str) -> Result<u8> {
    let state = session.state()?;
    report(cx, session, state.request(id)?, words);
    Ok(DONE)
}

fn report(cx: &Context, session: &Session, request: &Request, words: &str) {
    let now = session.now();
    cx.ui.say(&format!("request {}: {words} (it is {} now)", request.id, request.stage(now)));
    deadlines::warn(&cx.ui, [request], now);
    cx.ui.object(&json!({ "request": object(request, now) }));
}

/// A request for scripts. No identity is in it, and no token.
pub fn object(r: &Request, now: jiff::Timestamp) -> Value {
    json!({
        "id": r.id,
        "state": r.stage(now).as_str(),
        "kind": r.clock.kind.to_string(),
        "received": r.clock.received.to_string(),
        "opened_at": r.clock.opened.to_string(),
        "opened_by": r.opened_by,
        "due_at": r.clock.due_at.to_string(),
        "deadline": r.deadline.map(|t| t.to_string()),
        "deadline_status": deadlines::word(deadlines::status(r, now)),
        "extended": r.clock.extended,
        "datasets": r.datasets.keys().collect::<Vec<_>>(),
        "reason": r.reason,
        "approvals": r.clock.approvals,
        "approvals_needed": r.clock.approvals_needed,
        "hold": r.hold,
        "ended": r.ended,
        "effective_at": r.effective_at.map(|t| t.to_string()),
        "finished_at": r.finished.as_ref().map(|f| f.at.to_string()),
        "still_live": r.still_live.iter().map(|(d, a, t)| json!({ "dataset": d, "archive": a.to_string(), "at": t.to_string() })).collect::<Vec<_>>(),
        "came_back": r.came_back.map(|t| t.to_string()),
    })
}
