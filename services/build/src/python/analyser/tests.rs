#![allow(clippy::unwrap_used)]
use super::{remembered::MAX_REMEMBERED, syntax_errors::ENCODING_REMEDY, *};
use std::collections::BTreeMap;

async fn analyser() -> Analyser {
    Analyser::new(&Interpreter::probe(None, "HOISTWAY_PYTHON").await.unwrap(), Sandbox::default())
}

fn source(files: &[(&str, &str)]) -> SourceFiles {
    let map: BTreeMap<String, String> = files.iter().map(|(n, t)| (n.to_string(), t.to_string())).collect();
    SourceFiles::parse(map).unwrap()
}

async fn imports(text: &str) -> Vec<(String, u32, bool)> {
    let all = analyser().await.analyse(&source(&[("agent.py", text)]), "agent.py").await.unwrap();
    all[0].imports.iter().map(|i| (i.module.clone(), i.line, i.optional)).collect()
}

#[tokio::test]
async fn imports_at_any_level_are_found() {
    let text = "\
import os, a.b as c
from google import genai
from . import own
from .own import x
from everything import *
def f():
    import in_function
    match 1:
        case 1:
            import in_match
try:
    import wanted
except (ValueError, ImportError):
    import fallback
else:
    import after
try:
    import needed
except KeyError:
    pass
if TYPE_CHECKING:
    import for_types
elif x:
    import in_elif
if not typing.TYPE_CHECKING:
    import at_run_time
class C:
    async def g(self):
        async with x:
            from y import z
";
    let want = [
        ("os", 1, false),
        ("a.b", 1, false),
        ("google.genai", 2, false),
        (".own", 3, false),
        (".own.x", 4, false),
        ("everything", 5, false),
        ("in_function", 7, false),
        ("in_match", 10, false),
        ("wanted", 12, true),
        ("fallback", 14, true),
        ("after", 16, false),
        ("needed", 18, false),
        ("in_elif", 24, false),
        ("at_run_time", 26, false),
        ("y.z", 30, false),
    ];
    assert_eq!(imports(text).await, want.map(|(m, l, o)| (m.to_owned(), l, o)).to_vec());
}

#[tokio::test]
async fn an_import_that_may_never_run_here_is_optional() {
    let optional = [
        "with contextlib.suppress(ImportError):\n    import it",
        "with open('x'), suppress(ValueError, ModuleNotFoundError):\n    if x:\n        import it",
        "if sys.platform == 'win32':\n    import it",
        "if not platform.system() == 'Linux':\n    import it",
        "if os.name == 'nt':\n    pass\nelse:\n    import it",
        "if sys.version_info[0] < 3:\n    import it",
        "if importlib.util.find_spec('it'):\n    import it",
        "if False:\n    import it",
        "def handler(message): pass\nif __name__ == '__main__':\n    import it",
        "app = make()\nif __name__ == '__main__':\n    import it",
        "from .lib import *\ndef main(message): pass\nif __name__ == '__main__':\n    import it",
    ];
    let needed = [
        "with open('x'):\n    import it",
        "with suppress(KeyError):\n    import it",
        "if user.name:\n    import it",
        "if platform == 'slack':\n    import it",
        "if True:\n    import it",
        "if __name__ == '__main__':\n    import it",
    ];
    for (texts, want) in [(&optional[..], true), (&needed[..], false)] {
        for text in texts {
            let found = imports(text).await;
            assert!(found.iter().any(|(module, _, optional)| module == "it" && *optional == want), "{text}: {found:?}");
        }
    }
}

#[tokio::test]
async fn syntax_errors_name_file_and_line() {
    let files = [
        ("agent.py", "import lib.a, b, ok, z"),
        ("b.py", "return 1"),
        ("lib/__init__.py", ""),
        ("lib/a.py", "x = 1\n\ndef handler(:\n"),
        ("nobodys.py", "%pip install x"),
        ("ok.py", "'\\d'"),
        ("readme.txt", "not ( python"),
        ("z.py", "\n\n# -*- coding: no-such-coding -*-\nx = 'a\0b'"),
    ];
    let e = analyser().await.analyse(&source(&files), "agent.py").await.unwrap_err();
    assert_eq!(e.code, Code::SyntaxError);
    assert_eq!(e.message, "syntax error in b.py, line 1: 'return' outside function (and 2 more files)");
    let at = e.details.iter().position(|line| line == "  File \"lib/a.py\", line 3").unwrap();
    assert_eq!(e.details[at + 1], "    def handler(:");
    assert_eq!(e.details[at + 2].find('^'), Some(16));
    assert!(e.details.iter().any(|l| l.contains("File \"z.py\", line 4")), "{:?}", e.details);
    assert!(e.details.last().unwrap().starts_with("agents run on Python 3."), "{:?}", e.details);
    for (text, remedy) in [("!pip install x", "notebook"), ("%load_ext x", "notebook"), ("await f()", "async def main")]
    {
        let e = analyser().await.analyse(&source(&[("agent.py", text)]), "agent.py").await.unwrap_err();
        assert!(e.details.iter().any(|line| line.contains(remedy)), "{:?}", e.details);
    }
}

