//! The stack of a start that takes too long, as Python's `faulthandler` writes it, made into the lines of a traceback.
//! All of it comes from the agent and is believed in nothing: source lines are read from the agent's own files and from
//! nowhere else.

use hoistway_model::image::{APP_DIR, SITE_DIR};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use std::collections::HashMap;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// The number of frames that are shown, the innermost ones.
const MAX_FRAMES: usize = 20;
/// The part of a file that is read for the lines of its frames, in bytes.
pub(super) const MAX_SOURCE: u64 = 1 << 20;
/// The longest source line that is shown, in characters.
const MAX_LINE: usize = 200;

/// A directory of the agent's files.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The agent's name of it.
    seen: PathBuf,
    /// Its name in the image, which users know.
    named: &'static str,
    /// Where it is on this machine; none if it is in a container only.
    here: Option<PathBuf>,
}

/// The directories of an agent whose files are on this machine: of its source and of its packages.
pub(super) fn places(seen: (&Path, &[PathBuf]), here: (&Path, &[PathBuf])) -> Vec<Place> {
    let place = |seen: &Path, named, here: &Path| Place { seen: seen.to_owned(), named, here: Some(here.to_owned()) };
    let sites = seen.1.iter().zip(here.1).map(|(seen, here)| place(seen, SITE_DIR, here));
    [place(seen.0, APP_DIR, here.0)].into_iter().chain(sites).collect()
}

/// The directories of an agent whose files are in its container.
pub(super) fn places_in_container() -> Vec<Place> {
    [APP_DIR, SITE_DIR].map(|named| Place { seen: named.into(), named, here: None }).into()
}

/// The frames of the agent's code and of what it called, outermost first; none if no code of the agent's runs.
#[derive(Debug, Default)]
pub(super) struct Stack(Vec<(Frame, Option<SourceFile>)>);

/// A file of the agent's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct SourceFile {
    /// Its path in the image.
    pub in_image: PathBuf,
    /// Its directory on this machine, and the path in it.
    here: Option<(PathBuf, PathBuf)>,
}

impl SourceFile {
    /// Reads the beginning of a file on this machine; a link leads nowhere out of its directory. Blocks.
    pub fn read(&self) -> Option<Vec<u8>> {
        let (dir, path) = self.here.as_ref()?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let dir = openat(CWD, dir, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = std::fs::File::from(openat2(dir, path, flags, Mode::empty(), resolve).ok()?);
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut content = Vec::new();
        file.take(MAX_SOURCE).read_to_end(&mut content).ok()?;
        Some(content)
    }
}

impl Stack {
    /// Reads what `faulthandler` wrote.
    pub fn parse(written: &str, places: &[Place]) -> Self {
        let mut threads = threads(written);
        // The thread that imports comes last. Where it waits for another one, as for an event loop, that one has the
        // cause.
        let mut own = threads.drain(..).rev().filter_map(|frames| own_frames(frames, places));
        let Some(mut frames) = own.next() else { return Self::default() };
        if frames.len() > MAX_FRAMES {
            // The innermost ones, and where it began.
            frames.drain(MAX_FRAMES - 1..frames.len() - 1);
        }
        let with_file = |frame: Frame| {
            let file = frame.within(places);
            (frame, file)
        };
        Self(frames.into_iter().rev().map(with_file).collect())
    }

    /// The files whose lines are shown, each once.
    pub fn files(&self) -> Vec<SourceFile> {
        let mut files: Vec<SourceFile> = Vec::new();
        for file in self.0.iter().filter_map(|(_, file)| file.as_ref()) {
            if !files.contains(file) {
                files.push(file.clone());
            }
        }
        files
    }

    /// The lines of a traceback, with the lines of the files whose content is known.
    pub fn traceback(&self, contents: &HashMap<SourceFile, Vec<u8>>) -> Vec<String> {
        let lines = self.0.iter().flat_map(|(frame, file)| {
            let content = file.as_ref().and_then(|file| contents.get(file));
            let source = content.and_then(|content| source_line(content, frame.line));
            let name = file.as_ref().map_or_else(|| frame.file.clone(), |file| file.in_image.display().to_string());
            let place = format!("  File \"{name}\", line {}, in {}", frame.line, frame.function);
            [Some(place), source.map(|text| format!("    {text}"))].into_iter().flatten()
        });
        lines.collect()
    }
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
fn own_frames(mut frames: Vec<Frame>, places: &[Place]) -> Option<Vec<Frame>> {
    let outermost = frames.iter().rposition(|frame| frame.within(places).is_some())?;
    frames.truncate(outermost + 1);
    frames.retain(|frame| !frame.is_import());
    Some(frames)
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

    /// The file of the agent's that it is in, if it is one.
    fn within(&self, places: &[Place]) -> Option<SourceFile> {
        places.iter().find_map(|place| {
            let rest = Path::new(&self.file).strip_prefix(&place.seen).ok()?;
            let is_below = rest.components().all(|component| matches!(component, Component::Normal(_)));
            let in_image = Path::new(place.named).join(rest);
            let here = place.here.clone().map(|dir| (dir, rest.to_owned()));
            is_below.then_some(SourceFile { in_image, here })
        })
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

/// A line of a file, without its indentation.
fn source_line(content: &[u8], line: usize) -> Option<String> {
    let text = content.split(|byte| *byte == b'\n').nth(line.checked_sub(1)?)?;
    let text: String = String::from_utf8_lossy(text).trim().chars().take(MAX_LINE).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn traceback(written: &str, places: &[Place]) -> Vec<String> {
        let stack = Stack::parse(written, places);
        let contents = stack.files().into_iter().filter_map(|file| file.read().map(|content| (file, content)));
        stack.traceback(&contents.collect())
    }

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
