//! The reach of a malicious program in a build.

use crate::{Place, is_root, read};
use hoistway_build::python::sandbox::{FileAccess, Role};
use std::{collections::BTreeMap, path::Path};

const STATUS: &str = "print(open('/proc/self/status').read())";

/// Tries what it should not be able to do, and prints what it could.
const TRY: &str = r#"
import os, socket, sys
data = sys.argv[1]
def attempt(name, what):
    try: what()
    except OSError: return
    print(name)
def write(path):
    with open(path, "w") as file: file.write("x")
attempt("read master.key", lambda: open(data + "/master.key").close())
attempt("read another agent's source", lambda: open(data + "/agent/apps/other/agent.py").close())
attempt("write the cache", lambda: write(data + "/build/cache/uv/planted"))
attempt("write into the service's directory", lambda: write(data + "/build/planted"))
attempt("write what it reads", lambda: write(data + "/build/work/source/planted"))
attempt("write another's output", lambda: write(data + "/build/work/other/planted"))
attempt("read another's sources", lambda: os.listdir(data + "/build/work/other"))
attempt("read /etc/shadow", lambda: open("/etc/shadow").close())
attempt("connect", lambda: socket.socket(socket.AF_INET))
attempt("leave its session", os.setsid)
attempt("leave its group", lambda: os.setpgid(0, 0))
attempt("become root", lambda: os.setuid(0) if os.getuid() else os.chown(data + "/build/work/out", 1, 1))
write(data + "/build/work/out/own")
os.listdir(data + "/build/work/source")
"#;

fn fields(status: &str) -> BTreeMap<&str, &str> {
    status.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim())).collect()
}

fn has_no_privileges(status: &str) {
    let fields = fields(status);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        // An ordinary user has the set of what it could have had; no_new_privs keeps it from that.
        let none = fields[set].chars().all(|c| c == '0') || set == "CapBnd" && !rustix::process::geteuid().is_root();
        assert!(none, "{set} {}", fields[set]);
    }
    assert_eq!(fields["NoNewPrivs"], "1");
}

#[tokio::test]
async fn each_kind_of_program_has_a_user_of_its_own_and_no_privileges() {
    if !is_root() {
        return;
    }
    let place = Place::with(|_| {}).await;
    let mut users = Vec::new();
    for kind in [Role::Installer, Role::Reader] {
        let status = place.run(&place.sandbox, STATUS, kind, &FileAccess::default()).await;
        has_no_privileges(&status);
        let uid = fields(&status)["Uid"].split_whitespace().next().unwrap().to_owned();
        assert_eq!(fields(&status)["Groups"], "", "{kind:?}");
        users.push(uid);
    }
    assert!(users[0] != users[1] && users.iter().all(|uid| uid != "0"), "{users:?}");
}

async fn a_reader_that_was_taken_over_could(own_users: bool) -> String {
    let place = Place::with(|config| config.own_users = own_users).await;
    let (source, out) = (place.make_dir("source", Role::Installer), place.make_dir("out", Role::Reader));
    place.make_dir("other", Role::Reader);
    let access = FileAccess { read: vec![&source], write: vec![&out], ..FileAccess::default() };
    let could = place.run(&place.sandbox, TRY, Role::Reader, &access).await;
    assert!(out.join("own").is_file());
    could
}

#[tokio::test]
async fn a_compiler_that_was_taken_over_reaches_nothing_but_its_own_directory() {
    if is_root() {
        assert_eq!(a_reader_that_was_taken_over_could(true).await, "");
    }
}

#[tokio::test]
async fn without_users_of_their_own_landlock_keeps_programs_apart() {
    if !hoistway_testing::need("landlock", has_landlock(), "this kernel has none") {
        return;
    }
    assert_eq!(a_reader_that_was_taken_over_could(false).await, "");
}

fn has_landlock() -> bool {
    let asked = std::process::Command::new(env!("CARGO_BIN_EXE_hoistway-build")).arg("__confined-landlock").output();
    asked.is_ok_and(|asked| asked.stdout.trim_ascii() != b"0" && asked.status.success())
}

#[tokio::test]
async fn an_installer_writes_its_cache_and_nothing_else() {
    let place = Place::with(|_| {}).await;
    let target = place.make_dir("target", Role::Installer);
    place.make_dir("out", Role::Reader);
    let cache = place.dir.path().join("build/cache/uv");
    let script = "import sys\nfor path in ['cache/uv/x', 'work/target/x', 'work/out/x', '../master.key']:\n    \
        try: open(sys.argv[1] + '/build/' + path, 'w').close(); print(path)\n    except OSError: pass";
    let access = FileAccess { write: vec![&cache, &target], ..FileAccess::default() };
    let wrote = place.run(&place.sandbox, script, Role::Installer, &access).await;
    assert_eq!(wrote, "cache/uv/x\nwork/target/x");
    assert_eq!(read(&place.dir.path().join("master.key")), "secret");
}

/// The control groups that a process says it is in, among those of builds.
fn groups(text: &str) -> Vec<String> {
    let paths = text.lines().filter_map(|line| line.rsplit(':').next());
    paths.filter(|path| path.contains("/build-")).map(str::to_owned).collect()
}

#[tokio::test]
async fn two_builds_have_a_control_group_each_that_goes_with_it() {
    if !is_root() {
        return;
    }
    let place = Place::with(|_| {}).await;
    let script = "print(open('/proc/self/cgroup').read())";
    let (one, other) = (place.sandbox.for_build().await.unwrap(), place.sandbox.for_build().await.unwrap());
    let access = FileAccess::default();
    let (first, second) = tokio::join!(
        place.run(&one, script, Role::Installer, &access),
        place.run(&other, script, Role::Reader, &access),
    );
    let (first, second) = (groups(&first), groups(&second));
    if !hoistway_testing::need("cgroups", !first.is_empty(), "control groups cannot be made here") {
        return;
    }
    assert!(first.iter().all(|group| !second.contains(group)), "{first:?} {second:?}");
    let ends: Vec<&str> = first.iter().filter_map(|path| Some(&path[path.rfind("hoistway-")?..])).collect();
    let there = || ends.iter().any(|end| find(Path::new("/sys/fs/cgroup"), end, 6));
    assert!(there());
    drop((one, other));
    let gone = async {
        while there() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), gone).await.unwrap();
}

/// Whether a path that ends so is within so many levels of a directory.
fn find(dir: &Path, end: &str, levels: usize) -> bool {
    if dir.join(end).is_dir() {
        return true;
    }
    let below = std::fs::read_dir(dir).into_iter().flatten().flatten();
    levels > 0
        && below.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).any(|e| find(&e.path(), end, levels - 1))
}
