//! Entries as a plain tar stream that GNU tar, libarchive and Python's `tarfile` unpack to the same thing.
//!
//! The dialect is POSIX pax where plain ustar cannot say something, and only there. Two choices need a reason:
//!
//! - Names that are not UTF-8: pax records are UTF-8 by definition; `hdrcharset=BINARY` makes GNU tar complain, and raw bytes
//!   in a record make libarchive complain. All three take raw bytes in the ustar name field and in GNU's long-name members
//!   ("././@LongLink", types `L` and `K`), so that is where such names go.
//! - Sparse files: GNU's pax format 1.0, the one that all three read. Its `GNU.sparse.name` is left out for a name that is
//!   not UTF-8, for the same reason.
//!
//! The same entries always give the same bytes.

use crate::error::{Error, Result};
use crate::repository::entry::{Entry, EntryKind, Time};
use std::io::{self, Read, Write};

const BLOCK: usize = 512;

/// Largest values of the octal fields of a ustar header with 11 and with 7 digits.
const MAX_11: u64 = 0o77_777_777_777;
const MAX_7: u64 = 0o7_777_777;

/// Type flags.
const FILE: u8 = b'0';
const HARDLINK: u8 = b'1';
const SYMLINK: u8 = b'2';
const CHAR_DEVICE: u8 = b'3';
const BLOCK_DEVICE: u8 = b'4';
const DIRECTORY: u8 = b'5';
const FIFO: u8 = b'6';
const PAX: u8 = b'x';
const GNU_LONG_NAME: u8 = b'L';
const GNU_LONG_LINK: u8 = b'K';

/// Attributes that hold POSIX access lists, and the records that hold them as text.
const ACCESS_LISTS: [(&[u8], &[u8]); 2] =
    [(b"system.posix_acl_access", b"SCHILY.acl.access"), (b"system.posix_acl_default", b"SCHILY.acl.default")];

/// Writes entries as a tar stream. Not buffered; hand it a writer that is.
#[derive(Debug)]
pub struct TarWriter<W: Write> {
    out: W,
}

