//! The stack of a start that takes too long, as Python's `faulthandler` writes it, made into the lines of a traceback.
//! All of it comes from the agent and is believed in nothing: source lines are read from the agent's own files and from
//! nowhere else.

use hoistway_model::image::{APP_DIR, SITE_DIR};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// The number of frames that are shown, the innermost ones.
const MAX_FRAMES: usize = 20;
/// The part of a file that is read for the line of a frame.
const MAX_SOURCE: u64 = 1 << 20;
/// The longest source line that is shown, in characters.
const MAX_LINE: usize = 200;

/// A directory of the agent's files: what it is called in the agent, in the image, and where it is here.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub seen: PathBuf,
    pub named: &'static str,
    pub here: PathBuf,
}

/// The directories of an agent's source and packages.
pub(super) fn places(seen: (&Path, &[PathBuf]), here: (&Path, &[PathBuf])) -> Vec<Place> {
    let place = |seen: &Path, named, here: &Path| Place { seen: seen.to_owned(), named, here: here.to_owned() };
    let sites = seen.1.iter().zip(here.1).map(|(seen, here)| place(seen, SITE_DIR, here));
    [place(seen.0, APP_DIR, here.0)].into_iter().chain(sites).collect()
}

/// The frames of the agent's code in a written stack, outermost first, as a traceback shows them; empty if there are
/// none. Blocks.
pub(super) fn traceback(written: &str, places: &[Place]) -> Vec<String> {
    let threads = threads(written);
    // The thread that imports comes last. Where it waits for another one, as for an event loop, that one has the cause.
    let mut own = threads.iter().rev().filter_map(|frames| own_frames(frames, places));
    let Some(mut frames) = own.next() else { return Vec::new() };
    if frames.len() > MAX_FRAMES {
        // The innermost ones, and where it began.
        frames.drain(MAX_FRAMES - 1..frames.len() - 1);
    }
    frames.into_iter().rev().flat_map(|frame| frame.lines(places)).collect()
}

/// The frames of each thread, innermost first.
fn threads(written: &str) -> Vec<Vec<Frame>> {
    let mut threads = vec![Vec::new()];
    for line in written.lines() {
        match (Frame::parse(line), threads.last_mut()) {
            (Some(frame), Some(frames)) => frames.push(frame),
            _ => threads.push(Vec::new()),
        }
    }
    threads
}

/// The frames from the outermost one of the agent's code on, without those of Python's importing; none if there is no
/// such frame. What called the agent's code is the platform's.
fn own_frames<'a>(frames: &'a [Frame], places: &[Place]) -> Option<Vec<&'a Frame>> {
    let outermost = frames.iter().rposition(|frame| frame.within(places).is_some())?;
    Some(frames[..=outermost].iter().filter(|frame| !frame.is_import()).collect())
}

#[derive(Debug, PartialEq, Eq)]
struct Frame {
    file: String,
    line: usize,
    function: String,
}

impl Frame {
    /// `File "PATH", line N in FUNCTION`
    fn parse(line: &str) -> Option<Self> {
        let (file, rest) = line.trim_start().strip_prefix("File \"")?.rsplit_once("\", line ")?;
        let (line, function) = rest.split_once(" in ")?;
        Some(Self { file: unescaped(file), line: line.parse().ok()?, function: unescaped(function) })
    }

    /// Whether it is Python's own importing.
    fn is_import(&self) -> bool {
        self.file.starts_with("<frozen importlib") || self.file.ends_with("/importlib/__init__.py")
    }

    /// The directory of the agent that its file is in, and the rest of the path.
    fn within<'p>(&self, places: &'p [Place]) -> Option<(&'p Place, PathBuf)> {
        places.iter().find_map(|place| {
            let rest = Path::new(&self.file).strip_prefix(&place.seen).ok()?;
            Some((place, rest.to_owned()))
        })
    }

    fn lines(&self, places: &[Place]) -> Vec<String> {
        let Self { file, line, function } = self;
        let Some((place, rest)) = self.within(places) else {
            return vec![format!("  File \"{file}\", line {line}, in {function}")];
        };
        let mut lines = vec![format!("  File \"{}/{}\", line {line}, in {function}", place.named, rest.display())];
        lines.extend(source_line(place, &rest, *line).map(|text| format!("    {text}")));
        lines
    }
}

/// A text as it was before `faulthandler` wrote everything but ASCII as `\xNN`, `\uNNNN` or `\UNNNNNNNN`.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = match part.as_bytes().first() {
            Some(b'x') => 2,
            Some(b'u') => 4,
            Some(b'U') => 8,
            _ => 0,
        };
        let code = part.get(1..=digits).filter(|_| digits > 0).and_then(|code| u32::from_str_radix(code, 16).ok());
        match code.and_then(char::from_u32).filter(|c| !c.is_control()) {
            Some(letter) => out.extend([letter.to_string().as_str(), &part[digits + 1..]]),
            None => out.extend(["\\", part]),
        }
    }
    out
}

