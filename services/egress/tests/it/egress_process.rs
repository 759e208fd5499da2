//! The program `hoistway-egress` with policies from a file, as its own process.

use crate::test_egress::SOON;
use hoistway_model::Secret;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{path::Path, process::Stdio};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::mpsc,
    time::timeout,
};

/// A running program, ended when it is dropped.
pub struct EgressProcess {
    child: Child,
    log: mpsc::Receiver<String>,
    /// Where agents reach it.
    pub address: String,
    /// The token of the only agent.
    pub token: Secret,
}

impl EgressProcess {
    /// Starts it in `dir` with the policies of one agent, which is called `a`, and with these variables and no others.
    pub async fn start(dir: &Path, policies: &Value, variables: &[(&str, &str)]) -> Self {
        let file = dir.join("policies.json");
        std::fs::write(&file, policies.to_string()).unwrap();
        let command = |more: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_hoistway-egress"));
            command.arg("--policies").arg(&file).args(more).env_clear().kill_on_drop(true);
            command.env("HOISTWAY_EGRESS_DATA_DIR", dir).env("HOISTWAY_EGRESS_LISTEN", "127.0.0.1:0");
            command.env("HOISTWAY_EGRESS_GRPC_LISTEN", "127.0.0.1:0").env("NO_COLOR", "1");
            command.envs(hoistway_testing::database_url(dir).map(|url| ("HOISTWAY_EGRESS_DATABASE__URL", url)));
            command.envs(variables.iter().copied());
            command
        };
        let tokens = command(&["--print-tokens"]).output().await.unwrap();
        let tokens = String::from_utf8(tokens.stdout).unwrap();
        let token = Secret::new(tokens.trim().strip_prefix("a ").unwrap());
        let mut child = command(&[]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (lines, mut log) = mpsc::channel(1024);
        for stream in [Box::new(out) as Box<dyn AsyncRead + Send + Unpin>, Box::new(err)] {
            let lines = lines.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream).lines();
                while let Ok(Some(line)) = stream.next_line().await {
                    let _ = lines.send(line).await;
                }
            });
        }
        let address = loop {
            let line = timeout(SOON, log.recv()).await.unwrap().unwrap();
            if let Some(at) = line.find("127.0.0.1:") {
                let address = &line[at..];
                let end =
                    address.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':')).unwrap_or(address.len());
                break address[..end].to_owned();
            }
        };
        Self { child, log, address, token }
    }

    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Waits for a line of its log.
    pub async fn says(&mut self, text: &str) {
        let wait = async {
            while let Some(line) = self.log.recv().await {
                if line.contains(text) {
                    return;
                }
            }
            panic!("it ended without: {text}");
        };
        timeout(SOON, wait).await.unwrap();
    }

    /// Ends it as a service manager does, and returns the rest of its log.
    pub async fn stop(mut self) -> String {
        let pid = Pid::from_raw(self.pid().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        assert!(timeout(SOON, self.child.wait()).await.unwrap().unwrap().success());
        let mut all = String::new();
        while let Some(line) = self.log.recv().await {
            all.push_str(&line);
            all.push('\n');
        }
        all
    }
}
