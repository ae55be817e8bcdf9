//! Reading from a pipe that may stay silent for hours (a dump that waits for a lock, standard input) without becoming deaf to the wish
//! to stop.

use crate::env::Stop;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, Read};

/// How often the wish to stop is looked at, in nanoseconds.
const STEP: i64 = 200_000_000;

/// A pipe, terminal or file that is read as it comes. A read fails once somebody asked to stop.
#[derive(Debug)]
pub struct Patient {
    file: File,
    stop: Stop,
}

impl Patient {
    /// Over an open file; unbuffered, so that what is ready is what the system says is ready.
    pub fn new(file: File, stop: Stop) -> Patient {
        Patient { file, stop }
    }
}

impl Read for Patient {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.stop.requested() {
                return Err(io::Error::other("stopped"));
            }
            let mut fds = [PollFd::new(&self.file, PollFlags::IN)];
            match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: STEP })) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                // Ready, at its end, or broken: the read will tell.
                Ok(_) => return self.file.read(buf),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::{Duration, Instant};

    #[test]
    fn a_silent_pipe_does_not_keep_anybody_from_stopping() {
        let (reader, mut writer) = io::pipe().unwrap();
        let stop = Stop::default();
        let mut patient = Patient::new(File::from(std::os::fd::OwnedFd::from(reader)), stop.clone());
        writer.write_all(b"ab").unwrap();
        let mut buf = [0; 8];
        assert_eq!(patient.read(&mut buf).unwrap(), 2);
        let asked = Instant::now();
        std::thread::scope(|s| {
            s.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                stop.request();
            });
            assert!(patient.read(&mut buf).is_err());
        });
        assert!(asked.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn the_end_of_a_pipe_is_the_end() {
        let (reader, writer) = io::pipe().unwrap();
        drop(writer);
        let mut patient = Patient::new(File::from(std::os::fd::OwnedFd::from(reader)), Stop::default());
        assert_eq!(patient.read(&mut [0; 8]).unwrap(), 0);
    }
}
