#![allow(clippy::unwrap_used)]
use super::*;
use crate::{
    layer::{Layer, LayerBuilder},
    python::{Interpreter, Sandbox},
};
use hoistway_model::image::SITE_DIR;
use std::{process::Command, time::Duration};

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
        let checksum = URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()));
        record += &format!("{shown},sha256={checksum},{}\n", text.len());
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

fn taken(root: &Path, name: &str) -> Installed {
    take_stock(root, name).unwrap().unwrap()
}

/// The layer of the first of the packages, compiled together with the others.
async fn layer(packages: &[&Installed], python: &Interpreter) -> Layer {
    let out = tempfile::tempdir().unwrap();
    let mut layer = LayerBuilder::new();
    for package in packages.iter().rev() {
        let out = out.path().join(&package.name);
        fs::create_dir(&out).unwrap();
        let bytecode = compile(package, &out, python, &Sandbox::default(), 1, LIMIT).await.unwrap();
        if package.name == packages[0].name {
            bytecode.add_to(&mut layer, SITE_DIR).unwrap();
        }
    }
    let package = packages[0];
    package.add_to(&mut layer, SITE_DIR).unwrap();
    layer.to_bytes().unwrap().0
}

/// Compiles a package, and puts its bytecode where Python looks for it.
async fn compiled(root: &Path, python: &Interpreter) {
    let out = tempfile::tempdir().unwrap();
    let bytecode = compile(&taken(root, "pkg"), out.path(), python, &Sandbox::default(), 1, LIMIT).await.unwrap();
    for (file, part) in bytecode.files() {
        let mut content = Vec::new();
        part.open().unwrap().read_to_end(&mut content).unwrap();
        fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
        fs::write(root.join(file), content).unwrap();
    }
}

#[tokio::test]
async fn a_package_is_the_same_whoever_installed_it_and_beside_what() {
    let python = Interpreter::probe(None, "HOISTWAY_PYTHON").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let [alone, other, again] = ["alone", "other", "again"].map(|name| dir.path().join(name));
    install(&alone, "pkg", &FILES, "uv");
    let others = [("z/one.py", "name_of_it = 'text with spaces'\nx = (1, 2.5, 'c')\n"), ("z/two.py", "y = {'a', 2}\n")];
    install(&other, "A_z", &others, "pip");
    install(&again, "pkg", &FILES, "pip");
    let first = layer(&[&taken(&alone, "pkg")], &python).await;
    assert_eq!(first, layer(&[&taken(&again, "pkg"), &taken(&other, "a-z")], &python).await);
    // A wheel has no commands yet, and its list may be in another order.
    let wheel = dir.path().join("wheel");
    let its_own: Vec<_> = FILES.into_iter().filter(|(path, _)| *path != "bin/tool").rev().collect();
    install(&wheel, "pkg", &its_own, "");
    assert_eq!(first, layer(&[&taken(&wheel, "pkg")], &python).await);

    let listed = dir.path().join("listed");
    install(&listed, "pkg", &FILES, "uv");
    let Installed { files, written, .. } = &taken(&listed, "pkg");
    for kept in ["bin/prog", "bin/tool", "pkg/a, b.txt", "pkg/__init__.py", "pkg-1.0.dist-info/METADATA", "single.pth"]
    {
        assert!(files.contains_key(kept), "{kept}: {files:?}");
    }
    let gone = |f: &String| {
        f.contains("INSTALLER") || f.contains("direct_url") || f.contains("__pycache__") || f.contains("outside")
    };
    assert!(!files.keys().any(gone), "{files:?}");
    let record = String::from_utf8_lossy(&written["pkg-1.0.dist-info/RECORD"]);
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
    compiled(&root, &python).await;
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
    let package = taken(dir.path(), "pkg");
    assert!(!package.files.contains_key("bin/old"), "it names this machine's interpreter");
    fs::write(dir.path().join("bin/tool"), &package.written["bin/tool"]).unwrap();
    let run = Command::new("python3").arg("-I").arg(dir.path().join("bin/tool")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&run.stdout), "found\n", "{run:?}");
}

#[test]
fn packages_with_the_same_file_clash_only_when_it_differs() {
    let dir = tempfile::tempdir().unwrap();
    let package = |name: &str, text: &str| {
        let own = format!("{name}.py");
        let files = [("space/__init__.py", ""), ("tests/__init__.py", text), (own.as_str(), text)];
        install(&dir.path().join(name), name, &files, "uv");
        taken(&dir.path().join(name), name)
    };
    let (one, two, three) = (package("one", "1"), package("two", "2"), package("three", "2"));
    let lists = [one.file_list(), two.file_list(), three.file_list()];
    assert_eq!(clashes([("one", &lists[0]), ("two", &lists[1])].into_iter()), [("one", "two", "tests/__init__.py")]);
    assert_eq!(clashes([("two", &lists[1]), ("three", &lists[2])].into_iter()), []);
}

