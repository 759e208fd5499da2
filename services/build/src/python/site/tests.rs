#![allow(clippy::unwrap_used)]
use super::*;
use crate::layer::{Layer, LayerBuilder};
use std::process::Command;

const LIMIT: Duration = Duration::from_secs(120);

fn write(root: &Path, name: &str, text: &str) {
    fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
    fs::write(root.join(name), text).unwrap();
}

/// A package as an installer leaves it.
fn install(root: &Path, name: &str, files: &[(&str, &str)], noise: &str) {
    let dist_info = format!("{name}-1.0.dist-info");
    let mut record = String::new();
    let notes = [("METADATA", "Name: x"), ("INSTALLER", noise), ("REQUESTED", ""), ("direct_url.json", noise)];
    let notes = notes.map(|(note, text)| (format!("{dist_info}/{note}"), text));
    for (path, text) in files.iter().map(|(p, t)| (p.to_string(), *t)).chain(notes) {
        write(root, &path, text);
        let shown = if path.contains(',') { format!("\"{path}\"") } else { path };
        record += &format!("{shown},sha256={},{}\n", hoistway_model::Digest::of(text.as_bytes()).hex(), text.len());
    }
    record += &format!("{dist_info}/RECORD,,\npkg/__pycache__/old.pyc,,\n../../outside,,\n");
    write(root, &format!("{dist_info}/RECORD"), &record);
    write(root, "pkg/__pycache__/old.pyc", noise);
}

const FILES: [(&str, &str); 8] = [
    ("pkg/__init__.py", "import sys\nSET = 1 in {'a', 2}\n"),
    ("pkg/broken.py", "print 'two'\n"),
    ("pkg/a, b.txt", "x"),
    ("single.py", "def f(a, *, b=(1, 2.5, 'c')):\n    'text with spaces'\n    return [a, b, a[1:2], name_of_it]\n"),
    ("single.pth", "import os\n"),
    ("bin/tool", "#!/machine/bin/python3\nsecret-path\n"),
    ("bin/prog", "\u{7f}ELF"),
    ("pkg-1.0.dist-info/entry_points.txt", "[console_scripts]\ntool = single:main\nother = a b:c\n[x]\ny = z:w\n"),
];

async fn layer(root: &Path, name: &str, python: &Interpreter, among: &[&str]) -> Layer {
    let stock = take_stock(root).unwrap();
    let out = tempfile::tempdir().unwrap();
    let list: Vec<_> = among.iter().map(|name| (&stock.packages[*name], out.path().join(name))).collect();
    compile(&list, python, LIMIT).await.unwrap();
    let mut layer = LayerBuilder::new();
    for file in &stock.packages[name].files {
        layer.disk_file(&format!("{SITE_DIR}/{file}"), root.join(file)).unwrap();
    }
    layer.tree(SITE_DIR, &out.path().join(name)).unwrap();
    layer.to_bytes().unwrap().0
}

#[tokio::test]
async fn a_package_is_the_same_whoever_installed_it_and_beside_what() {
    let python = Interpreter::probe(None, "HOISTWAY_PYTHON").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (alone, beside) = (dir.path().join("alone"), dir.path().join("beside"));
    install(&alone, "pkg", &FILES, "uv");
    let others = [("z/one.py", "name_of_it = 'text with spaces'\nx = (1, 2.5, 'c')\n"), ("z/two.py", "y = {'a', 2}\n")];
    install(&beside, "A_z", &others, "pip");
    install(&beside, "pkg", &FILES, "pip");
    let first = layer(&alone, "pkg", &python, &["pkg"]).await;
    assert_eq!(first, layer(&beside, "pkg", &python, &["a-z", "pkg"]).await);

    let listed = dir.path().join("listed");
    install(&listed, "pkg", &FILES, "uv");
    let stock = take_stock(&listed).unwrap();
    let files = &stock.packages["pkg"].files;
    for kept in ["bin/prog", "bin/tool", "pkg/a, b.txt", "pkg/__init__.py", "pkg-1.0.dist-info/METADATA", "single.pth"]
    {
        assert!(files.iter().any(|f| f == kept), "{kept}: {files:?}");
    }
    let gone = |f: &String| {
        f.contains("INSTALLER") || f.contains("direct_url") || f.contains("__pycache__") || f.contains("outside")
    };
    assert!(!files.iter().any(gone), "{files:?}");
    let record = fs::read_to_string(listed.join("pkg-1.0.dist-info/RECORD")).unwrap();
    assert!(
        record.contains("\"pkg/a, b.txt\",") && !record.contains("bin/") && !record.contains("INSTALLER"),
        "{record}"
    );
}

