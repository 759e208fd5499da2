//! Credential helpers: programs that Docker's configuration names, which keep logins elsewhere. The `docker_credential`
//! crate would wait for one for ever.

use hoistway_model::Secret;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use std::{collections::HashMap, io, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::timeout,
};

use super::Login;

/// The bytes of each of a helper's outputs that are read.
const MAX_OUTPUT: u64 = 256 << 10;
/// The user's name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// The words by which Docker's helpers say that there is no login.
const NO_LOGIN: &[u8] = b"credentials not found";

/// The helpers that a configuration of Docker names.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Helpers {
    /// By registry; they win over every login in the file.
    cred_helpers: Option<HashMap<String, String>>,
    /// For registries whose login is not in the file.
    creds_store: Option<String>,
}

impl Helpers {
    /// The program for one registry.
    pub fn of_registry(&self, key: &str) -> Option<String> {
        self.cred_helpers.as_ref()?.get(key).filter(|name| !name.is_empty()).map(|name| program(name))
    }

    /// The program for all others.
    pub fn of_others(&self) -> Option<String> {
        self.creds_store.as_ref().filter(|name| !name.is_empty()).map(|name| program(name))
    }
}

fn program(name: &str) -> String {
    format!("docker-credential-{name}")
}

/// A helper's answer.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: Secret,
}

/// The login that a helper has for a registry, or the reason why there is none, for the log. The helper's output is not
/// repeated: it may have the secret in it.
pub(super) async fn login(program: &str, key: &str, limit: Duration) -> Result<Option<Login>, String> {
    ask(Command::new(program), program, key, limit).await
}

async fn ask(mut command: Command, name: &str, key: &str, limit: Duration) -> Result<Option<Login>, String> {
    let command = command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let spawned = command.process_group(0).spawn();
    let mut helper = Helper(spawned.map_err(|e| format!("its credential helper {name} cannot be run: {e}"))?);
    let (is_success, stdout, stderr) = match timeout(limit, helper.exchange(key)).await {
        Err(_) => return Err(format!("{name} did not answer within {} s and was ended", limit.as_secs())),
        Ok(Err(e)) => return Err(format!("{name} cannot be talked to: {e}")),
        Ok(Ok(said)) => said,
    };
    if !is_success {
        let is_none = [stdout, stderr].iter().any(|said| said.windows(NO_LOGIN.len()).any(|words| words == NO_LOGIN));
        return if is_none { Ok(None) } else { Err(format!("{name} failed; try `{name} get`")) };
    }
    let answer: Answer =
        serde_json::from_slice(&stdout).map_err(|_| format!("the answer of {name} is not a helper's"))?;
    Ok(Some(match answer {
        Answer { username, secret } if username == TOKEN_USER => Login::IdentityToken(secret),
        Answer { username, secret } => Login::Password { user: username, password: secret },
    }))
}

/// A running helper. Dropped before its end, it is killed with all that it has started.
struct Helper(Child);

impl Helper {
    /// Asks for a login; whether it had success, and its outputs.
    async fn exchange(&mut self, key: &str) -> io::Result<(bool, Vec<u8>, Vec<u8>)> {
        let Self(child) = self;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let asked = async move {
            if let Some(mut stdin) = stdin {
                // One that does not read it says why itself.
                let _ = stdin.write_all(key.as_bytes()).await;
            }
        };
        let ((), stdout, stderr) = tokio::join!(asked, read(stdout), read(stderr));
        Ok((child.wait().await?.success(), stdout?, stderr?))
    }
}

async fn read(output: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(output) = output {
        output.take(MAX_OUTPUT).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It has an id until it was waited for, so that the group is its own. The runtime waits for it after this.
        if let Some(group) = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::time::Instant;

    /// A helper that is a script of the shell.
    async fn answer(script: &str, limit: Duration) -> Result<Option<Login>, String> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        ask(command, "docker-credential-x", "r.example", limit).await
    }

    #[tokio::test]
    async fn helpers_are_asked_as_docker_asks_them() {
        const LONG: Duration = Duration::from_secs(60);
        let echo = r#"read key; [ "$0" = get ] && echo "{\"ServerURL\": \"$key\", \"Username\": \"u\", \"Secret\": \"of $key\"}""#;
        let password = Login::Password { user: "u".to_owned(), password: Secret::new("of r.example") };
        assert_eq!(answer(echo, LONG).await, Ok(Some(password)));
        let token = r#"echo '{"Username": "<token>", "Secret": "t"}'"#;
        assert_eq!(answer(token, LONG).await, Ok(Some(Login::IdentityToken(Secret::new("t")))));
        let none = "echo credentials not found in native keychain; exit 1";
        assert_eq!(answer(none, LONG).await, Ok(None));
        assert_eq!(answer(&format!("exec >&2; {none}"), LONG).await, Ok(None));
        let failed = "echo s3cret; echo s3cret >&2; exit 1";
        let why = "docker-credential-x failed; try `docker-credential-x get`";
        assert_eq!(answer(failed, LONG).await, Err(why.to_owned()));
        let other = answer("echo s3cret", LONG).await.unwrap_err();
        assert_eq!(other, "the answer of docker-credential-x is not a helper's");
        assert!(answer("yes s3cret", LONG).await.is_err(), "no output is read without end");
        let absent = login("docker-credential-absent-in-this-test", "r.example", LONG).await.unwrap_err();
        assert!(absent.starts_with("its credential helper docker-credential-absent-in-this-test cannot be run: "));
    }

    #[tokio::test]
    async fn a_helper_that_hangs_is_ended_with_what_it_has_started() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        // The pipe ends once nobody has it open for writing any more.
        let opened = pipe.clone();
        let all_ended = tokio::task::spawn_blocking(move || File::open(opened)?.read_to_end(&mut Vec::new()));
        let script = format!("exec 3>'{}'; sleep 600 & sleep 600", pipe.display());
        let began = Instant::now();
        let why = answer(&script, Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(why, "docker-credential-x did not answer within 1 s and was ended");
        all_ended.await.unwrap().unwrap();
        assert!(began.elapsed() < Duration::from_secs(60));
    }
}
