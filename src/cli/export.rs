//! `reseal export`: an archive as a plain tar stream, through the gate.

use super::args::Export;
use super::open::Context;
use super::restore::bypass;
use super::{DONE, text};
use crate::engine::export;
use crate::engine::gate::Bypass;
use crate::engine::session::Session;
use crate::{Error, Result};
use serde_json::json;
use std::io::{BufWriter, IsTerminal, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes gathered before they are written.
const BUFFER: usize = 1 << 20;

fn to_file(session: &Session, wanted: &str, args: &Export, path: &Path, bypass: Option<&Bypass>) -> Result<u64> {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(Error::io("create", path))?;
    let written = session.reading(
        |_| false,
        |_| {
            // Unlike a stream, a file can be begun again when the archive is sealed anew meanwhile.
            (&file).rewind().and_then(|()| file.set_len(0)).map_err(Error::io("write", path))?;
            let mut out = BufWriter::with_capacity(BUFFER, &file);
            let entries = match export::export(session, wanted, &args.paths, bypass, &mut out) {
                Err(Error::Interrupted(what)) if !session.env.stop.requested() => return Err(Error::Refused(what)),
                other => other?,
            };
            out.flush().and_then(|()| file.sync_all()).map_err(Error::io("write", path))?;
            Ok(entries)
        },
    );
    if written.is_err() {
        // Half a stream looks like a whole one.
        let _ = std::fs::remove_file(path);
    }
    written
}

/// Writes the stream.
pub fn run(cx: &Context, args: &Export) -> Result<u8> {
    if cx.ui.json && args.out.is_none() {
        return Err(Error::Usage("with --json standard output holds the object, so the stream needs --out FILE".into()));
    }
    if args.out.is_none() && std::io::stdout().is_terminal() {
        return Err(Error::Usage(
            "a tar stream is not for a terminal; redirect it (reseal export … > backup.tar) or use --out FILE".into(),
        ));
    }
    let (session, _) = cx.settled()?;
    let archive = session.find_archive(&args.archive)?.head;
    let wanted = archive.archive.to_string();
    let bypass = bypass(&args.gate);
    let entries = match &args.out {
        Some(path) => to_file(&session, &wanted, args, path, bypass.as_ref())?,
        None => {
            let mut out = BufWriter::with_capacity(BUFFER, std::io::stdout().lock());
            let entries = export::export(&session, &wanted, &args.paths, bypass.as_ref(), &mut out)?;
            out.flush().map_err(Error::io("write", "standard output"))?;
            entries
        }
    };
    if let Some(path) = &args.out {
        cx.ui.say(&format!(
            "exported {} from archive {} of {} to {}, which is not encrypted",
            text::count(entries, "entry", "entries"),
            text::short(archive.archive),
            archive.dataset,
            path.display()
        ));
    }
    cx.ui.object(&json!({
        "export": {
            "archive": wanted,
            "dataset": archive.dataset,
            "created_at": archive.created_at.to_string(),
            "out": args.out.as_ref().map(|p| p.display().to_string()),
            "entries": entries,
        }
    }));
    Ok(DONE)
}