impl<W: Write> TarWriter<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> TarWriter<W> {
        TarWriter { out }
    }

    /// Writes one entry. `content` gives the entry's plain bytes; for a sparse entry only those of its segments, back to back.
    /// It is not read for entries that are not files.
    ///
    /// Fails with `Damaged` when `content` has another length than the entry says (the stream then breaks off, so that
    /// nobody takes it for whole), with `Format` when tar cannot hold the entry, with `Io` when writing or reading fails.
    pub fn append(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<()> {
        let cannot = |why: &str| Error::format(entry.display_path(), why);
        let link = entry.link.as_ref().map_or(&[][..], |l| l.as_slice());
        if entry.path.is_empty() || entry.path.contains(&0) || link.contains(&0) {
            return Err(cannot("a tar stream cannot hold this name"));
        }
        let flag = match entry.kind {
            EntryKind::File => FILE,
            EntryKind::Directory => DIRECTORY,
            EntryKind::Symlink => SYMLINK,
            EntryKind::Hardlink => HARDLINK,
            EntryKind::Fifo => FIFO,
            EntryKind::CharDevice => CHAR_DEVICE,
            EntryKind::BlockDevice => BLOCK_DEVICE,
        };
        let mut header = Header::new(flag);
        let mut records = Records::default();
        let mut name = entry.path.clone();
        if entry.kind == EntryKind::Directory {
            name.push(b'/');
        }

        let segments = if entry.kind == EntryKind::File { entry.segments.as_deref() } else { None };
        let map = segments.map(|s| sparse_map(s, entry.size)).transpose().map_err(cannot)?;
        let data = match (entry.kind, segments) {
            (EntryKind::File, None) => entry.size,
            (EntryKind::File, Some(segments)) => segments.iter().map(|s| s.1).sum(),
            _ => 0,
        };
        let stored = data.saturating_add(map.as_ref().map_or(0, |m| m.len() as u64));

        if map.is_some() {
            records.add(b"GNU.sparse.major", b"1");
            records.add(b"GNU.sparse.minor", b"0");
            records.add(b"GNU.sparse.realsize", entry.size.to_string().as_bytes());
            // The other name keeps what does not know sparse files from passing off the map as the file.
            if std::str::from_utf8(&name).is_ok() {
                records.add(b"GNU.sparse.name", &name);
                name = [b"GNUSparseFile.0/", last_name(&name)].concat();
                name.truncate(100);
            }
        }
        if header.put(0..100, &name).is_err() {
            header.put_cut(0..100, &name);
            match std::str::from_utf8(&name) {
                Ok(_) => records.add(b"path", &name),
                Err(_) => self.long_name(GNU_LONG_NAME, &name)?,
            }
        }
        if matches!(entry.kind, EntryKind::Symlink | EntryKind::Hardlink) && header.put(157..257, link).is_err() {
            header.put_cut(157..257, link);
            match std::str::from_utf8(link) {
                Ok(_) => records.add(b"linkpath", link),
                Err(_) => self.long_name(GNU_LONG_LINK, link)?,
            }
        }
        for (range, name, key) in [(265..297, &entry.user, b"uname"), (297..329, &entry.group, b"gname")] {
            // A NUL in a name would end the record early for some readers.
            let name = name.as_bytes();
            if name.contains(&0) {
                continue;
            }
            // The field needs room for the NUL at its end.
            if name.len() > 31 || !name.is_ascii() {
                records.add(key, name);
            }
            if name.len() <= 31 {
                header.put_cut(range, name);
            }
        }
        header.octal(100..108, u64::from(entry.mode & 0o7777));
        for (range, number, key) in [(108..116, entry.uid, b"uid"), (116..124, entry.gid, b"gid")] {
            if u64::from(number) > MAX_7 {
                records.add(key, number.to_string().as_bytes());
            } else {
                header.octal(range, u64::from(number));
            }
        }
        if stored > MAX_11 {
            records.add(b"size", stored.to_string().as_bytes());
        } else {
            header.octal(124..136, stored);
        }
        match u64::try_from(entry.mtime.0) {
            Ok(seconds) if seconds <= MAX_11 => header.octal(136..148, seconds),
            _ => header.octal(136..148, 0),
        }
        if entry.mtime.1 != 0 || u64::try_from(entry.mtime.0).map_or(true, |s| s > MAX_11) {
            records.add(b"mtime", decimal(entry.mtime).as_bytes());
        }
        if let (EntryKind::CharDevice | EntryKind::BlockDevice, Some((major, minor))) = (entry.kind, entry.rdev) {
            if u64::from(major) > MAX_7 || u64::from(minor) > MAX_7 {
                return Err(cannot("a tar stream cannot hold this device number"));
            }
            header.octal(329..337, u64::from(major));
            header.octal(337..345, u64::from(minor));
        }
        if entry.kind != EntryKind::Hardlink {
            for (key, value) in &entry.xattrs {
                if !key.contains(&0) {
                    records.add(&[b"SCHILY.xattr.", &*attribute_name(key)].concat(), value);
                }
                // Access lists a second time, for libarchive and `tar --acls`, which read them only from here.
                let list = ACCESS_LISTS.iter().find(|(name, _)| *name == key.as_slice());
                if let Some((text, (_, record))) = access_list(value).zip(list) {
                    records.add(record, text.as_bytes());
                }
            }
        }

        if !records.0.is_empty() {
            let mut extended = Header::new(PAX);
            let mut name = [b"PaxHeaders/", last_name(&entry.path)].concat();
            name.truncate(100);
            extended.put_cut(0..100, &name);
            extended.octal(100..108, 0o644);
            self.member(extended, &records.0)?;
        }
        self.write(&header.finish())?;
        if let Some(map) = map {
            self.write(&map)?;
        }
        if entry.kind == EntryKind::File {
            self.content(entry, content, data)?;
        }
        self.pad(stored)
    }

    /// Writes the end of the stream and gives back the writer, flushed.
    pub fn finish(mut self) -> Result<W> {
        self.write(&[0; 2 * BLOCK])?;
        self.out.flush().map_err(Error::io("write", "the tar stream"))?;
        Ok(self.out)
    }

    fn content(&mut self, entry: &Entry, content: &mut dyn Read, expected: u64) -> Result<()> {
        let damaged = |found: &str| Error::damaged(entry.display_path(), format!("{found} than the {expected} bytes that its entry names"));
        let mut buf = vec![0; 64 * 1024];
        let mut left = expected;
        loop {
            // One byte more than expected is asked for, to notice content that is too long.
            let want = usize::try_from(left.saturating_add(1)).unwrap_or(usize::MAX).min(buf.len());
            let n = match content.read(buf.get_mut(..want).unwrap_or_default()) {
                Ok(0) if left == 0 => return Ok(()),
                Ok(0) => return Err(damaged("its content is shorter")),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Error::io("read", entry.display_path())(e)),
            };
            left = left.checked_sub(n as u64).ok_or_else(|| damaged("its content is longer"))?;
            self.write(buf.get(..n).unwrap_or_default())?;
        }
    }

    /// A member in GNU's way for a name that the next header has no room for.
    fn long_name(&mut self, flag: u8, name: &[u8]) -> Result<()> {
        let mut header = Header::new(flag);
        header.put_cut(0..100, b"././@LongLink");
        header.octal(100..108, 0o644);
        // The magic of old GNU headers: others may ignore these types.
        header.put_cut(257..265, b"ustar  ");
        self.member(header, &[name, b"\0"].concat())
    }

    fn member(&mut self, mut header: Header, data: &[u8]) -> Result<()> {
        header.octal(124..136, data.len() as u64);
        self.write(&header.finish())?;
        self.write(data)?;
        self.pad(data.len() as u64)
    }

    fn pad(&mut self, written: u64) -> Result<()> {
        let over = (written % BLOCK as u64) as usize;
        if over == 0 { Ok(()) } else { self.write([0; BLOCK].get(over..).unwrap_or_default()) }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(Error::io("write", "the tar stream"))
    }
}

