//! An agent's log on disk: the current file and the one before it.
//!
//! A record is one line, `MILLISECONDS<tab>STREAM<tab>REVISION<tab>TEXT`: easy for `grep`, and safe to read from the
//! end, since a text holds no line feed.

use super::LogLimits;
use hoistway_model::log::{LogLine, LogQuery, LogStream};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Result, Seek, SeekFrom, Take, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The amount that is read at a time, backwards.
const BLOCK: u64 = 64 << 10;

pub(super) struct LogFile {
    dir: PathBuf,
    /// Of one file.
    bytes: u64,
    /// Of one file.
    lines: u64,
    open: Option<Current>,
}

/// The file that is written to.
struct Current {
    file: File,
    bytes: u64,
    lines: u64,
}

impl LogFile {
    /// The log in `dir`. Nothing is touched before the first line.
    pub fn new(dir: PathBuf, limits: LogLimits) -> Self {
        Self { dir, bytes: (limits.bytes / 2).max(1), lines: (limits.lines / 2).max(1), open: None }
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
        let (max_bytes, max_lines) = (self.bytes, self.lines);
        let (mut bytes, mut count) = (Vec::new(), 0);
        for line in lines {
            let start = bytes.len();
            let revision = line.revision.map(|r| r.to_string()).unwrap_or_default();
            // Writing into a Vec cannot fail.
            let _ = writeln!(bytes, "{}\t{}\t{revision}\t{}", line.time_ms, letter(line.stream), line.text);
            let current = self.file()?;
            let full = current.bytes + bytes.len() as u64 > max_bytes || current.lines + count == max_lines;
            if full && current.lines + count > 0 {
                let record = bytes.split_off(start);
                self.write(&mut bytes, count)?;
                count = 0;
                bytes = record;
                self.open = None;
                fs::rename(self.current(), self.previous())?;
            }
            count += 1;
        }
        self.write(&mut bytes, count)
    }