#[tokio::test]
async fn bytecode_is_used_unchecked_and_what_does_not_compile_hides_what_is_below() {
    let python = Interpreter::probe(None, "HOISTWAY_PYTHON").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("site");
    install(&root, "pkg", &FILES, "uv");
    let stock = take_stock(&root).unwrap();
    compile(&[(&stock.packages["pkg"], root.clone())], &python, LIMIT).await.unwrap();
    // A changed source is not looked at: the bytecode alone decides. But where that is empty the source is read.
    write(&root, "single.py", "raise SystemExit('source was read')");
    write(&root, "pkg/broken.py", "FINE = 3");
    let script = "import sys; sys.path.insert(0, sys.argv[1]); import single, pkg; from pkg import broken; \
                  single.name_of_it = 7; print(single.f('abc'), pkg.SET, broken.FINE)";
    let run = Command::new(&python.executable).args(["-I", "-B", "-c", script]).arg(&root).output().unwrap();
    let want = "['abc', (1, 2.5, 'c'), 'b', 7] False 3\n";
    assert_eq!(String::from_utf8_lossy(&run.stdout), want, "{run:?}");
    let compiled = fs::read_dir(root.join("pkg/__pycache__")).unwrap().flatten().map(|e| fs::read(e.path()).unwrap());
    let name = format!("{SITE_DIR}/pkg/__init__.py");
    let named = |bytes: Vec<u8>| bytes.windows(name.len()).any(|w| w == name.as_bytes());
    assert!(compiled.into_iter().any(named), "tracebacks name the file in the image");
}

#[test]
fn a_command_finds_its_package_wherever_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        ("single.py", "def main():\n    import helper\n    print(helper.TEXT)\n"),
        ("helper.py", "TEXT = 'found'\n"),
        ("bin/tool", "#!/machine/bin/python3\n"),
        ("bin/old", "#!python\n"),
        ("pkg-1.0.dist-info/entry_points.txt", "[console_scripts]\ntool=single:main [extra]\n"),
    ];
    install(dir.path(), "pkg", &files, "uv");
    let stock = take_stock(dir.path()).unwrap();
    assert!(!stock.packages["pkg"].files.iter().any(|f| f == "bin/old"), "it names this machine's interpreter");
    let run = Command::new("python3").arg("-I").arg(dir.path().join("bin/tool")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&run.stdout), "found\n", "{run:?}");
}

#[test]
fn packages_with_the_same_file_clash_only_when_it_differs() {
    let dir = tempfile::tempdir().unwrap();
    install(dir.path(), "one", &[("space/__init__.py", ""), ("tests/__init__.py", "1"), ("one.py", "")], "uv");
    install(dir.path(), "two", &[("space/__init__.py", ""), ("tests/__init__.py", "2"), ("two.py", "")], "uv");
    let stock = take_stock(dir.path()).unwrap();
    assert_eq!(stock.clashes, [("one".to_owned(), "two".to_owned(), "tests/__init__.py".to_owned())]);
    assert_eq!(clashing(&stock), BTreeSet::from(["one".to_owned(), "two".to_owned()]));
}

#[test]
fn a_list_that_cannot_be_read_is_the_packages_fault() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "x-1.dist-info/METADATA", "");
    assert_eq!(take_stock(dir.path()).unwrap_err().code, Code::RequirementFailed);
    write(dir.path(), "x-1.dist-info/RECORD", "x.py,,\n");
    let e = take_stock(dir.path()).unwrap_err();
    assert!(e.message.contains("x lacks its file x.py"), "{e}");
}
