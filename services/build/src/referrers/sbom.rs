//! A bill of materials in the format CycloneDX 1.6. It has neither a time nor a serial number, which would make it
//! another document with every build.

use super::{Base, Contents, Package, VERSION, bytes, package_url};
use hoistway_model::Result;
use serde::Serialize;
use serde_json::json;
use std::borrow::Cow;

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Component<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "bom-ref")]
    bom_ref: String,
    name: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<Hash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purl: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    external_references: Vec<ExternalReference>,
}

#[derive(Debug, Serialize)]
struct Hash {
    alg: &'static str,
    content: String,
}

#[derive(Debug, Serialize)]
struct ExternalReference {
    #[serde(rename = "type")]
    kind: &'static str,
    url: String,
    comment: &'static str,
    hashes: Vec<Hash>,
}

fn sha256(hex: impl Into<String>) -> Hash {
    Hash { alg: "SHA-256", content: hex.into() }
}

/// Writes the SBOM.
pub fn write(contents: &Contents) -> Result<Vec<u8>> {
    let Contents { agent, python, base, runner, packages } = contents;
    let agent =
        Component { kind: "application", bom_ref: "agent".into(), name: agent.as_str().into(), ..Component::default() };
    let mut components: Vec<Component<'_>> = base.iter().map(base_image).collect();
    components.push(interpreter(python, base.is_some()));
    components.push(Component {
        kind: "framework",
        bom_ref: "hoistway-runner".into(),
        name: "hoistway-runner".into(),
        version: Some(VERSION.into()),
        description: Some("The server that calls the agent; the hash is that of its layer."),
        hashes: vec![sha256(runner.hex())],
        ..Component::default()
    });
    components.extend(packages.iter().map(package));
    bytes(&json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "tools": { "components": [{ "type": "application", "name": "hoistway", "version": VERSION }] },
            "component": agent,
        },
        "components": components,
    }))
}

fn base_image(base: &Base) -> Component<'_> {
    Component {
        kind: "container",
        bom_ref: base.package_url(),
        name: base.full_name().into(),
        version: Some(base.digest.to_string()),
        description: Some("The base image, whose own contents are not listed."),
        hashes: vec![sha256(base.digest.hex())],
        purl: Some(base.package_url()),
        ..Component::default()
    }
}

fn interpreter(version: &str, in_image: bool) -> Component<'static> {
    let purl = package_url("generic", "python", version);
    Component {
        kind: "platform",
        bom_ref: purl.clone(),
        name: "python".into(),
        version: Some(version.to_owned()),
        description: Some(match in_image {
            true => "The interpreter of the base image.",
            false => "The machine's interpreter, which the packages are installed for; it is not in the image.",
        }),
        purl: Some(purl),
        ..Component::default()
    }
}

fn package(package: &Package) -> Component<'_> {
    let purl = package.package_url();
    let allowed = || package.files.iter().map(sha256).collect();
    // A component's hashes are of itself, so those of files that may be another platform's do not belong there.
    let (hashes, external_references) = match package.file() {
        Some(_) => (allowed(), Vec::new()),
        None if package.files.is_empty() => (Vec::new(), Vec::new()),
        None => {
            let comment = "The files that the lock allows; one of them is installed.";
            (
                Vec::new(),
                vec![ExternalReference { kind: "distribution", url: purl.clone(), comment, hashes: allowed() }],
            )
        }
    };
    Component {
        kind: "library",
        bom_ref: purl.clone(),
        name: package.name.as_str().into(),
        version: Some(package.version.clone()),
        hashes,
        purl: Some(purl),
        external_references,
        ..Component::default()
    }
}
