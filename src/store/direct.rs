//! Writes large objects past the page cache.
//!
//! A backup writes each byte once and syncs it at once; going through the cache means copying it into pages that the kernel first has to
//! find and clear, at several times the cost of handing it to the device, and pushes out what the machine's real work had cached. What a
//! file system does not do directly is written the ordinary way.

use rustix::fs::{self, OFlags};
use std::fs::File;
use std::io::{self, Write};

/// From here on, in bytes, an object is written directly.
pub const WORTH_IT: usize = 1 << 20;
/// What addresses, offsets and lengths are multiples of: the largest block of common devices.
const BLOCK: usize = 4096;
/// Bytes handed over at once.
const PIECE: usize = 4 << 20;

/// Writes all of `bytes` to the front of an empty file that was opened with `O_DIRECT`.
pub fn write_all(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    // The device reads from memory that begins at a multiple of its block.
    let mut room = vec![0u8; PIECE.min(bytes.len().next_multiple_of(BLOCK)) + BLOCK];
    let front = room.as_ptr().align_offset(BLOCK);
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|r| !r.is_empty()) {
        let len = rest.len().min(PIECE);
        let padded = len.next_multiple_of(BLOCK);
        let Some(piece) = room.get_mut(front..front.saturating_add(padded)) else { return buffered(file, rest) };
        let (data, padding) = piece.split_at_mut(len);
        data.copy_from_slice(&rest[..len]);
        padding.fill(0);
        match file.write(piece) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done = (done + n).min(bytes.len()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // Not on this file system, not with this alignment, or after a write that was cut short (the disk may be full).
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => return buffered(file, rest),
            Err(e) => return Err(e),
        }
    }
    // The last block was filled up.
    if !bytes.len().is_multiple_of(BLOCK) { file.set_len(bytes.len() as u64) } else { Ok(()) }
}

/// Writes the rest through the page cache.
fn buffered(file: &mut File, rest: &[u8]) -> io::Result<()> {
    fs::fcntl_setfl(&*file, fs::fcntl_getfl(&*file)? - OFlags::DIRECT)?;
    file.write_all(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::OpenOptionsExt;

    fn opened(path: &std::path::Path) -> File {
        let direct = OFlags::DIRECT.bits() as i32;
        let open = |flags| std::fs::OpenOptions::new().write(true).create(true).truncate(true).custom_flags(flags).open(path);
        open(direct).or_else(|_| open(0)).unwrap()
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 4096) as u8).collect()
    }

    #[test]
    fn any_length_is_written_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        for len in [1, 4095, 4096, 4097, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 12_345] {
            let (path, bytes) = (dir.path().join(len.to_string()), bytes(len));
            write_all(&mut opened(&path), &bytes).unwrap();
            assert!(std::fs::read(&path).unwrap() == bytes, "{len}");
        }
    }

    #[test]
    fn a_file_at_an_odd_place_is_written_the_ordinary_way() {
        let dir = tempfile::tempdir().unwrap();
        let (path, bytes) = (dir.path().join("odd"), bytes(3 << 20));
        let mut file = opened(&path);
        // As after a write that was cut short: the place in the file is not a multiple of anything.
        file.set_len(0).unwrap();
        std::io::Seek::seek(&mut file, io::SeekFrom::Start(3)).unwrap();
        write_all(&mut file, &bytes).unwrap();
        assert!(std::fs::read(&path).unwrap()[3..] == bytes[..]);
    }
}
