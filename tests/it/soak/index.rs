//! A package index on loopback with many versions of one small package.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

/// The package, whose versions return their number.
pub const PACKAGE: &str = "hoistway_soak_package";

/// Writes the wheels `0.0`, `0.1`, … of a package into a directory.
const WHEELS: &str = r#"
import base64, hashlib, sys, zipfile
target, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
for version in (f"0.{n}" for n in range(count)):
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"SAYS = '{version}'\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: soak\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digest = lambda text: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    record = "".join(f"{path},sha256={digest(text)},{len(text)}\n" for path, text in files.items())
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(f"{target}/{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
"#;

/// The package index server, ended when it is dropped.
pub struct Index {
    server: Child,
    port: String,
}

impl Index {
    pub fn serve(dir: &Path, versions: usize) -> Self {
        let root = dir.join("index");
        let wheels = root.join(PACKAGE.replace('_', "-"));
        fs::create_dir_all(&wheels).unwrap();
        let mut make = Command::new("python3");
        make.args(["-c", WHEELS]).arg(&wheels).args([PACKAGE, &versions.to_string()]);
        assert!(make.status().unwrap().success());
        let mut server = Command::new("python3")
            .args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"])
            .arg(&root)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.split(" port ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().to_owned();
        Self { server, port }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