#[tokio::test]
async fn files_that_are_only_mentioned_are_told_apart_and_need_not_compile() {
    let files = [
        (
            "agent.py",
            "import subprocess, sys\nsubprocess.run([sys.executable, 'tools/server.py'])\nimport_module('plug')\nimport both\nimport_module('.one', package='many')\nimport_module('..two', 'many.in')\n\
             if sys.platform == 'x':\n    import fast\n",
        ),
        ("both.py", "PATH = 'both.py', ['-m', 'jobs.nightly']"),
        ("broken.py", "%pip"),
        ("fast.py", "import known\nimport slow"),
        ("slow.py", "%pip"),
        ("jobs/nightly.py", "import known"),
        ("many/__init__.py", ""),
        ("many/one.py", ""),
        ("many/two.py", ""),
        ("plug.py", "'broken.py'"),
        ("tools/helper.py", ""),
        ("tools/server.py", "import tools.helper"),
        ("unused.py", ""),
    ];
    let found = analyser().await.analyse(&source(&files), "agent.py").await.unwrap();
    let want = [
        ("agent.py", true),
        ("both.py", true),
        ("fast.py", false),
        ("jobs/nightly.py", false),
        ("many/__init__.py", false),
        ("many/one.py", false),
        ("many/two.py", false),
        ("plug.py", false),
        ("tools/helper.py", false),
        ("tools/server.py", false),
    ];
    assert_eq!(found.iter().map(|f| (f.file.as_str(), f.reached)).collect::<Vec<_>>(), want);
}

#[tokio::test]
async fn an_entry_that_offers_nothing_is_refused_with_what_was_meant() {
    let analyser = analyser().await;
    let own = BTreeSet::from(["lib".to_owned()]);
    for (text, want) in [
        (
            "def hanlder(m): pass",
            Some("agent.py offers nothing to invoke: it has hanlder (function); did you mean \"handler\"?"),
        ),
        ("", Some("agent.py offers nothing to invoke: it is empty")),
        ("from other import api", Some("agent.py offers nothing to invoke: it has nothing but imports")),
        ("from lib import api", None),
        ("from . import api", None),
        ("def handler(m): pass", None),
        ("...", None),
        ("def broken(:", None),
    ] {
        let judged = analyser.must_offer(&source(&[("agent.py", text)]), "agent.py", &own).await;
        assert_eq!(judged.as_ref().err().map(|e| e.message.as_str()), want, "{text}");
        if let Err(e) = judged {
            assert_eq!(e.code, Code::NothingToInvoke);
            assert!(e.details.last().unwrap().starts_with("define handler(message)"), "{:?}", e.details);
        }
    }
}