    fn write(&mut self, bytes: &mut Vec<u8>, lines: u64) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let current = self.file()?;
        let result = current.file.write_all(bytes);
        current.bytes += bytes.len() as u64;
        current.lines += lines;
        bytes.clear();
        if result.is_err() {
            // Open again next time, with the size as it really is.
            self.open = None;
        }
        result
    }

    fn file(&mut self) -> Result<&mut Current> {
        if self.open.is_none() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
            let path = self.current();
            let mut options = OpenOptions::new();
            let mut file = options.create(true).append(true).read(true).mode(0o600).open(path)?;
            let (lines, whole) = count(&mut file)?;
            if !whole {
                // A record that a full disk or a power cut tore must not swallow the next one.
                file.write_all(b"\n")?;
            }
            let bytes = file.seek(SeekFrom::End(0))?;
            self.open = Some(Current { file, bytes, lines });
        }
        self.open.as_mut().ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// The newest lines that `query` wants, oldest first, as many as it says. They are found now and read when they are
    /// asked for; what is written or rotated meanwhile changes nothing.
    pub fn read(&self, query: &LogQuery) -> Result<Cursor> {
        let (mut files, mut missing) = (VecDeque::new(), query.count());
        for path in [self.current(), self.previous()] {
            if missing == 0 {
                break;
            }
            let mut file = match File::open(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                file => file?,
            };
            let end = file.seek(SeekFrom::End(0))?;
            let begin = begin_of(&mut file, end, query, &mut missing)?;
            file.seek(SeekFrom::Start(begin))?;
            files.push_front(BufReader::with_capacity(BLOCK as usize, file.take(end - begin)));
        }
        Ok(Cursor { query: query.clone(), files })
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

/// The number of lines, and whether the last one has its end.
fn count(file: &mut File) -> Result<(u64, bool)> {
    let (mut lines, mut last) = (0, b'\n');
    let mut buffer = vec![0; 64 << 10];
    loop {
        let got = file.read(&mut buffer)?;
        let Some(end) = buffer[..got].last() else { return Ok((lines, last == b'\n')) };
        last = *end;
        lines += buffer[..got].iter().filter(|&&b| b == b'\n').count() as u64;
    }
}

/// Lines that are wanted, oldest first. None is in memory before it is requested.
pub(super) struct Cursor {
    query: LogQuery,
    /// The parts that are left to read, the oldest first.
    files: VecDeque<BufReader<Take<File>>>,
}

impl Cursor {
    /// The next lines, `lines` of them and about so many `bytes` at most; none at the end.
    pub fn next(&mut self, lines: usize, bytes: usize) -> Result<Vec<LogLine>> {
        let (mut found, mut room, mut record) = (Vec::new(), bytes, Vec::new());
        while found.len() < lines && room > 0 {
            let Some(file) = self.files.front_mut() else { break };
            record.clear();
            if file.read_until(b'\n', &mut record)? == 0 {
                self.files.pop_front();
                continue;
            }
            if let Some(line) = wanted(&self.query, record.strip_suffix(b"\n").unwrap_or(&record)) {
                room = room.saturating_sub(line.text.len());
                found.push(line);
            }
        }
        Ok(found)
    }
}

/// The line of a record, if it is wanted. A torn record is none.
fn wanted(query: &LogQuery, record: &[u8]) -> Option<LogLine> {
    parse(&String::from_utf8_lossy(record)).filter(|line| query.wants(line))
}

/// Where the oldest wanted record of a file begins, reading it from its end, block by block, until none is `missing`.
fn begin_of(file: &mut File, end: u64, query: &LogQuery, missing: &mut usize) -> Result<u64> {
    let (mut begin, mut at) = (end, end);
    let mut take = |record: &[u8], place: u64| {
        if wanted(query, record).is_some() {
            begin = place;
            *missing -= 1;
        }
        *missing > 0
    };
    // The beginning of what was read last: the end of a record that begins in the block before.
    let mut rest: Vec<u8> = Vec::new();
    let mut more = true;
    while more && at > 0 {
        let size = at.min(BLOCK);
        at -= size;
        file.seek(SeekFrom::Start(at))?;
        let mut block = Vec::new();
        Read::by_ref(file).take(size).read_to_end(&mut block)?;
        block.append(&mut rest);
        let mut records = block.as_slice();
        while more && let Some(end) = records.iter().rposition(|&b| b == b'\n') {
            more = take(&records[end + 1..], at + end as u64 + 1);
            records = &records[..end];
        }
        let length = records.len();
        block.truncate(length);
        rest = block;
    }
    if more {
        take(&rest, 0);
    }
    Ok(begin)
}

const fn letter(stream: LogStream) -> &'static str {
    match stream {
        LogStream::Stdout => "o",
        LogStream::Stderr => "e",
        LogStream::Platform => "h",
    }
}

