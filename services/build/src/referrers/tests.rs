#![allow(clippy::unwrap_used)]
use super::*;
use serde_json::Value;

fn contents(packages: Vec<Package>, base: Option<Base>) -> Contents {
    let agent = Name::parse("agent", "weather").unwrap();
    Contents { agent, python: "3.11.2".into(), base, runner: Digest::of(b"runner"), packages }
}

fn invocation() -> Invocation {
    Invocation {
        attempt: "01990000-0000-7000-8000-000000000001".parse().unwrap(),
        started_at: 1_764_432_000_000,
        platform: "linux/amd64".into(),
        entry_point: "agent.py".into(),
        requirements: Some("six\n".into()),
        requires_python: None,
        refresh: false,
    }
}

fn package(name: &str, version: &str, files: &[&str]) -> Package {
    Package { name: name.into(), version: version.into(), files: files.iter().map(|f| (*f).to_owned()).collect() }
}

fn base() -> Base {
    Base { registry: None, repository: "base/python".into(), digest: Digest::of(b"base") }
}

fn image() -> Image {
    let (config, manifest) = (b"config".to_vec(), b"manifest".to_vec());
    Image { config_digest: Digest::of(&config), digest: Digest::of(&manifest), config, manifest }
}

fn source() -> Layer {
    Layer { digest: Digest::of(b"layer"), diff_id: Digest::of(b"tar"), size: 5 }
}

fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn an_sbom_lists_the_packages_and_what_they_run_on() {
    let packages = vec![package("six", "1.17.0", &["aa"]), package("x-y", "1!2+l", &["bb", "cc"])];
    let written = sbom::write(&contents(packages, Some(base()))).unwrap();
    let base_url = format!("pkg:oci/python@sha256:{}", Digest::of(b"base").hex());
    let expected = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "tools": { "components": [{ "type": "application", "name": "hoistway", "version": VERSION }] },
            "component": { "type": "application", "bom-ref": "agent", "name": "weather" },
        },
        "components": [
            {
                "type": "container", "bom-ref": base_url, "purl": base_url, "name": "base/python",
                "version": Digest::of(b"base"),
                "description": "The base image, whose own contents are not listed.",
                "hashes": [{ "alg": "SHA-256", "content": Digest::of(b"base").hex() }],
            },
            {
                "type": "platform", "bom-ref": "pkg:generic/python@3.11.2", "purl": "pkg:generic/python@3.11.2",
                "name": "python", "version": "3.11.2", "description": "The interpreter of the base image.",
            },
            {
                "type": "framework", "bom-ref": "hoistway-runner", "name": "hoistway-runner", "version": VERSION,
                "description": "The server that calls the agent; the hash is that of its layer.",
                "hashes": [{ "alg": "SHA-256", "content": Digest::of(b"runner").hex() }],
            },
            {
                "type": "library", "bom-ref": "pkg:pypi/six@1.17.0", "purl": "pkg:pypi/six@1.17.0",
                "name": "six", "version": "1.17.0", "hashes": [{ "alg": "SHA-256", "content": "aa" }],
            },
            {
                "type": "library", "bom-ref": "pkg:pypi/x-y@1%212%2Bl", "purl": "pkg:pypi/x-y@1%212%2Bl",
                "name": "x-y", "version": "1!2+l",
                "externalReferences": [{
                    "type": "distribution", "url": "pkg:pypi/x-y@1%212%2Bl",
                    "comment": "The files that the lock allows; one of them is installed.",
                    "hashes": [{ "alg": "SHA-256", "content": "bb" }, { "alg": "SHA-256", "content": "cc" }],
                }],
            },
        ],
    });
    assert_eq!(json_of(&written), expected);
    let elsewhere = Base { registry: Some("registry.example:5000".into()), ..base() };
    let expected = format!("{base_url}?repository_url=registry.example:5000/base/python");
    assert_eq!(elsewhere.package_url(), expected);
}

#[test]
fn an_image_without_packages_has_an_sbom_that_other_source_does_not_change() {
    let bare = contents(Vec::new(), None);
    let [sbom, statement] = write(&bare, &invocation(), &image(), &source(), 0).unwrap();
    let components = json_of(&sbom.document)["components"].clone();
    let names: Vec<&str> = components.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["python", "hoistway-runner"]);
    let other = Image { digest: Digest::of(b"other"), ..image() };
    let later = Invocation { started_at: 9, ..invocation() };
    let changed = Layer { digest: Digest::of(b"changed"), ..source() };
    let [same, different] = write(&bare, &later, &other, &changed, 9).unwrap();
    assert_eq!(same.document, sbom.document);
    assert_ne!(same.manifest.digest(), sbom.manifest.digest(), "its subject is another image");
    assert_ne!(different.document, statement.document);
}

