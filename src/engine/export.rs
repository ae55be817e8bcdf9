//! Exporting an archive as a plain tar stream, through the gate.

use super::archive::PieceReader;
use super::event::Event;
use super::gate::{Bypass, outgoing};
use super::restore::{Selection, selected};
use super::session::Session;
use crate::source::tarstream::TarWriter;
use crate::{Error, Result};
use std::io::Write;

/// Writes `wanted` to `out` as tar; returns the number of entries.
pub fn export(session: &Session, wanted: &str, paths: &[String], bypass: Option<&Bypass>, out: impl Write) -> Result<u64> {
    let mut out = Counted { inner: out, written: 0 };
    session.reading(
        |_| false,
        |attempt| {
            if attempt > 0 && out.written > 0 {
                // A stream cannot be taken back.
                return Err(Error::Interrupted(
                    "the archive was sealed anew while it was read, and the stream is incomplete; run the same command again".into(),
                ));
            }
            write(session, wanted, paths, bypass, &mut out)
        },
    )
}

/// Knows whether anything has gone out.
struct Counted<W> {
    inner: W,
    written: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

fn write(session: &Session, wanted: &str, paths: &[String], bypass: Option<&Bypass>, out: impl Write) -> Result<u64> {
    let from = outgoing(session, wanted, bypass)?;
    let selection = Selection::new(paths)?;
    let mut tar = TarWriter::new(out);
    let mut entries = 0;
    session.env.monitor.phase("exporting", Some(from.archive.head.source_bytes));
    selected(&from, &selection, |entry, pieces| {
        session.env.stop.check("the stream is incomplete")?;
        let mut content = PieceReader::new(from.archive.reader.clone(), pieces);
        tar.append(&entry, &mut content)?;
        session.env.monitor.advance(entry.content.as_ref().map_or(0, |t| t.len()));
        entries += 1;
        Ok(())
    })?;
    tar.finish()?;
    if entries == 0 && !selection.is_everything() {
        return Err(Error::Usage("no entry of the archive matches --path (reseal show ARCHIVE --entries lists them)".into()));
    }
    session.record(&Event::Restored {
        dataset: from.listed.head.dataset.clone(),
        archive: from.listed.head.archive,
        how: "export".into(),
        replayed: from.gated.replayed.len() as u64,
    })?;
    Ok(entries)
}
