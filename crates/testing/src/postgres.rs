//! PostgreSQL for tests: a server of the test program's own, with a database for each path that a test would give to an
//! SQLite file. It listens on a Unix socket only, and ends with the program, however that ends.

use crate::{need, runs};
use std::{
    collections::{HashSet, hash_map::DefaultHasher},
    env, fs,
    hash::{Hash, Hasher},
    io::{BufRead, BufReader, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
};

/// The user of the server where tests run as root, which PostgreSQL refuses to be: `nobody`.
const NOBODY: u32 = 65534;

/// Runs the server until the end of standard input, then removes its directory. Obeys the lines `start` and `stop` and
/// answers each with `done`.
const SCRIPT: &str = r#"
set -eu
bin=$1 dir=$2 options=$3
trap '"$bin/pg_ctl" stop --pgdata data --mode immediate --silent || true; cd /; rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM HUP
cd "$dir"
"$bin/initdb" --pgdata data --username postgres --auth trust --encoding UTF8 --locale C.UTF-8 --no-sync >initdb.log
while read -r command; do
    case $command in
    start)
        "$bin/pg_ctl" start --pgdata data --log server.log --wait --silent --options "-c listen_addresses= \
            -c unix_socket_directories='$dir' -c max_connections=2000 $options" </dev/null ;;
    stop) "$bin/pg_ctl" stop --pgdata data --mode immediate --silent ;;
    esac
    echo "done"
done
"#;

/// Nothing is flushed to disk: the data does not outlive the test.
const FAST: &str = "-c fsync=off -c full_page_writes=off -c synchronous_commit=off";

/// The variable by which a process that a test starts uses the test's server.
const SERVER: &str = "HOISTWAY_TEST_POSTGRES";

/// The process that runs [`SCRIPT`].
#[derive(Debug)]
struct Script {
    child: Child,
    /// Closed for the end.
    input: Option<ChildStdin>,
    output: Option<BufReader<ChildStdout>>,
}

impl Drop for Script {
    fn drop(&mut self) {
        self.input.take();
        let _ = self.child.wait();
    }
}

/// A server of this program's own, which ends with it.
#[derive(Debug)]
pub struct PostgresServer {
    dir: PathBuf,
    bin: PathBuf,
    /// The process that has it; none of a server of another process.
    script: Option<Mutex<Script>>,
    databases: Mutex<HashSet<String>>,
}

/// Whether the tests of stores and services use PostgreSQL (`HOISTWAY_TEST_DATABASE=postgres`) instead of SQLite.
pub fn uses_postgres() -> bool {
    env::var("HOISTWAY_TEST_DATABASE").is_ok_and(|engine| engine == "postgres")
}

/// Returns the URL of the database that stands for the SQLite file or the directory `path`, where tests use PostgreSQL.
///
/// # Panics
/// If tests use PostgreSQL and it cannot be started.
pub fn database_url(path: &Path) -> Option<String> {
    uses_postgres().then(|| postgres(path).expect("HOISTWAY_TEST_DATABASE=postgres, and there is no PostgreSQL"))
}

/// Returns the variables of the environment by which another process of the same tests uses the same databases.
pub fn shared_databases() -> Option<(&'static str, PathBuf)> {
    uses_postgres().then(|| server().map(|server| (SERVER, server.dir.clone()))).flatten()
}

/// Returns the URL of a database for `path`, which is created when it is asked for first; none where PostgreSQL is not
/// installed.
///
/// # Panics
/// If PostgreSQL is there and does not start, or is required and missing.
pub fn postgres(path: &Path) -> Option<String> {
    server().map(|server| server.database(path))
}

fn server() -> Option<&'static PostgresServer> {
    static STARTED: OnceLock<Option<PostgresServer>> = OnceLock::new();
    let start = || match env::var_os(SERVER) {
        Some(dir) => {
            Some(PostgresServer { dir: dir.into(), bin: programs()?, script: None, databases: Mutex::default() })
        }
        None => PostgresServer::start("shared", FAST),
    };
    STARTED.get_or_init(start).as_ref()
}