#[test]
fn a_statement_names_the_image_and_all_that_it_was_built_from() {
    let packages = vec![package("six", "1.17.0", &["aa"]), package("x-y", "2", &["bb", "cc"])];
    let contents = contents(packages, Some(base()));
    let written = provenance::write(&contents, &invocation(), image().digest, &source(), 1_764_432_001_500).unwrap();
    let repository = env!("CARGO_PKG_REPOSITORY");
    let sha256 = |bytes: &[u8]| json!({ "sha256": Digest::of(bytes).hex() });
    let expected = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "name": "weather", "digest": sha256(b"manifest") }],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": format!("{repository}/blob/main/docs/operations.md#sbom-and-provenance"),
                "externalParameters": {
                    "agent": "weather", "entryPoint": "agent.py", "requirements": "six\n", "refresh": false,
                    "source": { "digest": sha256(b"layer") },
                },
                "internalParameters": { "platform": "linux/amd64" },
                "resolvedDependencies": [
                    {
                        "name": "base/python", "digest": sha256(b"base"),
                        "uri": format!("pkg:oci/python@sha256:{}", Digest::of(b"base").hex()),
                    },
                    { "name": "python", "uri": "pkg:generic/python@3.11.2" },
                    { "name": "hoistway-runner", "digest": sha256(b"runner"), "mediaType": media_type::LAYER },
                    { "name": "source", "digest": sha256(b"layer"), "mediaType": media_type::LAYER },
                    { "name": "six", "uri": "pkg:pypi/six@1.17.0", "digest": { "sha256": "aa" } },
                    { "name": "x-y", "uri": "pkg:pypi/x-y@2", "annotations": { "allowedSha256": ["bb", "cc"] } },
                ],
            },
            "runDetails": {
                "builder": {
                    "id": format!("{repository}/tree/main/services/build"),
                    "version": { "hoistway": VERSION },
                },
                "metadata": {
                    "invocationId": "01990000-0000-7000-8000-000000000001",
                    "startedOn": "2025-11-29T16:00:00.000Z",
                    "finishedOn": "2025-11-29T16:00:01.500Z",
                },
            },
        },
    });
    assert_eq!(json_of(&written), expected);
    // Nothing was given: the imports decide.
    let inferred = Invocation { requirements: None, requires_python: Some(">=3.10".into()), ..invocation() };
    let written = json_of(&provenance::write(&contents, &inferred, image().digest, &source(), 0).unwrap());
    let parameters = &written["predicate"]["buildDefinition"]["externalParameters"];
    assert_eq!((parameters.get("requirements"), &parameters["requiresPython"]), (None, &json!(">=3.10")));
}

#[test]
fn a_referrer_has_the_image_as_its_subject() {
    let [sbom, statement] = write(&contents(Vec::new(), None), &invocation(), &image(), &source(), 0).unwrap();
    for (referrer, kind, file) in [(&sbom, SBOM, "sbom.cdx.json"), (&statement, STATEMENT, "provenance.intoto.json")] {
        assert_eq!(referrer.manifest.subject(), Some(&image().digest));
        assert_eq!(referrer.manifest.artifact_type(), Some(kind));
        let document = Digest::of(&referrer.document);
        let mut blobs = vec![Digest::of(EMPTY), document];
        blobs.sort_unstable();
        assert_eq!(referrer.manifest.blobs(), blobs);
        let manifest = json_of(referrer.manifest.bytes());
        assert_eq!(
            manifest["layers"],
            json!([{ "mediaType": kind, "digest": document, "size": referrer.document.len(),
                     "annotations": { "org.opencontainers.image.title": file } }])
        );
        assert_eq!(manifest["subject"]["size"], 8);
        assert_eq!(manifest["config"]["mediaType"], "application/vnd.oci.empty.v1+json");
    }
    let annotation = |referrer: &Referrer| json_of(referrer.manifest.bytes())["annotations"][PREDICATE_TYPE].clone();
    assert_eq!((annotation(&sbom), annotation(&statement)), (Value::Null, json!("https://slsa.dev/provenance/v1")));
}
