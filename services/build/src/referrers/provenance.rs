//! The provenance of an image: an in-toto statement, version 1, with a predicate of SLSA provenance, version 1.
//! It names inputs by their digests and has no value of the agent's environment.

use super::{Contents, Invocation, Package, VERSION, bytes, package_url};
use crate::{image::media_type, layer::Layer};
use hoistway_kit::time::rfc3339;
use hoistway_model::{Digest, Result};
use serde::Serialize;
use serde_json::{Value, json};

/// The type of the predicate.
pub const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// The meaning of the parameters: where it is described.
const BUILD_TYPE: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/docs/operations.md#sbom-and-provenance");
const BUILDER: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/tree/main/services/build");

/// Something that a build used, as in-toto describes resources.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<Value>,
}

fn sha256(hex: impl Into<String>) -> Value {
    json!({ "sha256": hex.into() })
}

/// Writes the statement about the image of this digest, which is finished `now`.
pub fn write(contents: &Contents, invocation: &Invocation, image: Digest, source: &Layer, now: i64) -> Result<Vec<u8>> {
    let Contents { agent, python, base, runner, packages } = contents;
    let Invocation { attempt, platform, entry_point, refresh, .. } = invocation;
    let layer = |name: &str, digest: Digest| Resource {
        name: name.into(),
        digest: Some(sha256(digest.hex())),
        media_type: Some(media_type::LAYER),
        ..Resource::default()
    };
    let mut used: Vec<Resource> = Vec::new();
    used.extend(base.iter().map(|base| Resource {
        name: base.full_name(),
        uri: Some(base.package_url()),
        digest: Some(sha256(base.digest.hex())),
        ..Resource::default()
    }));
    let uri = Some(package_url("generic", "python", python));
    used.push(Resource { name: "python".into(), uri, ..Resource::default() });
    used.push(layer("hoistway-runner", *runner));
    used.push(layer("source", source.digest));
    used.extend(packages.iter().map(package));
    let mut parameters = json!({
        "agent": agent,
        "entryPoint": entry_point,
        "source": { "digest": sha256(source.digest.hex()) },
        "refresh": refresh,
    });
    let given = [("requirements", &invocation.requirements), ("requiresPython", &invocation.requires_python)];
    for (name, value) in given {
        if let Some(value) = value {
            parameters[name] = value.as_str().into();
        }
    }
    bytes(&json!({
        "_type": STATEMENT_TYPE,
        "subject": [{ "name": agent, "digest": sha256(image.hex()) }],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": parameters,
                "internalParameters": { "platform": platform },
                "resolvedDependencies": used,
            },
            "runDetails": {
                "builder": { "id": BUILDER, "version": { "hoistway": VERSION } },
                "metadata": {
                    "invocationId": attempt.to_string(),
                    "startedOn": rfc3339(invocation.started_at),
                    "finishedOn": rfc3339(now),
                },
            },
        },
    }))
}

fn package(package: &Package) -> Resource {
    let digest = package.file().map(sha256);
    // A digest of a resource is of its very file, so several that are allowed are no digest of it.
    let several = (package.files.len() > 1).then(|| json!({ "allowedSha256": package.files }));
    Resource {
        name: package.name.clone(),
        uri: Some(package.package_url()),
        digest,
        annotations: several,
        ..Resource::default()
    }
}