/// A line of a file of the agent's; a link leads nowhere out of its directory.
fn source_line(place: &Place, path: &Path, line: usize) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let dir = openat(CWD, &place.here, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let file = openat2(dir, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS).ok()?;
    let file = File::from(file);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let lines = BufReader::new(file.take(MAX_SOURCE)).split(b'\n');
    let text = lines.map_while(Result::ok).nth(line.checked_sub(1)?)?;
    let text: String = String::from_utf8_lossy(&text).trim().chars().take(MAX_LINE).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn stage() -> (tempfile::TempDir, Vec<Place>) {
        let dir = tempfile::tempdir().unwrap();
        let (app, site) = (dir.path().join("layer"), dir.path().join("site"));
        std::fs::create_dir_all(&app).unwrap();
        std::fs::create_dir_all(&site).unwrap();
        std::fs::write(app.join("agent.py"), "import slow\n\nslow.load()\n").unwrap();
        std::fs::write(site.join("slow.py"), "def load():\n    while True: pass\n").unwrap();
        let places = places((Path::new("/app"), &["/site/0".into()]), (&app, &[site]));
        (dir, places)
    }

    #[test]
    fn a_stack_reads_like_a_traceback_without_the_platforms_frames() {
        let (_dir, places) = stage();
        let written = "Stack (most recent call first):\n  File \"/usr/lib/python3.11/threading.py\", line 5 in wait\n  \
                       File \"/site/0/slow.py\", line 2 in load\n  File \"/app/agent.py\", line 3 in <module>\n  \
                       File \"<frozen importlib._bootstrap>\", line 241 in _call\n  \
                       File \"/opt/hoistway/runner/_hoistway_runner/loading.py\", line 30 in load_agent\n";
        let lines = [
            "  File \"/app/agent.py\", line 3, in <module>",
            "    slow.load()",
            "  File \"/opt/hoistway/site-packages/slow.py\", line 2, in load",
            "    while True: pass",
            "  File \"/usr/lib/python3.11/threading.py\", line 5, in wait",
        ];
        assert_eq!(traceback(written, &places), lines);
        let platform = "Stack:\n  File \"/opt/hoistway/runner/_hoistway_runner/web.py\", line 30 in begin\n";
        assert!(traceback(platform, &places).is_empty() && traceback("", &places).is_empty());
    }

    #[test]
    fn a_deep_stack_keeps_its_innermost_frames_and_where_it_began() {
        let (_dir, places) = stage();
        let frame = |n: usize| {
            format!(
                "  File \"/site/0/slow.py\", line 1 in f{n}\n  File \"<frozen importlib._bootstrap>\", line 9 in _call\n"
            )
        };
        let written: String =
            (0..40).map(frame).chain(["  File \"/app/agent.py\", line 3 in <module>\n".to_owned()]).collect();
        let lines = traceback(&written, &places);
        assert_eq!(lines[..2], ["  File \"/app/agent.py\", line 3, in <module>", "    slow.load()"]);
        assert_eq!(lines.len(), 2 * MAX_FRAMES);
        assert!(lines[lines.len() - 2].ends_with("in f0"), "{lines:?}");
    }

    #[test]
    fn another_thread_is_shown_where_the_importing_one_has_no_code_of_the_agents() {
        let (_dir, places) = stage();
        let platform = "  File \"/opt/hoistway/runner/_hoistway_runner/web.py\", line 30 in begin\n";
        let other = "Thread 0x1 (most recent call first):\n  File \"/app/agent.py\", line 3 in start\n\n";
        let written = format!("{other}Current thread 0x2 (most recent call first):\n{platform}");
        assert_eq!(traceback(&written, &places), ["  File \"/app/agent.py\", line 3, in start", "    slow.load()"]);
        let importing = "Current thread 0x2 (most recent call first):\n  File \"/app/agent.py\", line 1 in <module>\n";
        let lines = traceback(&format!("{other}{importing}{platform}"), &places);
        assert_eq!(lines, ["  File \"/app/agent.py\", line 1, in <module>", "    import slow"]);
    }

    #[test]
    fn names_beyond_ascii_are_readable() {
        let frame = Frame::parse(r#"File "/app/\u0438\u043c\u044f.py", line 1 in caf\xe9\U0001f600"#).unwrap();
        assert_eq!((frame.file.as_str(), frame.function.as_str()), ("/app/имя.py", "café😀"));
        for text in [r"a\b", r"\x1b[0m", r"\u12", r"\", r"\xзz"] {
            assert_eq!(unescaped(text), text);
        }
    }

    #[test]
    fn no_line_comes_from_a_file_that_is_not_the_agents() {
        let (dir, places) = stage();
        std::fs::write(dir.path().join("secret"), "the secret\n").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), dir.path().join("layer/link.py")).unwrap();
        for file in ["/app/link.py", "/app/../secret", "/app//../secret", "/app/.", "/app/none.py"] {
            let written = format!("File \"{file}\", line 1 in f\nFile \"/app/agent.py\", line 9 in <module>");
            let lines = traceback(&written, &places);
            assert_eq!(lines.len(), 2, "{lines:?}");
        }
    }

    #[test]
    fn malformed_text_has_no_frames() {
        for line in ["File \"", "File \"x\", line y in z", "File \"x\", line 1", "Current thread", "{}"] {
            assert_eq!(Frame::parse(line), None, "{line}");
        }
        let odd = Frame { file: "a\", line 1 in \"b".into(), line: 7, function: "f in g".into() };
        assert_eq!(Frame::parse("  File \"a\", line 1 in \"b\", line 7 in f in g"), Some(odd));
    }
}
