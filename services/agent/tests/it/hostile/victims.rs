//! The targets of hostile agents, all of them belonging to the user who runs the test.

use std::{
    fs::{File, Permissions, set_permissions, write},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

/// Stands in every file and process that no agent may read.
pub const SECRET: &str = "victim-secret-81c4";

/// Makes a segment of System V shared memory with the secret in it, prints its number, and removes it in the end.
const SEGMENT: &str = "
import ctypes, sys
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
segment = libc.shmget(0, 4096, 0o1600)
ctypes.memmove(libc.shmat(segment, None, 0), sys.argv[1].encode(), len(sys.argv[1]))
print(segment, flush=True)
sys.stdin.read()
libc.shmctl(segment, 0, None)
";
/// Prints which of the machine's IPC with this key and this name is there, and removes it.
const LEFT: &str = "
import ctypes, sys
libc = ctypes.CDLL(None)
library = libc if hasattr(libc, 'mq_unlink') else ctypes.CDLL('librt.so.1')
segment = libc.shmget(int(sys.argv[1]), 0, 0)
if segment >= 0:
    libc.shmctl(segment, 0, None)
    print('shared memory')
if library.mq_unlink(('/' + sys.argv[2]).encode()) == 0: print('message queue')
";

pub struct Victims {
    stranger: Child,
    segment: Child,
    shm: PathBuf,
    pub facts: serde_json::Value,
}

impl Victims {
    /// Puts everything in place: files below `dir`, the runtime's directory `data` among them.
    pub fn new(dir: &Path, data: &Path, setuid: Option<&Path>) -> Self {
        let place = dir.join("victim");
        std::fs::create_dir_all(&place).unwrap();
        let private = |path: PathBuf, mode: u32, text: &str| {
            write(&path, text).unwrap();
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        };
        let file = private(place.join("private"), 0o600, SECRET);
        let truncated = private(place.join("truncated"), 0o600, SECRET);
        let tool = private(place.join("tool"), 0o700, "#!/bin/sh\necho ran\n");
        // Of no agent that the runtime knows, or it would write there, too.
        let logs = data.join("logs/planted");
        std::fs::create_dir_all(&logs).unwrap();
        let other_log = private(logs.join("planted.log"), 0o600, SECRET);
        private(data.join("master.key"), 0o600, SECRET);
        let tag = dir.file_name().unwrap().to_str().unwrap().trim_start_matches('.').to_owned();
        let shm = private(PathBuf::from(format!("/dev/shm/hoistway-{tag}")), 0o600, SECRET);

        let stranger = Command::new("sleep").arg("600").env("TOKEN", SECRET).stdin(Stdio::null()).spawn().unwrap();
        let mut segment = Command::new(super::PYTHON)
            .args(["-c", SEGMENT, SECRET])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut number = String::new();
        BufReader::new(segment.stdout.take().unwrap()).read_line(&mut number).unwrap();
        let number: i32 = number.trim().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listener6 = TcpListener::bind("[::1]:0").unwrap();
        let (tcp, tcp6) = (listener.local_addr().unwrap().port(), listener6.local_addr().unwrap().port());
        for listener in [listener, listener6] {
            thread::spawn(move || listener.incoming().flatten().for_each(|mut s| drop(s.write_all(b"hello"))));
        }
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let udp = socket.local_addr().unwrap().port();
        thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(b"hello", from);
            }
        });
        let unix = place.join("socket");
        let abstract_name = format!("hoistway-{tag}");
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let named = UnixListener::bind(&unix).unwrap();
        set_permissions(&unix, Permissions::from_mode(0o600)).unwrap();
        for listener in [named, UnixListener::bind_addr(&address).unwrap()] {
            thread::spawn(move || listener.incoming().flatten().for_each(|mut s| drop(s.write_all(b"hello"))));
        }
        let facts = serde_json::json!({
            "secret": SECRET, "private": file, "truncated": truncated, "tool": tool, "data": data,
            "other_log": other_log, "shm": shm, "stranger": stranger.id(), "supervisor": std::process::id(),
            "tcp": tcp, "tcp6": tcp6, "udp": udp, "unix": unix, "abstract": abstract_name,
            "setuid": setuid.unwrap_or(Path::new("/bin/false")), "marker": format!("marker-{tag}"),
            "segment": number, "key": std::process::id() | 0x4800_0000, "left": format!("hoistway-left-{tag}"),
        });
        Self { stranger, segment, shm, facts }
    }

    /// Whether a daemon of the hostile agent is alive.
    pub fn daemons(&self) -> Vec<i32> {
        let marker = self.facts["marker"].as_str().unwrap();
        let pids =
            std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
        let has_marker = |pid: &i32| {
            let mut line = String::new();
            let read = File::open(format!("/proc/{pid}/cmdline")).and_then(|mut file| file.read_to_string(&mut line));
            read.is_ok() && line.contains(marker)
        };
        pids.filter(has_marker).collect()
    }

    /// Objects of the hostile agent's IPC that outlive it; from here on they do not.
    pub fn left(&self) -> Vec<String> {
        let name = self.facts["left"].as_str().unwrap();
        let key = self.facts["key"].to_string();
        let output = Command::new(super::PYTHON).args(["-c", LEFT, &key, name]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let mut left: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        left.extend(std::fs::remove_file(Path::new("/dev/shm").join(name)).is_ok().then(|| "a file".to_owned()));
        left
    }
}

impl Drop for Victims {
    fn drop(&mut self) {
        drop(self.segment.stdin.take());
        let _ = self.segment.wait();
        let _ = self.stranger.kill();
        let _ = self.stranger.wait();
        let _ = std::fs::remove_file(&self.shm);
    }
}
