//! The SBOM and the provenance of an image are found by its digest, as clients of registries look for them, and are
//! such as their specifications ask for.

use crate::{
    http, prerequisites,
    test_installation::{Stack, log_of},
};
use serde_json::{Value, json};
use std::{path::Path, process::Command};

const VALIDATE: &str = include_str!("referrers/validate.py");
/// The packages of the script, which contain the schemas.
const PACKAGES: [&str; 2] = ["cyclonedx-python-lib[json-validation]==11.12.0", "in-toto-attestation==0.9.3"];
/// Says which packages the agent has.
const AGENT: &str = "import importlib.metadata\n\n\ndef handler(request, context):\n    \
    import requests\n    where = str(importlib.metadata.distribution('requests').locate_file(''))\n    \
    found = importlib.metadata.distributions(path=[where])\n    \
    return {'response': sorted(f'{d.name.lower()} {d.version}'.replace('_', '-') for d in found)}\n";

/// Installs the script's packages into a directory.
fn install(into: &Path) {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]).arg(into);
    let installed = pip.args(PACKAGES).output().unwrap();
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
}

fn registry(stack: &Stack, path: &str) -> http::Answer {
    let key = format!("Bearer {}", stack.key);
    let answer = http::send(&stack.registry, "GET", path, &[("Authorization", &key)], b"").unwrap();
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer
}

#[test]
fn an_images_sbom_and_provenance_are_found_and_valid() {
    if !prerequisites::pip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let site = dir.path().join("site");
    install(&site);
    let stack = Stack::start(dir.path());
    let body = json!({
        "agent_name": "documented",
        "source_files": {"agent.py": AGENT},
        "requirements": "requests\nsix==1.17.0",
        "env": [{"name": "API_TOKEN", "value": "hush-hush"}],
    });
    let answer = stack.call("POST", "/api/deploy?timeout=300", Some(&body));
    assert_eq!(answer.status, 201, "{}\n{}", answer.text(), log_of(dir.path()));
    let image = stack.get("/api/agents/documented")["status"]["imageDigest"].as_str().unwrap().to_owned();

    let listed = registry(&stack, &format!("/v2/documented/referrers/{image}")).json();
    assert_eq!(listed["manifests"].as_array().unwrap().len(), 2, "{listed}");
    let document = |kind: &str| -> Vec<u8> {
        let filter = kind.replace('+', "%2B");
        let listed = registry(&stack, &format!("/v2/documented/referrers/{image}?artifactType={filter}")).json();
        let [referrer] = &listed["manifests"].as_array().unwrap()[..] else { panic!("{listed}") };
        let (digest, media_type) = (referrer["digest"].as_str().unwrap(), referrer["mediaType"].as_str().unwrap());
        assert_eq!(media_type, "application/vnd.oci.image.manifest.v1+json");
        let manifest = registry(&stack, &format!("/v2/documented/manifests/{digest}"));
        if prerequisites::skopeo() {
            let creds = format!("any:{}", stack.key);
            let name = format!("docker://{}/documented@{digest}", stack.registry);
            let options = ["inspect", "--raw", "--tls-verify=false", "--creds", &creds, &name];
            let seen = Command::new("skopeo").args(options).output().unwrap();
            assert_eq!(seen.stdout, manifest.body, "{}", String::from_utf8_lossy(&seen.stderr));
        }
        let manifest: Value = manifest.json();
        assert_eq!(manifest["subject"]["digest"], image);
        let config = manifest["config"]["digest"].as_str().unwrap();
        assert_eq!(registry(&stack, &format!("/v2/documented/blobs/{config}")).body, b"{}");
        let layer = &manifest["layers"][0];
        assert_eq!(layer["mediaType"], kind);
        registry(&stack, &format!("/v2/documented/blobs/{}", layer["digest"].as_str().unwrap())).body
    };
    let documents = [document("application/vnd.cyclonedx+json"), document("application/vnd.in-toto+json")];
    let mut validate = Command::new("python3");
    validate.args(["-c", VALIDATE]).env("PYTHONPATH", &site);
    for (name, bytes) in ["sbom.json", "statement.json"].iter().zip(&documents) {
        assert!(!String::from_utf8_lossy(bytes).contains("hush-hush"));
        std::fs::write(dir.path().join(name), bytes).unwrap();
        validate.arg(dir.path().join(name));
    }
    let validated = validate.output().unwrap();
    assert!(validated.status.success(), "{}", String::from_utf8_lossy(&validated.stderr));

    let [sbom, statement] = documents.map(|bytes| serde_json::from_slice::<Value>(&bytes).unwrap());
    let packages = sbom["components"].as_array().unwrap().iter().filter(|component| component["type"] == "library");
    let mut packages: Vec<String> = packages
        .map(|package| format!("{} {}", package["name"].as_str().unwrap(), package["version"].as_str().unwrap()))
        .collect();
    packages.sort();
    assert!(packages.contains(&"six 1.17.0".to_owned()), "{packages:?}");
    assert_eq!(stack.answer("documented", "x"), json!(packages), "exactly those that are in the image");
    let hex = image.strip_prefix("sha256:").unwrap();
    assert_eq!(statement["subject"], json!([{ "name": "documented", "digest": { "sha256": hex } }]));
    let parameters = &statement["predicate"]["buildDefinition"]["externalParameters"];
    assert_eq!(
        (&parameters["requirements"], &parameters["entryPoint"]),
        (&json!("requests\nsix==1.17.0\n"), &json!("agent.py"))
    );
}
