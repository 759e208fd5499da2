//! Where a start stands that takes too long: the stack that Python's `faulthandler` writes, made into the lines of a
//! traceback. All of it comes from the agent and is believed in nothing: source lines are read from the agent's own files
//! and from nowhere else.

use hoistway_model::image::{APP_DIR, SITE_DIR};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// How many frames are shown, the innermost ones.
const MAX_FRAMES: usize = 20;
/// How much of a file is read for the line of a frame.
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

/// The frames of the agent's code in a written stack, outermost first, as a traceback shows them; empty if there are none.
/// Blocks.
pub(super) fn traceback(written: &str, places: &[Place]) -> Vec<String> {
    let frames: Vec<Frame> = written.lines().filter_map(Frame::parse).collect();
    // What called the agent's code is the platform's.
    let Some(outermost) = frames.iter().rposition(|frame| frame.within(places).is_some()) else { return Vec::new() };
    let shown = frames.iter().take(outermost + 1).take(MAX_FRAMES).collect::<Vec<_>>();
    shown.into_iter().rev().filter(|frame| !frame.is_import()).flat_map(|frame| frame.lines(places)).collect()
}

#[derive(Debug, PartialEq, Eq)]
struct Frame<'a> {
    file: &'a str,
    line: usize,
    function: &'a str,
}

impl<'a> Frame<'a> {
    /// `File "PATH", line N in FUNCTION`
    fn parse(line: &'a str) -> Option<Self> {
        let (file, rest) = line.trim_start().strip_prefix("File \"")?.rsplit_once("\", line ")?;
        let (line, function) = rest.split_once(" in ")?;
        Some(Self { file, line: line.parse().ok()?, function })
    }

    /// Whether it is Python's own importing.
    fn is_import(&self) -> bool {
        self.file.starts_with("<frozen importlib") || self.file.ends_with("/importlib/__init__.py")
    }

    /// The directory of the agent that its file is in, and the rest of the path.
    fn within<'p>(&self, places: &'p [Place]) -> Option<(&'p Place, PathBuf)> {
        places.iter().find_map(|place| {
            let rest = Path::new(self.file).strip_prefix(&place.seen).ok()?;
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
    fn nonsense_has_no_frames() {
        for line in ["File \"", "File \"x\", line y in z", "File \"x\", line 1", "Current thread", "{}"] {
            assert_eq!(Frame::parse(line), None, "{line}");
        }
        let odd = Frame { file: "a\", line 1 in \"b", line: 7, function: "f in g" };
        assert_eq!(Frame::parse("  File \"a\", line 1 in \"b\", line 7 in f in g"), Some(odd));
    }
}