fn parse(record: &str) -> Option<LogLine> {
    let mut fields = record.splitn(4, '\t');
    let time_ms = fields.next()?.parse().ok()?;
    let named = fields.next()?;
    let stream = LogStream::ALL.into_iter().find(|s| letter(*s) == named)?;
    let revision = Some(fields.next()?.parse().ok()?);
    Some(LogLine { time_ms, stream, revision, text: fields.next()?.to_owned() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hoistway_model::RevisionId;

    fn line(revision: RevisionId, n: usize) -> LogLine {
        let stream = if n.is_multiple_of(3) { LogStream::Stderr } else { LogStream::Stdout };
        LogLine { time_ms: n as i64, stream, revision: Some(revision), text: format!("line\t{n}") }
    }

    fn limits(bytes: u64) -> LogLimits {
        LogLimits { bytes, ..LogLimits::default() }
    }

    /// All that a query finds, in pieces of a few lines each.
    fn all(log: &LogFile, query: &LogQuery) -> Vec<LogLine> {
        let mut cursor = log.read(query).unwrap();
        let (mut all, mut piece) = (Vec::new(), cursor.next(7, 1000).unwrap());
        while !piece.is_empty() {
            assert!(piece.len() <= 7);
            all.append(&mut piece);
            piece = cursor.next(7, 1000).unwrap();
        }
        all
    }

    fn tail(log: &LogFile, count: u32) -> Vec<LogLine> {
        all(log, &LogQuery::last(count))
    }

    #[test]
    fn two_bounded_files_and_the_end_of_both() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::new(dir.path().join("a"), limits(2000));
        let revision = RevisionId::mint();
        assert_eq!(tail(&log, 10), []);
        let lines: Vec<_> = (0..100).map(|n| line(revision, n)).collect();
        lines.chunks(7).for_each(|chunk| log.append(chunk).unwrap());
        for file in [log.current(), log.previous()] {
            assert!((1..=1000).contains(&fs::metadata(file).unwrap().len()));
        }
        assert_eq!(tail(&log, 3), lines[97..]);
        let kept = tail(&log, 1000);
        assert!(kept.len() > 15 && kept.len() < 45, "{}", kept.len());
        assert_eq!(kept, lines[100 - kept.len()..]);
        // A new writer goes on where the old one was.
        let mut again = LogFile::new(dir.path().join("a"), limits(2000));
        again.append(&[line(revision, 100)]).unwrap();
        assert_eq!(tail(&again, 2), [line(revision, 99), line(revision, 100)]);
        again.delete().unwrap();
        again.delete().unwrap();
        assert!(!dir.path().join("a").exists());
    }

    #[test]
    fn lines_are_bounded_too_over_restarts_of_the_writer() {
        let dir = tempfile::tempdir().unwrap();
        let revision = RevisionId::mint();
        for n in 0..35 {
            let mut log = LogFile::new(dir.path().into(), LogLimits { lines: 20, ..LogLimits::default() });
            log.append(&[line(revision, n)]).unwrap();
        }
        let log = LogFile::new(dir.path().into(), LogLimits::default());
        let expected: Vec<_> = (20..35).map(|n| line(revision, n)).collect();
        assert_eq!(tail(&log, 100), expected);
    }

    #[test]
    fn a_line_larger_than_a_file_is_kept_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::new(dir.path().into(), limits(200));
        let revision = RevisionId::mint();
        let large = LogLine { text: "x".repeat(500), ..line(revision, 1) };
        log.append(&[line(revision, 0), large.clone(), line(revision, 2)]).unwrap();
        assert_eq!(tail(&log, 9), [large, line(revision, 2)]);
    }

    #[test]
    fn a_long_log_is_read_from_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::new(dir.path().into(), limits(8 << 20));
        let revision = RevisionId::mint();
        let lines: Vec<_> = (0..20_000).map(|n| line(revision, n)).collect();
        log.append(&lines).unwrap();
        for count in [0, 1, 1500, 5000] {
            assert_eq!(tail(&log, count as u32), lines[20_000 - count..]);
        }
        let query = |query: LogQuery| all(&log, &query);
        assert_eq!(query(LogQuery { since_ms: Some(19_990), ..LogQuery::default() }), lines[19_990..]);
        let errors = query(LogQuery { stream: Some(LogStream::Stderr), ..LogQuery::last(2) });
        assert_eq!(errors, [line(revision, 19_995), line(revision, 19_998)]);
        assert_eq!(query(LogQuery { revision: Some(RevisionId::mint()), ..LogQuery::default() }), []);
    }

    #[test]
    fn a_log_rotated_or_deleted_during_a_read_is_read_completely() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::new(dir.path().join("a"), limits(2000));
        let revision = RevisionId::mint();
        let lines: Vec<_> = (0..30).map(|n| line(revision, n)).collect();
        log.append(&lines).unwrap();
        let mut cursor = log.read(&LogQuery::last(20)).unwrap();
        let mut found = cursor.next(1, 1000).unwrap();
        (30..200).for_each(|n| log.append(&[line(revision, n)]).unwrap());
        log.delete().unwrap();
        found.extend(cursor.next(100, 1 << 20).unwrap());
        assert_eq!(found, lines[10..]);
    }

    #[test]
    fn a_torn_record_is_left_out_and_swallows_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::new(dir.path().into(), limits(2000));
        let revision = RevisionId::mint();
        log.append(&[line(revision, 1)]).unwrap();
        fs::write(log.current(), [fs::read(log.current()).unwrap().as_slice(), b"17\to\t0198"].concat()).unwrap();
        assert_eq!(tail(&log, 5), [line(revision, 1)]);
        let mut again = LogFile::new(dir.path().into(), limits(2000));
        again.append(&[line(revision, 2)]).unwrap();
        assert_eq!(tail(&again, 5), [line(revision, 1), line(revision, 2)]);
    }
}
