//! Archive entries in the POSIX format. Everything that could differ between two machines is fixed: owner 0, time 0,
//! modes 0644 and 0755; names that the old header cannot hold have an extended one.

use std::io::{self, Read, Write};
use tar::{EntryType, Header};

const BLOCK: usize = 512;

/// Writes the same to both.
pub(super) struct Both<'a>(pub &'a mut dyn Write, pub &'a mut dyn Write);

impl Write for Both<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.1.write_all(&bytes[..written])?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()?;
        self.1.flush()
    }
}

/// A directory.
pub(super) fn directory(out: &mut dyn Write, path: &str) -> io::Result<()> {
    header(out, &format!("{path}/"), EntryType::Directory, 0o755, 0)
}

/// A file of exactly `size` bytes.
pub(super) fn file(
    out: &mut dyn Write,
    path: &str,
    executable: bool,
    size: u64,
    content: &mut dyn Read,
) -> io::Result<()> {
    header(out, path, EntryType::Regular, if executable { 0o755 } else { 0o644 }, size)?;
    let copied = io::copy(&mut content.take(size), out)?;
    if copied != size {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{path} became shorter while it was read")));
    }
    pad(out, size)
}

/// The archive's end.
pub(super) fn end(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

fn pad(out: &mut dyn Write, size: u64) -> io::Result<()> {
    let over = (size % BLOCK as u64) as usize;
    if over > 0 {
        out.write_all(&[0; BLOCK][over..])?;
    }
    Ok(())
}

fn header(out: &mut dyn Write, path: &str, kind: EntryType, mode: u32, size: u64) -> io::Result<()> {
    let mut header = basic(kind, mode, size)?;
    let mut extended = Vec::new();
    if !path.is_ascii() || header.set_path(path).is_err() {
        record(&mut extended, "path", path);
        header.set_path(stand_in(path))?;
    }
    if !extended.is_empty() {
        let mut before = basic(EntryType::XHeader, 0o644, extended.len() as u64)?;
        before.set_path(format!("PaxHeaders/{}", stand_in(path).trim_end_matches('/')))?;
        before.set_cksum();
        out.write_all(before.as_bytes())?;
        out.write_all(&extended)?;
        pad(out, extended.len() as u64)?;
    }
    header.set_cksum();
    out.write_all(header.as_bytes())
}

fn basic(kind: EntryType, mode: u32, size: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_device_major(0)?;
    header.set_device_minor(0)?;
    Ok(header)
}

/// The name for a reader that knows no extended headers: the ASCII end of the name.
fn stand_in(path: &str) -> String {
    let ascii: Vec<char> = path.chars().map(|c| if c.is_ascii() && c != '/' { c } else { '_' }).collect();
    ascii[ascii.len().saturating_sub(80)..].iter().collect()
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(out: &mut Vec<u8>, key: &str, value: &str) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} {key}={value}\n").as_bytes());
}