/// One ustar header block. Every number field holds a zero until it is set.
struct Header([u8; BLOCK]);

impl Header {
    fn new(flag: u8) -> Header {
        let mut header = Header([0; BLOCK]);
        for range in [100..108, 108..116, 116..124, 124..136, 136..148, 329..337, 337..345] {
            header.octal(range, 0);
        }
        header.put_cut(156..157, &[flag]);
        header.put_cut(257..265, b"ustar\x0000");
        header
    }

    /// Sets a field, or fails when the value does not fit.
    fn put(&mut self, field: std::ops::Range<usize>, value: &[u8]) -> Result<(), ()> {
        if value.len() > field.len() {
            return Err(());
        }
        self.put_cut(field, value);
        Ok(())
    }

    /// Sets a field to as much of the value as fits.
    fn put_cut(&mut self, field: std::ops::Range<usize>, value: &[u8]) {
        if let Some(field) = self.0.get_mut(field) {
            field.fill(0);
            field.iter_mut().zip(value).for_each(|(f, v)| *f = *v);
        }
    }

    fn octal(&mut self, field: std::ops::Range<usize>, value: u64) {
        let digits = format!("{value:0width$o}", width = field.len() - 1);
        self.put_cut(field, digits.as_bytes());
    }

    fn finish(mut self) -> [u8; BLOCK] {
        self.put_cut(148..156, b"        ");
        let sum: u64 = self.0.iter().map(|b| u64::from(*b)).sum();
        self.put_cut(148..156, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

/// The records of a pax header.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    /// Adds `LENGTH KEY=VALUE\n`, where the length counts itself.
    fn add(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        self.0.extend_from_slice(len.to_string().as_bytes());
        self.0.extend_from_slice(&[b" ", key, b"=", value, b"\n"].concat());
    }
}

/// The map at the start of a sparse member's data: the number of segments and each one's place, padded to a block.
fn sparse_map(segments: &[(u64, u64)], size: u64) -> Result<Vec<u8>, &'static str> {
    let mut end = 0u64;
    for (start, len) in segments {
        if *start < end || start.checked_add(*len).is_none_or(|e| e > size) {
            return Err("its data segments overlap or reach beyond its size");
        }
        end = start + len;
    }
    // A hole at the end is told by an empty segment there.
    let last = (end < size || segments.is_empty()).then_some((size, 0));
    let mut map = format!("{}\n", segments.len() + usize::from(last.is_some()));
    for (start, len) in segments.iter().chain(&last) {
        map.push_str(&format!("{start}\n{len}\n"));
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    Ok(map)
}

/// Seconds as a decimal number, the shortest that is exact. Before 1970 the fraction counts backwards, unlike in [`Time`].
fn decimal(Time(seconds, nanos): Time) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let (whole, part) = (total.unsigned_abs() / 1_000_000_000, total.unsigned_abs() % 1_000_000_000);
    let sign = if total < 0 { "-" } else { "" };
    if part == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{}", format!("{part:09}").trim_end_matches('0')) }
}

/// An attribute's name as the key of a record, which cannot have a `=` in it; GNU tar's own way.
fn attribute_name(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    for b in name {
        match b {
            b'%' => out.extend_from_slice(b"%25"),
            b'=' => out.extend_from_slice(b"%3D"),
            b => out.push(*b),
        }
    }
    out
}

/// A POSIX access list as text, with numbers for names, from what Linux keeps in an attribute: a version (2, four bytes), then
/// per entry its tag and permissions (two bytes each) and the id (four bytes), little-endian.
fn access_list(value: &[u8]) -> Option<String> {
    let rest = value.strip_prefix(&2u32.to_le_bytes())?;
    let mut text = Vec::new();
    for entry in rest.chunks(8) {
        let [t0, t1, p0, p1, i0, i1, i2, i3] = *<&[u8; 8]>::try_from(entry).ok()?;
        let id = u32::from_le_bytes([i0, i1, i2, i3]);
        let permissions = u16::from_le_bytes([p0, p1]);
        let letters: String = [(4, 'r'), (2, 'w'), (1, 'x')].map(|(bit, c)| if permissions & bit != 0 { c } else { '-' }).iter().collect();
        text.push(match u16::from_le_bytes([t0, t1]) {
            0x01 => format!("user::{letters}"),
            0x02 => format!("user:{id}:{letters}:{id}"),
            0x04 => format!("group::{letters}"),
            0x08 => format!("group:{id}:{letters}:{id}"),
            0x10 => format!("mask::{letters}"),
            0x20 => format!("other::{letters}"),
            _ => return None,
        });
    }
    Some(text.join(","))
}

fn last_name(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').find(|p| !p.is_empty()).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::super::testing::plain_entry;
    use super::*;

    #[test]
    fn times_are_exact_decimals_on_both_sides_of_1970() {
        for (time, text) in [
            (Time(0, 0), "0"),
            (Time(1, 5), "1.000000005"),
            (Time(1, 500_000_000), "1.5"),
            (Time(-1, 0), "-1"),
            (Time(-2, 500_000_000), "-1.5"),
            (Time(-1, 999_999_999), "-0.000000001"),
            (Time(i64::MIN, 0), "-9223372036854775808"),
        ] {
            assert_eq!(decimal(time), text);
        }
    }

    #[test]
    fn the_length_of_a_record_counts_itself() {
        let mut records = Records::default();
        records.add(b"k", b"v");
        records.add(b"key", &[b'x'; 92]);
        records.add(b"key", &[b'x'; 91]);
        let text = String::from_utf8(records.0).unwrap();
        let lens: Vec<_> = text.lines().map(|l| (l.split(' ').next().unwrap().parse().unwrap(), l.len() + 1)).collect();
        assert!(lens.iter().all(|(said, is): &(usize, usize)| said == is), "{lens:?}");
    }

    #[test]
    fn content_of_another_length_breaks_the_stream_off() {
        let mut entry = plain_entry(b"a", EntryKind::File);
        entry.size = 5;
        for wrong in [&b"four"[..], b"sixsix"] {
            let mut writer = TarWriter::new(Vec::new());
            assert!(matches!(writer.append(&entry, &mut &*wrong), Err(Error::Damaged { .. })));
        }
    }

    #[test]
    fn what_tar_cannot_hold_is_refused() {
        let mut bad = vec![plain_entry(b"", EntryKind::File), plain_entry(b"a\0b", EntryKind::File)];
        let mut sparse = plain_entry(b"s", EntryKind::File);
        sparse.size = 10;
        for segments in [vec![(5, 6)], vec![(4, 2), (5, 1)], vec![(u64::MAX, 2)]] {
            sparse.segments = Some(segments);
            bad.push(sparse.clone());
        }
        let mut device = plain_entry(b"d", EntryKind::CharDevice);
        device.rdev = Some((u32::MAX, 0));
        bad.push(device);
        for entry in bad {
            assert!(TarWriter::new(Vec::new()).append(&entry, &mut io::empty()).is_err(), "{entry:?}");
        }
    }

    #[test]
    fn a_file_of_more_than_8_gib_and_far_times_and_owners_are_told_in_records() {
        let mut entry = plain_entry(b"big", EntryKind::File);
        entry.size = 9 << 30;
        (entry.uid, entry.gid, entry.mtime) = (3_000_000_000, 2_097_152, Time(MAX_11 as i64 + 1, 0));
        entry.user = "a-user-name-of-more-than-thirty-one-bytes".to_string();
        let mut writer = TarWriter::new(Vec::new());
        assert!(writer.append(&entry, &mut io::empty()).is_err());
        let text = String::from_utf8_lossy(&writer.out).into_owned();
        for record in ["uid=3000000000", "gid=2097152", "size=9663676416", "mtime=8589934592", "uname=a-user-name-of-more"] {
            assert!(text.contains(record), "{record}");
        }
    }
}