#[test]
fn links_that_an_installer_was_made_to_leave_lead_nowhere() {
    let outside = tempfile::tempdir().unwrap();
    for (link, to) in [("pkg-1.0.dist-info/RECORD", "RECORD"), ("pkg-1.0.dist-info", ""), ("pkg/__init__.py", "x.py")] {
        let dir = tempfile::tempdir().unwrap();
        install(dir.path(), "pkg", &[("pkg/__init__.py", "A = 1\n")], "uv");
        let whole = ["RECORD", "x.py"].map(|name| (name, outside.path().join(name)));
        for (name, path) in &whole {
            let own = if *name == "RECORD" { "pkg-1.0.dist-info/RECORD" } else { "pkg/__init__.py" };
            fs::copy(dir.path().join(own), path).unwrap();
        }
        let before = whole.each_ref().map(|(_, path)| fs::read(path).unwrap());
        let at = dir.path().join(link);
        if at.is_dir() {
            fs::remove_dir_all(&at).unwrap()
        } else {
            fs::remove_file(&at).unwrap()
        }
        std::os::unix::fs::symlink(outside.path().join(to), &at).unwrap();
        let e = take_stock(dir.path(), "pkg").unwrap_err();
        assert_eq!(e.code, Code::RequirementFailed, "{link}");
        assert_eq!(whole.each_ref().map(|(_, path)| fs::read(path).unwrap()), before, "{link}");
    }
}

#[test]
fn a_wheel_whose_files_are_not_those_of_its_record_is_refused() {
    for (case, damage, want) in [
        ("changed", "pkg/__init__.py", "the wheel of pkg has another file pkg/__init__.py than its RECORD says"),
        ("unlisted", "six.py", "the wheel of pkg has the file six.py and no checksum of it in its RECORD"),
        ("metadata", "six-1.17.0.dist-info/RECORD", "the wheel of pkg has the metadata of other packages"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        install(dir.path(), "pkg", &[("pkg/__init__.py", "A = 1\n")], "uv");
        write(dir.path(), damage, "A = 2\n");
        let e = take_stock(dir.path(), "pkg").unwrap_err();
        assert_eq!(e.code, Code::RequirementFailed);
        assert!(e.message.starts_with(want), "{case}: {e}");
    }
    let dir = tempfile::tempdir().unwrap();
    install(dir.path(), "pkg", &[("pkg/__init__.py", "A = 1\n")], "uv");
    assert!(take_stock(dir.path(), "other").unwrap_err().message.contains("metadata of other packages"));
    fs::remove_file(dir.path().join("pkg/__init__.py")).unwrap();
    assert!(take_stock(dir.path(), "pkg").unwrap_err().message.contains("pkg lacks its file pkg/__init__.py"));
}

#[test]
fn a_list_that_cannot_be_read_is_the_packages_fault() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(take_stock(dir.path(), "x").unwrap(), None);
    write(dir.path(), "x-1.dist-info/METADATA", "");
    assert_eq!(take_stock(dir.path(), "x").unwrap_err().code, Code::RequirementFailed);
}

#[test]
fn checksums_are_those_that_wheels_may_have() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    let of = |algorithm| URL_SAFE_NO_PAD.encode(ring::digest::digest(algorithm, b"x"));
    let (short, long) = (of(&ring::digest::SHA256), of(&ring::digest::SHA512));
    for (checksum, want) in [
        (format!("sha256={short}"), true),
        (format!("sha256={short}="), true),
        (format!("sha512={long}"), true),
        (format!("sha256={long}"), false),
        ("md5=nUbI-q".to_owned(), false),
        (String::new(), false),
    ] {
        assert_eq!(has_checksum(&file, &checksum).unwrap(), want, "{checksum}");
    }
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    assert!(!has_checksum(&link, &format!("sha256={short}")).unwrap(), "not a regular file");
}

#[tokio::test]
async fn a_source_that_would_take_gigabytes_to_compile_has_no_bytecode() {
    let python = Interpreter::probe(None, "HOISTWAY_PYTHON").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("site");
    let huge = format!("X = [{}]\n", "[],".repeat(1 << 20));
    install(&root, "pkg", &[("huge.py", &huge), ("small.py", "X = 1\n")], "uv");
    compiled(&root, &python).await;
    let mut sizes: Vec<(String, u64)> = fs::read_dir(root.join("__pycache__"))
        .unwrap()
        .flatten()
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
        .collect();
    sizes.sort();
    assert!(sizes[0].0.starts_with("huge.") && sizes[0].1 == 0, "{sizes:?}");
    assert!(sizes[1].0.starts_with("small.") && sizes[1].1 > 0, "{sizes:?}");
}

#[test]
fn bytecode_that_is_not_that_of_the_sources_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().canonicalize().unwrap();
    let files: Vec<String> = ["pkg/a.py", "b.c.py"].map(str::to_owned).into();
    let record = |content: &str| [&(content.len() as u64).to_le_bytes()[..], content.as_bytes()].concat();
    let whole = [record("one"), record("")].concat();
    fs::write(out.join("0"), &whole).unwrap();
    let read = Bytecode::read(&files, &out, (3, 11)).unwrap();
    let shown: Vec<_> = read.files().iter().map(|(file, part)| (file.as_str(), part.offset, part.size)).collect();
    assert_eq!(shown, [("pkg/__pycache__/a.cpython-311.pyc", 8, 3), ("__pycache__/b.c.cpython-311.pyc", 19, 0)]);
    for damaged in [&whole[..18], &[whole.clone(), record("")].concat(), &[255; 64], &[]] {
        fs::write(out.join("0"), damaged).unwrap();
        assert!(Bytecode::read(&files, &out, (3, 11)).is_err(), "{damaged:?}");
    }
    fs::write(out.join("elsewhere"), &whole).unwrap();
    fs::remove_file(out.join("0")).unwrap();
    std::os::unix::fs::symlink("elsewhere", out.join("0")).unwrap();
    assert!(Bytecode::read(&files, &out, (3, 11)).is_err(), "a link leads anywhere");
}
