//! The distribution specification 1.1 as a table: what is asked, and what is answered.
//!
//! `{name}` stands for the digest of one of [`contents`], `@name` for its bytes, `@name[2..5]` for some of them, and
//! `{location}` for the `Location` of the last answer that had one. An expected header of `*` is there with any value,
//! one of `-` is not there. The rows build on each other, as a client's requests do.

use super::*;
use std::collections::BTreeMap;

type Headers = &'static [(&'static str, &'static str)];
/// Method and path, headers, body; status, headers, a part of the body.
type Row = (&'static str, Headers, &'static str, u16, Headers, &'static str);

const OCTETS: Headers = &[("content-type", "application/octet-stream")];
const IMAGE: Headers = &[("content-type", "application/vnd.oci.image.manifest.v1+json")];
const INDEX: Headers = &[("content-type", "application/vnd.oci.image.index.v1+json")];
const DOCKER: Headers = &[("content-type", "application/vnd.docker.distribution.manifest.v2+json")];
const DOCKER_LIST: Headers = &[("content-type", "application/vnd.docker.distribution.manifest.list.v2+json")];

#[rustfmt::skip]
const PUSH: &[Row] = &[
    // Checking that the registry speaks the specification.
    ("GET /v2/", &[], "", 200, &[("docker-distribution-api-version", "registry/2.0")], "{}"),
    // Pushing a blob monolithically: POST, then PUT.
    ("POST /v2/spec/app/blobs/uploads/", &[], "", 202, &[("location", "*"), ("range", "0-0"), ("docker-upload-uuid", "*")], ""),
    ("PUT {location}?digest={config}", OCTETS, "@config", 201, &[("location", "/v2/spec/app/blobs/{config}"), ("docker-content-digest", "{config}")], ""),
    // The same with a single POST.
    ("POST /v2/spec/app/blobs/uploads/?digest={layer}", OCTETS, "@layer", 201, &[("location", "/v2/spec/app/blobs/{layer}"), ("docker-content-digest", "{layer}")], ""),
    // A blob that is there already may be pushed again.
    ("POST /v2/spec/app/blobs/uploads/?digest={layer}", OCTETS, "@layer", 201, &[("location", "/v2/spec/app/blobs/{layer}")], ""),
    ("POST /v2/spec/app/blobs/uploads/?digest={config}", OCTETS, "@layer", 400, &[], "DIGEST_INVALID"),
    ("POST /v2/spec/app/blobs/uploads/?digest=sha256:1234", OCTETS, "@layer", 400, &[], "DIGEST_INVALID"),
    ("POST /v2/spec/app/blobs/uploads/?digest=sha512:1234", OCTETS, "@layer", 400, &[], "UNSUPPORTED"),
    ("POST /v2/Spec/blobs/uploads/", &[], "", 400, &[], "NAME_INVALID"),
    // In chunks, each saying where it belongs.
    ("POST /v2/spec/app/blobs/uploads/", &[("content-length", "0")], "", 202, &[("location", "*")], ""),
    ("PATCH {location}", &[("content-range", "0-3")], "@chunked[0..4]", 202, &[("location", "*"), ("range", "0-3")], ""),
    ("GET {location}", &[], "", 204, &[("location", "*"), ("range", "0-3")], ""),
    ("PATCH {location}", &[("content-range", "6-9")], "@chunked[6..10]", 416, &[("location", "*"), ("range", "0-3")], "BLOB_UPLOAD_INVALID"),
    ("PATCH {location}", &[("content-range", "0-3")], "@chunked[0..4]", 416, &[("location", "*"), ("range", "0-3")], "BLOB_UPLOAD_INVALID"),
    ("PATCH {location}", &[("content-range", "4-5")], "@chunked[4..6]", 202, &[("location", "*"), ("range", "0-5")], ""),
    ("PUT {location}", &[("content-range", "6-9")], "@chunked[6..10]", 400, &[], "DIGEST_INVALID"),
    ("GET {location}", &[], "", 204, &[("location", "*"), ("range", "0-5")], ""),
    ("PUT {location}?digest={chunked}", &[("content-range", "6-9")], "@chunked[6..10]", 201, &[("location", "/v2/spec/app/blobs/{chunked}")], ""),
    ("GET /v2/spec/app/blobs/{chunked}", &[], "", 200, &[("content-length", "10")], "0123456789"),
    // In a stream, as Docker sends it: nothing says where the chunk belongs, and the PUT has no body.
    ("POST /v2/spec/app/blobs/uploads/", &[], "", 202, &[("location", "*")], ""),
    ("PATCH {location}", OCTETS, "@streamed", 202, &[("location", "*"), ("range", "0-7")], ""),
    ("PUT {location}?digest={streamed}", &[("content-length", "0")], "", 201, &[("docker-content-digest", "{streamed}")], ""),
    // Giving up.
    ("POST /v2/spec/app/blobs/uploads/", &[], "", 202, &[("location", "*")], ""),
    ("DELETE {location}", &[], "", 204, &[], ""),
    ("GET {location}", &[], "", 404, &[], "BLOB_UPLOAD_UNKNOWN"),
    ("PATCH {location}", &[], "@chunked", 404, &[], "BLOB_UPLOAD_UNKNOWN"),
    // Mounting from another repository; what is not there becomes an upload.
    ("POST /v2/spec/copy/blobs/uploads/?mount={layer}&from=spec/app", &[], "", 201, &[("location", "/v2/spec/copy/blobs/{layer}"), ("docker-content-digest", "{layer}")], ""),
    ("POST /v2/spec/copy/blobs/uploads/?mount={config}", &[], "", 201, &[("location", "/v2/spec/copy/blobs/{config}")], ""),
    ("POST /v2/spec/copy/blobs/uploads/?mount={chunked}&from=spec/nobody", &[], "", 202, &[("location", "*"), ("docker-upload-uuid", "*")], ""),
    ("POST /v2/spec/copy/blobs/uploads/?mount=sha256:1&from=spec/app", &[], "", 400, &[], "DIGEST_INVALID"),
    // Manifests need what they refer to, in their own repository.
    ("PUT /v2/spec/copy/manifests/v1", IMAGE, "@missing", 400, &[], "MANIFEST_BLOB_UNKNOWN"),
    ("PUT /v2/spec/app/manifests/v1", IMAGE, "@image", 201, &[("location", "/v2/spec/app/manifests/{image}"), ("docker-content-digest", "{image}"), ("oci-subject", "-")], ""),
    ("PUT /v2/spec/app/manifests/{image}", IMAGE, "@image", 201, &[("location", "/v2/spec/app/manifests/{image}")], ""),
    ("PUT /v2/spec/app/manifests/{layer}", IMAGE, "@image", 400, &[], "DIGEST_INVALID"),
    ("PUT /v2/spec/app/manifests/.v1", IMAGE, "@image", 400, &[], "MANIFEST_INVALID"),
    ("PUT /v2/spec/app/manifests/v1", INDEX, "@image", 400, &[], "MANIFEST_INVALID"),
    ("PUT /v2/spec/app/manifests/v1", IMAGE, "@layer", 400, &[], "MANIFEST_INVALID"),
    ("PUT /v2/spec/app/manifests/docker", DOCKER, "@docker", 201, &[("docker-content-digest", "{docker}")], ""),
    // Indexes and lists need their manifests.
    ("PUT /v2/spec/app/manifests/broken", INDEX, "@broken", 400, &[], "MANIFEST_BLOB_UNKNOWN"),
    ("PUT /v2/spec/app/manifests/all", INDEX, "@index", 201, &[("docker-content-digest", "{index}")], ""),
    ("PUT /v2/spec/app/manifests/list", DOCKER_LIST, "@list", 201, &[("docker-content-digest", "{list}")], ""),
    // A manifest about another manifest is accepted before that is there.
    ("PUT /v2/spec/app/manifests/{early}", IMAGE, "@early", 201, &[("oci-subject", "{layer}")], ""),
    ("PUT /v2/spec/app/manifests/{signature}", IMAGE, "@signature", 201, &[("oci-subject", "{image}")], ""),
    ("PUT /v2/spec/app/manifests/{bom}", IMAGE, "@bom", 201, &[("oci-subject", "{image}")], ""),
    ("PUT /v2/spec/app/manifests/{bundle}", INDEX, "@bundle", 201, &[("oci-subject", "{image}")], ""),
];

#[rustfmt::skip]
const PULL: &[Row] = &[
    ("GET /v2/spec/app/manifests/v1", &[("accept", "application/vnd.oci.image.manifest.v1+json")], "", 200, &[("content-type", "application/vnd.oci.image.manifest.v1+json"), ("docker-content-digest", "{image}"), ("etag", "\"{image}\"")], "@image"),
    ("GET /v2/spec/app/manifests/{image}", &[], "", 200, &[("docker-content-digest", "{image}")], "@image"),
    ("GET /v2/spec/app/manifests/docker", &[], "", 200, &[("content-type", "application/vnd.docker.distribution.manifest.v2+json")], "@docker"),
    ("GET /v2/spec/app/manifests/all", &[], "", 200, &[("content-type", "application/vnd.oci.image.index.v1+json")], "@index"),
    ("GET /v2/spec/app/manifests/list", &[], "", 200, &[("content-type", "application/vnd.docker.distribution.manifest.list.v2+json")], "@list"),
    ("HEAD /v2/spec/app/manifests/v1", &[], "", 200, &[("content-length", "*"), ("docker-content-digest", "{image}")], ""),
    ("GET /v2/spec/app/manifests/v1", &[("if-none-match", "\"{image}\"")], "", 304, &[("etag", "\"{image}\"")], ""),
    ("GET /v2/spec/app/manifests/v1", &[("if-none-match", "\"{index}\"")], "", 200, &[], "@image"),
    ("GET /v2/spec/app/manifests/none", &[], "", 404, &[], "MANIFEST_UNKNOWN"),
    ("HEAD /v2/spec/app/manifests/none", &[], "", 404, &[], ""),
    ("GET /v2/spec/app/manifests/{chunked}", &[], "", 404, &[], "MANIFEST_UNKNOWN"),
    ("GET /v2/spec/app/manifests/sha512:1234", &[], "", 400, &[], "UNSUPPORTED"),
    ("GET /v2/spec/none/manifests/v1", &[], "", 404, &[], "NAME_UNKNOWN"),
    ("GET /v2/spec/app/blobs/{layer}", &[], "", 200, &[("content-type", "application/octet-stream"), ("docker-content-digest", "{layer}"), ("accept-ranges", "bytes")], "@layer"),
    ("HEAD /v2/spec/app/blobs/{layer}", &[], "", 200, &[("content-length", "9"), ("docker-content-digest", "{layer}")], ""),
    ("GET /v2/spec/app/blobs/{chunked}", &[("range", "bytes=2-5")], "", 206, &[("content-range", "bytes 2-5/10"), ("content-length", "4")], "2345"),
    ("GET /v2/spec/app/blobs/{chunked}", &[("range", "bytes=7-")], "", 206, &[("content-range", "bytes 7-9/10")], "789"),
    ("GET /v2/spec/app/blobs/{chunked}", &[("range", "bytes=-2")], "", 206, &[("content-range", "bytes 8-9/10")], "89"),
    ("HEAD /v2/spec/app/blobs/{chunked}", &[("range", "bytes=2-5")], "", 206, &[("content-length", "4")], ""),
    ("GET /v2/spec/app/blobs/{chunked}", &[("range", "bytes=10-")], "", 416, &[("content-range", "bytes */10")], "SIZE_INVALID"),
    ("GET /v2/spec/app/blobs/{chunked}", &[("range", "bytes=2-5"), ("if-range", "\"{chunked}\"")], "", 206, &[], "2345"),
    ("GET /v2/spec/app/blobs/{chunked}", &[("range", "bytes=2-5"), ("if-range", "\"{layer}\"")], "", 200, &[], "0123456789"),
    ("GET /v2/spec/app/blobs/{chunked}", &[("if-none-match", "W/\"{layer}\", \"{chunked}\"")], "", 304, &[], ""),
    ("GET /v2/spec/app/blobs/{nobody}", &[], "", 404, &[], "BLOB_UNKNOWN"),
    ("HEAD /v2/spec/app/blobs/{nobody}", &[], "", 404, &[], ""),
    ("GET /v2/spec/copy/blobs/{chunked}", &[], "", 404, &[], "BLOB_UNKNOWN"),
    ("GET /v2/spec/app/blobs/sha256:XYZ", &[], "", 400, &[], "DIGEST_INVALID"),
];

#[rustfmt::skip]
const DISCOVERY: &[Row] = &[
    ("GET /v2/spec/app/tags/list", &[], "", 200, &[("content-type", "application/json"), ("link", "-")], r#"{"name":"spec/app","tags":["all","docker","list","v1"]}"#),
    ("GET /v2/spec/app/tags/list?n=3", &[], "", 200, &[("link", "</v2/spec/app/tags/list?n=3&last=list>; rel=\"next\"")], r#"["all","docker","list"]"#),
    ("GET /v2/spec/app/tags/list?n=3&last=list", &[], "", 200, &[("link", "-")], r#"["v1"]"#),
    ("GET /v2/spec/app/tags/list?last=b", &[], "", 200, &[], r#"["docker","list","v1"]"#),
    ("GET /v2/spec/app/tags/list?n=0", &[], "", 200, &[("link", "-")], r#"[]"#),
    ("GET /v2/spec/app/tags/list?n=many", &[], "", 400, &[], "UNSUPPORTED"),
    ("GET /v2/spec/none/tags/list", &[], "", 404, &[], "NAME_UNKNOWN"),
    ("PUT /v2/aaa/manifests/empty", INDEX, "@empty", 201, &[], ""),
    ("GET /v2/_catalog", &[], "", 200, &[("link", "-")], r#"{"repositories":["aaa","spec/app"]}"#),
    ("GET /v2/_catalog?n=1", &[], "", 200, &[("link", "</v2/_catalog?n=1&last=aaa>; rel=\"next\"")], r#"{"repositories":["aaa"]}"#),
    ("GET /v2/_catalog?n=1&last=aaa", &[], "", 200, &[("link", "-")], r#"{"repositories":["spec/app"]}"#),
    // Referrers: everything, filtered, nothing; never 404.
    ("GET /v2/spec/app/referrers/{image}", &[], "", 200, &[("content-type", "application/vnd.oci.image.index.v1+json"), ("oci-filters-applied", "-"), ("link", "-")], "{bom}"),
    ("GET /v2/spec/app/referrers/{image}", &[], "", 200, &[], "{signature}"),
    ("GET /v2/spec/app/referrers/{image}", &[], "", 200, &[], "{bundle}"),
    ("GET /v2/spec/app/referrers/{image}", &[], "", 200, &[], r#""annotations":{"who":"me"}"#),
    ("GET /v2/spec/app/referrers/{image}?artifactType=application/x.signature", &[], "", 200, &[("oci-filters-applied", "artifactType")], r#""artifactType":"application/x.signature""#),
    // Without an artifact type of its own, a manifest has its configuration's.
    ("GET /v2/spec/app/referrers/{image}?artifactType=application/x.bom.config", &[], "", 200, &[("oci-filters-applied", "artifactType")], "{bom}"),
    ("GET /v2/spec/app/referrers/{image}?artifactType=application/none", &[], "", 200, &[("oci-filters-applied", "artifactType")], r#""manifests":[]"#),
    ("GET /v2/spec/app/referrers/{layer}", &[], "", 200, &[], "{early}"),
    ("GET /v2/spec/none/referrers/{image}", &[], "", 200, &[], r#""manifests":[]"#),
    ("GET /v2/spec/app/referrers/image", &[], "", 400, &[], "DIGEST_INVALID"),
];

#[rustfmt::skip]
const DELETE: &[Row] = &[
    // A blob that something else needs stays.
    ("DELETE /v2/spec/app/blobs/{layer}", &[], "", 405, &[("allow", "*")], "DENIED"),
    ("DELETE /v2/spec/app/manifests/{image}", &[], "", 405, &[("allow", "*")], "lists it: delete that first"),
    ("GET /v2/spec/app/manifests/{image}", &[], "", 200, &[], "@image"),
    // A tag goes alone.
    ("DELETE /v2/spec/app/manifests/all", &[], "", 202, &[], ""),
    ("GET /v2/spec/app/manifests/all", &[], "", 404, &[], "MANIFEST_UNKNOWN"),
    ("GET /v2/spec/app/manifests/{index}", &[], "", 200, &[], "@index"),
    ("DELETE /v2/spec/app/manifests/all", &[], "", 404, &[], "MANIFEST_UNKNOWN"),
    // A manifest goes with its tags.
    ("DELETE /v2/spec/app/manifests/{index}", &[], "", 202, &[], ""),
    ("DELETE /v2/spec/app/manifests/{list}", &[], "", 202, &[], ""),
    ("DELETE /v2/spec/app/manifests/{index}", &[], "", 404, &[], "MANIFEST_UNKNOWN"),
    ("DELETE /v2/spec/app/manifests/{bundle}", &[], "", 202, &[], ""),
    ("DELETE /v2/spec/app/manifests/{image}", &[], "", 202, &[], ""),
    ("GET /v2/spec/app/manifests/v1", &[], "", 404, &[], "MANIFEST_UNKNOWN"),
    ("GET /v2/spec/app/manifests/{image}", &[], "", 404, &[], "MANIFEST_UNKNOWN"),
    ("GET /v2/spec/app/tags/list", &[], "", 200, &[], r#""tags":["docker"]"#),
    ("GET /v2/spec/app/referrers/{image}", &[], "", 200, &[], "{bom}"),
    ("DELETE /v2/spec/app/manifests/sha256:12", &[], "", 400, &[], "DIGEST_INVALID"),
    ("DELETE /v2/spec/none/manifests/v1", &[], "", 404, &[], "NAME_UNKNOWN"),
    // A blob goes from its repository and stays in others.
    ("DELETE /v2/spec/app/manifests/docker", &[], "", 202, &[], ""),
    ("DELETE /v2/spec/app/manifests/{docker}", &[], "", 202, &[], ""),
    ("DELETE /v2/spec/app/blobs/{chunked}", &[], "", 202, &[], ""),
    ("GET /v2/spec/app/blobs/{chunked}", &[], "", 404, &[], "BLOB_UNKNOWN"),
    ("DELETE /v2/spec/app/blobs/{chunked}", &[], "", 404, &[], "BLOB_UNKNOWN"),
    ("DELETE /v2/spec/app/blobs/{layer}", &[], "", 405, &[], "DENIED"),
    ("DELETE /v2/spec/copy/blobs/{layer}", &[], "", 202, &[], ""),
    ("GET /v2/spec/app/blobs/{layer}", &[], "", 200, &[], "@layer"),
    ("DELETE /v2/spec/app/tags/list", &[], "", 405, &[("allow", "GET, HEAD")], "UNSUPPORTED"),
];

fn contents() -> BTreeMap<&'static str, Vec<u8>> {
    let mut contents: BTreeMap<_, Vec<u8>> = [
        ("config", "{}"),
        ("layer", "the layer"),
        ("chunked", "0123456789"),
        ("streamed", "streamed"),
        ("nobody", "pushes this"),
        ("empty", r#"{"schemaVersion":2,"manifests":[]}"#),
    ]
    .map(|(name, text)| (name, text.into()))
    .into();
    let entry = |media_type: &str, bytes: &[u8]| json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() });
    let config = entry("application/vnd.oci.image.config.v1+json", &contents["config"]);
    let layer = entry("application/vnd.oci.image.layer.v1.tar", &contents["layer"]);
    let missing = entry("application/vnd.oci.image.layer.v1.tar", b"missing");
    let image = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]});
    let with_layers = |layers: Value| {
        let mut image = image.clone();
        image["layers"] = layers;
        image
    };
    let about = |subject: &[u8], kind: Option<&str>, config_type: &str| {
        let mut manifest = image.clone();
        manifest["subject"] = entry(OCI_MANIFEST, subject);
        manifest["config"]["mediaType"] = config_type.into();
        manifest["annotations"] = json!({"who": "me"});
        if let Some(kind) = kind {
            manifest["artifactType"] = kind.into();
        }
        manifest
    };
    let image_bytes = image.to_string().into_bytes();
    let index =
        |media_type: &str, entries: Value| json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries});
    let (oci_index, docker_list) = (INDEX[0].1, DOCKER_LIST[0].1);
    let mut docker = image.clone();
    docker["mediaType"] = DOCKER[0].1.into();
    let docker_bytes = docker.to_string().into_bytes();
    let mut bundle = index(oci_index, json!([]));
    bundle["subject"] = entry(OCI_MANIFEST, &image_bytes);
    bundle["artifactType"] = "application/x.bundle".into();
    for (name, document) in [
        ("missing", with_layers(json!([missing]))),
        ("docker", docker),
        ("index", index(oci_index, json!([entry(OCI_MANIFEST, &image_bytes), layer]))),
        ("broken", index(oci_index, json!([entry(OCI_MANIFEST, b"nobody")]))),
        ("list", index(docker_list, json!([entry(DOCKER[0].1, &docker_bytes)]))),
        ("early", about(b"the layer", Some("application/x.early"), "application/x.config")),
        ("signature", about(&image_bytes, Some("application/x.signature"), "application/x.config")),
        ("bom", about(&image_bytes, None, "application/x.bom.config")),
        ("bundle", bundle),
        ("image", image),
    ] {
        contents.insert(name, document.to_string().into_bytes());
    }
    contents
}

/// A text with digests and location in place.
fn fill(text: &str, contents: &BTreeMap<&str, Vec<u8>>, location: &str) -> String {
    let mut text = text.replace("{location}", location);
    for (name, bytes) in contents {
        text = text.replace(&format!("{{{name}}}"), &Digest::of(bytes).to_string());
    }
    text
}

/// The bytes that a row means.
fn bytes(text: &str, contents: &BTreeMap<&str, Vec<u8>>) -> Vec<u8> {
    let Some(name) = text.strip_prefix('@') else { return fill(text, contents, "").into_bytes() };
    let Some((name, range)) = name.split_once('[') else { return contents[name].clone() };
    let (from, to) = range.trim_end_matches(']').split_once("..").unwrap();
    contents[name][from.parse().unwrap()..to.parse().unwrap()].to_vec()
}

#[tokio::test]
async fn requests_are_answered_as_the_specification_says() {
    let r = Registry::start().await;
    let contents = contents();
    let mut location = String::new();
    for (section, rows) in [("push", PUSH), ("pull", PULL), ("discovery", DISCOVERY), ("delete", DELETE)] {
        for (line, headers, body, status, expected, part) in rows {
            let row = format!("{section}: {line} {headers:?} {body}");
            let (method, path) = line.split_once(' ').unwrap();
            let path = fill(path, &contents, &location);
            let sent: Vec<_> = headers.iter().map(|(name, value)| (*name, fill(value, &contents, ""))).collect();
            let sent: Vec<_> = sent.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let answer = r.call(method, &path, &sent, bytes(body, &contents)).await;
            assert_eq!(answer.status, *status, "{row}\n{}", answer.text());
            for (name, value) in *expected {
                let (found, value) = (answer.header(name), fill(value, &contents, ""));
                match value.as_str() {
                    "*" => assert_ne!(found, "", "{row}: {name}"),
                    "-" => assert_eq!(found, "", "{row}: {name}"),
                    value => assert_eq!(found, value, "{row}: {name}"),
                }
            }
            match part.strip_prefix('@') {
                Some(_) => assert_eq!(answer.body, bytes(part, &contents), "{row}"),
                None => {
                    let part = fill(part, &contents, "");
                    assert!(answer.text().contains(&part), "{row}: \"{part}\" is not in {}", answer.text());
                }
            }
            if method == "HEAD" {
                assert_eq!(answer.body, "", "{row}");
            } else if answer.status.as_u16() >= 400 {
                assert!(answer.json()["errors"][0]["message"].is_string(), "{row}: {}", answer.text());
            }
            if !answer.header("location").is_empty() {
                location = answer.header("location").to_owned();
            }
        }
    }
}

#[tokio::test]
async fn many_referrers_come_in_pages() {
    let r = Registry::start().await;
    r.push_image("a", "v1", "content").await;
    let subject = Digest::of(b"subject");
    let kinds = ["application/x.one+json", "application/x.two"];
    for n in 0..40 {
        // Two of them fill a page.
        let text = "x".repeat(80 << 10);
        let document = json!({"schemaVersion": 2, "mediaType": INDEX[0].1, "manifests": [],
            "subject": {"mediaType": OCI_MANIFEST, "digest": subject, "size": 7},
            "artifactType": kinds[n % 2], "annotations": {"n": n.to_string(), "text": text}});
        let path = format!("/v2/a/manifests/{}", Digest::of(document.to_string().as_bytes()));
        let put = r.call("PUT", &path, INDEX, document.to_string()).await;
        assert_eq!((put.status.as_u16(), put.header("oci-subject")), (201, &*subject.to_string()));
    }
    let all = async |query: &str| {
        let (mut path, mut seen, mut pages) = (format!("/v2/a/referrers/{subject}{query}"), Vec::new(), 0);
        loop {
            let page = r.get(&path).await;
            assert_eq!(page.status, 200);
            assert_eq!(page.header("oci-filters-applied").is_empty(), query.is_empty());
            let json = page.json();
            seen.extend(json["manifests"].as_array().unwrap().iter().map(|m| m["annotations"]["n"].clone()));
            pages += 1;
            match page.header("link").strip_prefix('<').and_then(|link| link.split_once('>')) {
                Some((next, _)) => path = next.to_owned(),
                None => break,
            }
        }
        let distinct: std::collections::BTreeSet<String> = seen.iter().map(ToString::to_string).collect();
        assert_eq!(distinct.len(), seen.len(), "each once");
        (seen.len(), pages)
    };
    let (count, pages) = all("").await;
    assert!(count == 40 && pages > 1, "{count} on {pages} pages");
    assert_eq!(all("?artifactType=application/x.one%2Bjson").await.0, 20);
}
