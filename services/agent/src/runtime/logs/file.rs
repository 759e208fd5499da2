//! An agent's log on disk: the current file and the one before it.
//!
//! A record is one line, `MILLISECONDS<tab>STREAM<tab>REVISION<tab>TEXT`: easy for `grep`, and safe to read from the
//! end, since a text holds no line feed.

use super::{LogLine, Stream};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Result, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How much is read at a time, backwards.
const BLOCK: u64 = 64 << 10;

pub(super) struct LogFile {
    dir: PathBuf,
    limit: u64,
    open: Option<(File, u64)>,
}

impl LogFile {
    /// The log in `dir`. Nothing is touched before the first line.
    pub fn new(dir: PathBuf, limit: u64) -> Self {
        Self { dir, limit, open: None }
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    fn current(&self) -> PathBuf {
        self.dir.join("current.log")
    }

    fn previous(&self) -> PathBuf {
        self.dir.join("previous.log")
    }

    /// Writes lines at the end; when the file is full it becomes the previous one.
    pub fn append(&mut self, lines: &[LogLine]) -> Result<()> {
        let mut bytes = Vec::new();
        for line in lines {
            let record = format!("{}\t{}\t{}\t{}\n", line.time_ms, line.stream.letter(), line.revision, line.text);
            let size = self.file()?.1 + bytes.len() as u64;
            if size > 0 && size + record.len() as u64 > self.limit {
                self.write(&mut bytes)?;
                self.open = None;
                fs::rename(self.current(), self.previous())?;
            }
            bytes.extend_from_slice(record.as_bytes());
        }
        self.write(&mut bytes)
    }

    fn write(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (file, size) = self.file()?;
        let result = file.write_all(bytes);
        *size += bytes.len() as u64;
        bytes.clear();
        if result.is_err() {
            // Open again next time, with the size as it really is.
            self.open = None;
        }
        result
    }

    fn file(&mut self) -> Result<&mut (File, u64)> {
        if self.open.is_none() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
            let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(self.current())?;
            let size = file.seek(SeekFrom::End(0))?;
            self.open = Some((file, size));
        }
        self.open.as_mut().ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// The last `count` lines, oldest first.
    pub fn tail(&self, count: usize) -> Result<Vec<LogLine>> {
        let mut lines = tail_of(&self.current(), count)?;
        if lines.len() < count {
            let mut older = tail_of(&self.previous(), count - lines.len())?;
            older.append(&mut lines);
            lines = older;
        }
        Ok(lines)
    }

    /// Deletes both files.
    pub fn delete(&mut self) -> Result<()> {
        self.open = None;
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Reads blocks from the end until they hold `count` lines.
fn tail_of(path: &Path, count: usize) -> Result<Vec<LogLine>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    let mut at = file.seek(SeekFrom::End(0))?;
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    let mut ends = 0;
    // One end more than lines: the one before the first line wanted.
    while at > 0 && ends <= count {
        let size = at.min(BLOCK);
        at -= size;
        file.seek(SeekFrom::Start(at))?;
        let mut block = Vec::new();
        Read::by_ref(&mut file).take(size).read_to_end(&mut block)?;
        ends += block.iter().filter(|&&b| b == b'\n').count();
        blocks.push(block);
    }
    blocks.reverse();
    let bytes = blocks.concat();
    let text = String::from_utf8_lossy(&bytes);
    // A torn record (the first of a block, or one that a full disk cut) does not parse and is left out.
    let mut lines: Vec<LogLine> = text.lines().rev().filter_map(parse).take(count).collect();
    lines.reverse();
    Ok(lines)
}

fn parse(record: &str) -> Option<LogLine> {
    let mut fields = record.splitn(4, '\t');
    let time_ms = fields.next()?.parse().ok()?;
    let letter = fields.next()?;
    let stream = [Stream::Out, Stream::Err, Stream::Platform].into_iter().find(|s| s.letter() == letter)?;
    let revision = fields.next()?.parse().ok()?;
    Some(LogLine { time_ms, stream, revision, text: fields.next()?.to_owned() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hoistway_model::RevisionId;

    fn line(revision: RevisionId, n: usize) -> LogLine {
        LogLine { time_ms: n as i64, stream: Stream::Out, revision, text: format!("line\t{n}") }
    }

    #[test]
    fn two_bounded_files_and_the_end_of_both() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::new(dir.path().join("a"), 1000);
        let revision = RevisionId::mint();
        assert_eq!(log.tail(10).unwrap(), []);
        let lines: Vec<_> = (0..100).map(|n| line(revision, n)).collect();
        lines.chunks(7).for_each(|chunk| log.append(chunk).unwrap());
        for file in [log.current(), log.previous()] {
            assert!((1..=1000).contains(&fs::metadata(file).unwrap().len()));
        }
        assert_eq!(log.tail(3).unwrap(), lines[97..]);
        let all = log.tail(1000).unwrap();
        assert!(all.len() > 15 && all.len() < 45, "{}", all.len());
        assert_eq!(all, lines[100 - all.len()..]);
        // A new writer goes on where the old one was.
        let mut again = LogFile::new(dir.path().join("a"), 1000);
        again.append(&[line(revision, 100)]).unwrap();
        assert_eq!(again.tail(2).unwrap(), [line(revision, 99), line(revision, 100)]);
        again.delete().unwrap();
        again.delete().unwrap();
        assert!(!dir.path().join("a").exists());
    }

    #[test]
    fn a_long_log_is_read_from_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::new(dir.path().into(), 4 << 20);
        let revision = RevisionId::mint();
        let lines: Vec<_> = (0..20_000).map(|n| line(revision, n)).collect();
        log.append(&lines).unwrap();
        for count in [0, 1, 1500, 5000] {
            assert_eq!(log.tail(count).unwrap(), lines[20_000 - count..]);
        }
    }

    #[test]
    fn a_torn_record_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::new(dir.path().into(), 1000);
        let revision = RevisionId::mint();
        log.append(&[line(revision, 1)]).unwrap();
        fs::write(log.current(), [fs::read(log.current()).unwrap().as_slice(), b"17\to\t0198"].concat()).unwrap();
        assert_eq!(log.tail(5).unwrap(), [line(revision, 1)]);
    }
}