/// Returns the directory of the server's programs, which Debian does not put on PATH.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = versions.map(|version| version.path().join("bin"));
    let on_path = env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    debian.chain(on_path).find(|dir| dir.join("initdb").is_file() && dir.join("pg_ctl").is_file())
}

impl PostgresServer {
    /// Starts a server of its own for the test `name`, with further `options` of its command line; none where PostgreSQL
    /// is not installed. Commits survive [`PostgresServer::stop`].
    ///
    /// # Panics
    /// If PostgreSQL is there and does not start, or is required and missing.
    pub fn start(name: &str, options: &str) -> Option<Self> {
        let bin = programs();
        let is_there = need("postgres", bin.is_some(), "initdb and pg_ctl are not installed")
            && need("postgres", runs("id", &["-un"]), "this user has no name, which PostgreSQL asks for");
        let bin = bin.filter(|_| is_there)?;
        let dir = env::temp_dir().join(format!("hoistway-postgres-{}-{name}", std::process::id()));
        // Of an earlier program with this id.
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let is_root = fs::metadata(&dir).is_ok_and(|metadata| metadata.uid() == 0);
        let mut command = Command::new(if is_root { "setpriv" } else { "sh" });
        if is_root {
            chown(&dir, Some(NOBODY), Some(NOBODY)).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
            let user = NOBODY.to_string();
            command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "sh"]);
        }
        // Others reach the socket: programs under test have users of their own.
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&dir, mode).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        command.args(["-c", SCRIPT, "sh"]).arg(&bin).arg(&dir).arg(options);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|e| panic!("starting PostgreSQL: {e}"));
        let (input, output) = (child.stdin.take(), child.stdout.take().map(BufReader::new));
        let script = Some(Mutex::new(Script { child, input, output }));
        let server = Self { dir, bin, script, databases: Mutex::default() };
        server.order("start");
        Some(server)
    }

    /// Ends the server at once, as a crash would.
    ///
    /// # Panics
    /// If it does not end.
    pub fn stop(&self) {
        self.order("stop");
    }

    /// Starts the server again.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&self) {
        self.order("start");
    }

    fn order(&self, command: &str) {
        let Some(script) = &self.script else { return };
        let Script { input, output, .. } = &mut *script.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = input.as_mut().map(|input| writeln!(input, "{command}"));
        let mut line = String::new();
        let said = output.as_mut().map(|output| output.read_line(&mut line));
        assert!(line.trim() == "done", "PostgreSQL: {command} failed ({sent:?}, {said:?}): see the lines above");
    }

    /// Returns the URL of the database for `path`, which is created when it is asked for first.
    ///
    /// # Panics
    /// If it cannot be created.
    pub fn database(&self, path: &Path) -> String {
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        let name = format!("t{:016x}", hasher.finish());
        let mut databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
        if databases.insert(name.clone()) {
            // Another process of the tests may have created it.
            self.run(
                "postgres",
                &format!(
                    "SELECT 'CREATE DATABASE {name}' WHERE NOT EXISTS \
                 (SELECT FROM pg_database WHERE datname = '{name}') \\gexec\n"
                ),
            );
        }
        format!("postgres://postgres@{}/{name}", self.dir.display().to_string().replace('/', "%2F"))
    }

    /// Runs statements in the database of `path` as the server's administrator.
    ///
    /// # Panics
    /// If one fails.
    pub fn execute(&self, path: &Path, statements: &str) {
        let url = self.database(path);
        self.run(url.rsplit('/').next().unwrap_or_default(), statements);
    }

    /// Returns the lines that the server has logged.
    ///
    /// # Panics
    /// If they cannot be read.
    pub fn log(&self) -> String {
        let file = self.dir.join("server.log");
        fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
    }

    fn run(&self, database: &str, statement: &str) {
        let mut command = Command::new(self.bin.join("psql"));
        command.args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--username", "postgres", "--host"]);
        let child = command.arg(&self.dir).arg(database).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let mut child = child.unwrap_or_else(|e| panic!("starting psql: {e}"));
        if let Some(mut input) = child.stdin.take() {
            input.write_all(statement.as_bytes()).unwrap_or_else(|e| panic!("psql: {e}"));
        }
        assert!(child.wait().is_ok_and(|status| status.success()), "{statement} failed");
    }
}
