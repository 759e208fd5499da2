//! Measurements of a stack: memory, descriptors, files, rows.

use crate::test_installation::{Stack, processes};
use hoistway_model::Digest;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

const MIB: u64 = 1 << 20;

/// Counts the rows of every table of the given databases.
const ROWS: &str = r#"
import sqlite3, sys
for path in sys.argv[1:]:
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60)
    for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall():
        (count,) = db.execute(f'SELECT COUNT(*) FROM "{table}"').fetchone()
        print(path.rsplit("/", 1)[1].removesuffix(".db") + "." + table, count)
"#;

/// The resources of the machine that agents use while they exist.
#[derive(Debug, PartialEq, Eq)]
pub struct AgentResources {
    /// Processes below `up`.
    processes: usize,
    /// Processes elsewhere whose command line contains the data directory.
    strays: usize,
    control_groups: usize,
    mounts: usize,
    private_directories: usize,
    logs: usize,
    users: usize,
}

impl AgentResources {
    pub fn of(stack: &Stack) -> Self {
        let agent = stack.dir.join("data/agent");
        let tag = Digest::of(agent.as_os_str().as_encoded_bytes()).hex()[..12].to_owned();
        let below = descendants(stack.pid());
        let ours = |line: &&String| {
            let pid = line.split(' ').next().and_then(|pid| pid.parse().ok()).unwrap_or(0);
            pid != stack.pid() && !below.contains(&pid)
        };
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let uids = fs::read(agent.join("uids.json")).unwrap_or_default();
        let uids: serde_json::Value = serde_json::from_slice(&uids).unwrap_or_default();
        Self {
            processes: below.len(),
            strays: processes(&stack.dir.join("data")).iter().filter(ours).count(),
            control_groups: groups(Path::new("/sys/fs/cgroup"), &format!("hoistway-{tag}")),
            mounts: mounts.lines().filter(|line| line.contains(stack.dir.to_str().unwrap())).count(),
            private_directories: entries(&agent.join("run")).count(),
            logs: entries(&agent.join("logs")).count(),
            users: uids["users"].as_object().map_or(0, |users| users.len()),
        }
    }
}

/// All resources that could grow, at one moment.
pub struct Sample {
    rounds: usize,
    /// By resource: the count, and the accepted increase.
    counts: BTreeMap<String, (u64, u64)>,
}

