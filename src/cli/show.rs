//! `reseal show`: an archive's head, or its entries as `tar tvf` lists them.

use super::args::Show;
use super::open::Context;
use super::{DONE, text};
use crate::Result;
use crate::repository::entry::{Entry, EntryKind, Time, display_path};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Shows it.
pub fn run(cx: &Context, args: &Show) -> Result<u8> {
    let (session, _) = cx.settled()?;
    let listed = session.find_archive(&args.archive)?;
    let state = session.state()?;
    let mut object = super::archives::object(&listed, &state, None);
    if let Some(fields) = object.as_object_mut() {
        // Only the list of all archives tells when one of them goes.
        fields.shift_remove("expires_at");
    }
    let head = &listed.head;
    if !args.entries {
        let facts = state.facts(&head.dataset, &head.archive);
        let mut lines = vec![
            ("archive", head.archive.to_string()),
            ("dataset", head.dataset.clone()),
            ("time", format!("{} UTC", text::time(head.created_at))),
            ("generation", format!("{} (sealed {} UTC)", head.generation, text::time(head.sealed_at))),
            ("entries", head.entry_count.to_string()),
            ("size", text::bytes(head.source_bytes)),
            ("stored", text::bytes(head.stored_bytes)),
            ("ledger epoch", head.ledger_epoch.to_string()),
            ("digest", listed.digest.clone()),
            ("source", head.source.clone()),
            ("made by", head.tool.clone()),
            (
                "verified",
                facts.verified_at.as_ref().map_or_else(|| "never".into(), |(at, scope)| format!("{} UTC ({scope})", text::time(*at))),
            ),
            ("drilled", facts.drilled_at.map_or_else(|| "never".into(), |at| format!("{} UTC", text::time(at)))),
        ];
        if let Some(tag) = &head.tag {
            lines.insert(2, ("tag", tag.clone()));
        }
        if head.warnings > 0 {
            lines.push(("warnings", head.warnings.to_string()));
        }
        if let Some(at) = facts.failed_at {
            lines.push(("check failed", format!("{} UTC", text::time(at))));
        }
        for (name, value) in lines {
            cx.ui.data(&format!("{name:<13} {value}"));
        }
        cx.ui.object(&json!({ "archive": object }));
        return Ok(DONE);
    }
    let view = session.view(&head.dataset)?;
    let archive = view.open(head);
    let mut entries = Vec::new();
    for entry in archive.entries() {
        let entry = entry?;
        super::go_on(cx)?;
        if cx.ui.json {
            entries.push(entry_object(&entry));
        } else {
            cx.ui.data(&line(&entry));
            if !cx.ui.is_read() {
                break;
            }
        }
    }
    cx.ui.object(&json!({ "archive": object, "entries": entries }));
    Ok(DONE)
}

fn kind_letter(kind: EntryKind) -> char {
    match kind {
        EntryKind::File => '-',
        EntryKind::Directory => 'd',
        EntryKind::Symlink => 'l',
        EntryKind::Hardlink => 'h',
        EntryKind::Fifo => 'p',
        EntryKind::CharDevice => 'c',
        EntryKind::BlockDevice => 'b',
    }
}

fn kind_word(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Directory => "directory",
        EntryKind::Symlink => "symlink",
        EntryKind::Hardlink => "hardlink",
        EntryKind::Fifo => "fifo",
        EntryKind::CharDevice => "chardevice",
        EntryKind::BlockDevice => "blockdevice",
    }
}

/// `rwxr-sr-t`
fn permissions(mode: u32) -> String {
    let mut out = String::with_capacity(9);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        out.push(if bits & 4 != 0 { 'r' } else { '-' });
        out.push(if bits & 2 != 0 { 'w' } else { '-' });
        out.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    out
}

fn moment(time: Time) -> Option<Timestamp> {
    Timestamp::new(time.0, i32::try_from(time.1).ok()?).ok()
}

fn owner(name: &str, number: u32) -> String {
    if name.is_empty() { number.to_string() } else { name.to_string() }
}

fn line(entry: &Entry) -> String {
    let size = match entry.rdev {
        Some((major, minor)) => format!("{major},{minor}"),
        None => entry.size.to_string(),
    };
    let owners = format!("{}/{}", owner(&entry.user, entry.uid), owner(&entry.group, entry.gid));
    let link = match (entry.kind, &entry.link) {
        (EntryKind::Symlink, Some(to)) => format!(" -> {}", display_path(to)),
        (_, Some(to)) => format!(" link to {}", display_path(to)),
        _ => String::new(),
    };
    let slash = if entry.kind == EntryKind::Directory { "/" } else { "" };
    format!(
        "{}{} {owners:<15} {size:>10} {} {}{slash}{link}",
        kind_letter(entry.kind),
        permissions(entry.mode),
        text::time_or_dash(moment(entry.mtime)),
        entry.display_path()
    )
}

fn entry_object(entry: &Entry) -> Value {
    let mut object = json!({
        "path": entry.display_path(),
        "kind": kind_word(entry.kind),
        "mode": format!("{:04o}", entry.mode & 0o7777),
        "uid": entry.uid,
        "gid": entry.gid,
        "user": entry.user,
        "group": entry.group,
        "mtime": moment(entry.mtime).map(|t| t.to_string()),
        "size": entry.size,
        "link": entry.link.as_ref().map(|l| display_path(l)),
        "format": entry.mapped.as_ref().map(|m| m.format.clone()),
    });
    if std::str::from_utf8(&entry.path).is_err()
        && let Some(fields) = object.as_object_mut()
    {
        // Names are bytes; where they are no text, a script needs them exactly.
        fields.insert("path_hex".into(), hex::encode(&entry.path).into());
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_like_tar() {
        assert_eq!(
            [0o644, 0o755, 0o4755, 0o2710, 0o1777, 0o1776].map(permissions),
            ["rw-r--r--", "rwxr-xr-x", "rwsr-xr-x", "rwx--s---", "rwxrwxrwt", "rwxrwxrwT"]
        );
    }
}