#[tokio::test]
async fn bombs_are_errors_and_the_next_file_is_fine() {
    let analyser = analyser().await;
    let bombs = [
        format!("x = {}1", "-".repeat(200_000)),
        format!("x = {}{}", "(".repeat(100_000), ")".repeat(100_000)),
        format!("x = {}1{}", "[".repeat(90), "]".repeat(90)),
        format!("x = {}", vec!["1"; 100_000].join("+")),
        format!("{}pass", (0..120).map(|i| format!("{}if x:\n", " ".repeat(i))).collect::<String>()),
        format!("x{} = 1", ".y".repeat(100_000)),
    ];
    for bomb in bombs {
        if let Err(e) = analyser.analyse(&source(&[("bomb.py", &bomb)]), "bomb.py").await {
            assert!(matches!(e.code, Code::SyntaxError | Code::BuildFailed), "{e}");
            assert!(e.message.contains("bomb.py"), "{e}");
        }
        assert_eq!(analyser.analyse(&source(&[("ok.py", "import os")]), "ok.py").await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn an_unchanged_file_is_not_parsed_again() {
    let analyser = analyser().await;
    let files = source(&[("a.py", "import b"), ("b.py", "import x")]);
    let first = analyser.analyse(&files, "a.py").await.unwrap();
    assert_eq!(first.len(), 2);
    analyser.must_offer(&files, "a.py", &BTreeSet::new()).await.unwrap_err();
    *analyser.shared.worker.lock().await = None;
    assert_eq!(analyser.analyse(&files, "a.py").await.unwrap(), first);
    analyser.must_offer(&files, "a.py", &BTreeSet::new()).await.unwrap_err();
    assert!(analyser.shared.worker.lock().await.is_none());
}

#[tokio::test]
async fn a_call_that_is_dropped_does_not_confuse_the_next() {
    let analyser = analyser().await;
    analyser.warm_up().await.unwrap();
    let big = format!("import slow\n{}", "x = [1, 2, 3]\n".repeat(100_000));
    let files = source(&[("big.py", &big)]);
    let dropped = tokio::time::timeout(Duration::from_millis(5), analyser.analyse(&files, "big.py")).await;
    assert!(dropped.is_err());
    let next = analyser.analyse(&source(&[("next.py", "import next")]), "next.py").await.unwrap();
    assert_eq!(next[0].imports[0].module, "next");
}

#[test]
fn the_analyser_uses_bounded_memory() {
    let mut remembered = Remembered::default();
    for i in 0..=MAX_REMEMBERED {
        remembered.put(Digest::of(&i.to_le_bytes()), Answer::Offers(None));
        assert!(remembered.get(&Digest::of(&0_usize.to_le_bytes())).is_some());
    }
    assert!(remembered.answers.len() <= MAX_REMEMBERED / 2 + 2);
}

#[tokio::test]
async fn a_file_that_takes_too_long_is_given_up_and_the_worker_replaced() {
    let python = Interpreter::probe(None, "HOISTWAY_PYTHON").await.unwrap();
    let slow = Analyser::with_limit(&python, Sandbox::default(), Duration::from_millis(1));
    let big = "x = [1, 2, 3]\n".repeat(100_000);
    let e = slow.analyse(&source(&[("big.py", &big)]), "big.py").await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (Code::BuildFailed, "big.py cannot be analysed: parsing takes too long"));
    assert!(slow.shared.worker.lock().await.is_none());
}

#[tokio::test]
async fn files_are_read_in_the_encoding_that_they_declare() {
    let analyse = async |content: &[u8]| {
        let files = SourceFiles::parse(BTreeMap::from([("agent.py".to_owned(), content)])).unwrap();
        analyser().await.analyse(&files, "agent.py").await
    };
    let declared = analyse(b"# -*- coding: latin-1 -*-\nimport six\nx = 'caf\xe9'\n").await.unwrap();
    assert_eq!(declared[0].imports[0].module, "six");
    for wrong in [&b"x = 'caf\xe9'\n"[..], b"# coding: nonsense\nx = 1\n", b"\xff\xfex\0=\x001\0\n\0"] {
        let e = analyse(wrong).await.unwrap_err();
        assert_eq!(e.code, Code::SyntaxError);
        assert!(e.message.contains("agent.py"), "{e}");
        assert!(e.details.iter().any(|line| line == ENCODING_REMEDY), "{:?}", e.details);
    }
}

/// What is found in a file that is to run with another minor version of Python than the host's.
async fn judged_for(minor_above_host: i32, text: &str) -> Result<Vec<FileImports>> {
    let host = Interpreter::probe(None, "HOISTWAY_PYTHON").await.unwrap();
    let version = format!("3.{}.1", i64::from(host.version.1) + i64::from(minor_above_host));
    let platform = crate::platform::Platform::new("linux", "amd64");
    let libc = Some(crate::python::Libc::Glibc(2, 36));
    let target = Target::of_base(&host, &version, &platform, libc).unwrap();
    let analyser = Analyser::new(&host, Sandbox::default()).for_target(&target);
    analyser.analyse(&source(&[("agent.py", text)]), "agent.py").await
}

#[tokio::test]
async fn a_file_that_only_a_newer_python_may_read_is_no_error() {
    let text = "import os\nx = from the future\n";
    let found = judged_for(1, text).await.unwrap();
    assert_eq!(found[0].unread.as_ref().map(|unread| unread.line), Some(2), "{found:?}");
    let found = judged_for(1, "import os\n").await.unwrap();
    assert_eq!((&found[0].unread, found[0].imports.len()), (&None, 1));
    for (minor, text) in [(0, text), (1, "%pip install x\n"), (1, "x = 'a\0b'\n")] {
        assert_eq!(judged_for(minor, text).await.unwrap_err().code, Code::SyntaxError, "{text}");
    }
}

#[tokio::test]
async fn a_file_that_an_older_python_cannot_read_is_an_error() {
    let host = Interpreter::probe(None, "HOISTWAY_PYTHON").await.unwrap();
    let (text, since) = match host.version.1 {
        10 => return,
        11 => ("try:\n    pass\nexcept* ValueError:\n    pass\n", 11),
        _ => ("type X = int\n", 12),
    };
    assert!(judged_for(0, text).await.is_ok());
    let e = judged_for(since - 1 - host.version.1 as i32, text).await.unwrap_err();
    assert_eq!(e.code, Code::SyntaxError);
    assert!(e.details.iter().any(|line| *line == format!("agents run on Python 3.{}.1", since - 1)), "{e:?}");
}