impl Sample {
    pub fn of(stack: &Stack, rounds: usize) -> Self {
        let mut counts = BTreeMap::new();
        let mut put = |name: &str, count: u64, slack: u64| {
            counts.insert(name.to_owned(), (count, slack));
        };
        let proc = PathBuf::from(format!("/proc/{}", stack.pid()));
        let status = fs::read_to_string(proc.join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        put("memory", field("VmRSS:") * 1024, 16 * MIB);
        put("threads", field("Threads:"), 16);
        put("descriptors", entries(&proc.join("fd")).count() as u64, 16);
        put("processes", descendants(stack.pid()).len() as u64, 4);
        let data = stack.dir.join("data");
        let mut databases = Vec::new();
        for part in ["gateway", "tool-registry", "build", "agent"] {
            let database = data.join(part).join(format!("{part}.db"));
            put(&format!("{part}.db"), size(&database).0, MIB);
            put(&format!("{part}.db-wal"), size(&database.with_extension("db-wal")).0, 4 * MIB);
            databases.push(database);
        }
        for part in ["build/registry", "build/cache", "build/work", "agent/layers", "agent/run", "agent/logs"] {
            let (bytes, files) = size(&data.join(part));
            put(&format!("{part} bytes"), bytes, 4 * MIB);
            put(&format!("{part} files"), files, 300);
        }
        put("data bytes", size(&data).0, 16 * MIB);
        let rows = Command::new("python3").args(["-c", ROWS]).args(databases).output().unwrap();
        assert!(rows.status.success(), "{}", String::from_utf8_lossy(&rows.stderr));
        for line in String::from_utf8(rows.stdout).unwrap().lines() {
            let (table, count) = line.split_once(' ').unwrap();
            put(table, count.parse().unwrap(), 100);
        }
        Self { rounds, counts }
    }

    /// Prints one line for a person who watches, the first time with headings.
    pub fn print(&self, first: bool) {
        const COLUMNS: [(&str, &str); 8] = [
            ("memory", "mem MiB"),
            ("descriptors", "fds"),
            ("threads", "thr"),
            ("processes", "proc"),
            ("data bytes", "data MiB"),
            ("build/registry bytes", "blobs MiB"),
            ("build/cache bytes", "cache MiB"),
            ("agent/layers bytes", "layers MiB"),
        ];
        let rows = |service: &str| -> u64 {
            let of_service = |name: &&String| name.starts_with(&format!("{service}.")) && !name.contains(".db");
            self.counts.iter().filter(|(name, _)| of_service(name)).map(|(_, (count, _))| count).sum()
        };
        let databases = |end: &str| -> u64 {
            self.counts.iter().filter(|(name, _)| name.ends_with(end)).map(|(_, (count, _))| count).sum()
        };
        if first {
            let heads = COLUMNS.map(|(_, head)| format!("{head:>11}")).concat();
            println!(
                "{:>7}{heads}{:>11}{:>11}   rows: gateway tool-registry build agent",
                "rounds", "db MiB", "wal MiB"
            );
        }
        let mib = |bytes: u64| format!("{:>11.1}", bytes as f64 / MIB as f64);
        let column = |(name, head): (&str, &str)| match (self.counts[name].0, head.ends_with("MiB")) {
            (bytes, true) => mib(bytes),
            (count, false) => format!("{count:>11}"),
        };
        println!(
            "{:>7}{}{}{}   {:?}",
            self.rounds,
            COLUMNS.map(column).concat(),
            mib(databases(".db")),
            mib(databases(".db-wal")),
            ["gateway", "tool-registry", "build", "agent"].map(rows)
        );
    }

    /// Returns the resources whose counts in the last third of the samples clearly exceed those in the middle third.
    pub fn grown(samples: &[Self]) -> Vec<String> {
        let third = samples.len() / 3;
        let (middle, last) = (&samples[third..2 * third], &samples[2 * third..]);
        let most = |samples: &[Self], name: &str| samples.iter().map(|s| s.counts[name].0).max().unwrap_or_default();
        let mut grown = Vec::new();
        for (name, (_, slack)) in &samples[0].counts {
            let (before, after) = (most(middle, name), most(last, name));
            if after > before + before / 10 + slack {
                grown.push(format!("{name}: at most {before} in the middle third, {after} in the last"));
            }
        }
        grown
    }
}

fn entries(dir: &Path) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(dir).into_iter().flatten().flatten()
}

/// Returns the bytes on disk and the number of files at a path; files that are removed meanwhile are ignored.
fn size(path: &Path) -> (u64, u64) {
    let Ok(meta) = fs::symlink_metadata(path) else { return (0, 0) };
    let mut sum = (meta.blocks() * 512, 1);
    if meta.is_dir() {
        for entry in entries(path) {
            let (bytes, files) = size(&entry.path());
            sum = (sum.0 + bytes, sum.1 + files);
        }
    }
    sum
}

/// Returns the number of control groups in all groups of this name.
fn groups(dir: &Path, name: &str) -> usize {
    let below = entries(dir).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    below
        .map(|entry| if entry.file_name() == *name { children(&entry.path()) } else { groups(&entry.path(), name) })
        .sum()
}

fn children(dir: &Path) -> usize {
    entries(dir).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).count()
}

/// Returns the processes below one, including zombies.
fn descendants(root: u32) -> Vec<u32> {
    let mut parents = BTreeMap::new();
    for entry in entries(Path::new("/proc")) {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // After the name, which may contain any character: state, parent.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        parents.insert(pid, parent.unwrap_or(0));
    }
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(parents.iter().filter(|(_, of)| **of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found.split_off(1)
}
