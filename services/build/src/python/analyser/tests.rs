#![allow(clippy::unwrap_used)]
use super::*;
use std::collections::BTreeMap;

async fn analyser() -> Analyser {
    Analyser::new(&Interpreter::probe(None, "HOISTWAY_PYTHON").await.unwrap(), Children::default())
}

fn source(files: &[(&str, &str)]) -> SourceFiles {
    let map: BTreeMap<String, String> = files.iter().map(|(n, t)| (n.to_string(), t.to_string())).collect();
    SourceFiles::parse(map).unwrap()
}

async fn imports(text: &str) -> Vec<(String, u32, bool)> {
    let all = analyser().await.analyse(&source(&[("agent.py", text)])).await.unwrap();
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
async fn syntax_errors_name_file_and_line() {
    let files = [
        ("agent.py", "x = 1\n\ndef handler(:\n"),
        ("b.py", "return 1"),
        ("ok.py", "'\\d'"),
        ("readme.txt", "not ( python"),
        ("z.py", "\n\n# -*- coding: no-such-coding -*-\nx = 'a\0b'"),
    ];
    let e = analyser().await.analyse(&source(&files)).await.unwrap_err();
    assert_eq!(e.code, Code::SyntaxError);
    assert_eq!(e.message, "syntax error in agent.py, line 3: invalid syntax (and 2 more files)");
    assert_eq!(e.details[..2], ["  File \"agent.py\", line 3", "    def handler(:"]);
    assert_eq!(e.details[2].find('^'), Some(16));
    assert!(e.details.iter().any(|l| l.contains("File \"z.py\", line 4")), "{:?}", e.details);
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
        if let Err(e) = analyser.analyse(&source(&[("bomb.py", &bomb)])).await {
            assert!(matches!(e.code, Code::SyntaxError | Code::BuildFailed), "{e}");
            assert!(e.message.contains("bomb.py"), "{e}");
        }
        assert_eq!(analyser.analyse(&source(&[("ok.py", "import os")])).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn an_unchanged_file_is_not_parsed_again() {
    let analyser = analyser().await;
    let files = source(&[("a.py", "import x"), ("b.py", "import x")]);
    let first = analyser.analyse(&files).await.unwrap();
    *analyser.0.worker.lock().await = None;
    assert_eq!(analyser.analyse(&files).await.unwrap(), first);
    assert!(analyser.0.worker.lock().await.is_none());
}

#[tokio::test]
async fn a_call_that_is_dropped_does_not_confuse_the_next() {
    let analyser = analyser().await;
    analyser.warm_up().await.unwrap();
    let big = format!("import slow\n{}", "x = [1, 2, 3]\n".repeat(100_000));
    let files = source(&[("big.py", &big)]);
    let dropped = tokio::time::timeout(Duration::from_millis(5), analyser.analyse(&files)).await;
    assert!(dropped.is_err());
    let next = analyser.analyse(&source(&[("next.py", "import next")])).await.unwrap();
    assert_eq!(next[0].imports[0].module, "next");
}

#[test]
fn memory_is_bounded() {
    let mut remembered = Remembered::default();
    for i in 0..=MAX_REMEMBERED {
        remembered.put(Digest::of(&i.to_le_bytes()), Answer::Imports(Arc::new([])));
        assert!(remembered.get(&Digest::of(&0_usize.to_le_bytes())).is_some());
    }
    assert!(remembered.answers.len() <= MAX_REMEMBERED / 2 + 2);
}

#[tokio::test]
async fn a_file_that_takes_too_long_is_given_up_and_the_worker_replaced() {
    let python = Interpreter::probe(None, "HOISTWAY_PYTHON").await.unwrap();
    let slow = Analyser::with_limit(&python, Children::default(), Duration::from_millis(1));
    let big = "x = [1, 2, 3]\n".repeat(100_000);
    let e = slow.analyse(&source(&[("big.py", &big)])).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (Code::BuildFailed, "big.py cannot be analysed: parsing takes too long"));
    assert!(slow.0.worker.lock().await.is_none());
}
