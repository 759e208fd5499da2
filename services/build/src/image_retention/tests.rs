//! The whole service: what becomes of built images.
#![allow(clippy::unwrap_used)]

use crate::{Builder, Config, Deps, open, registry::RegistryConfig, service::Quotes};
use futures_util::StreamExt;
use hoistway_kit::token::ServiceToken;
use hoistway_model::{
    BuildAttemptId, BuildService, Code, Name, Operation,
    build::{BuildQuery, BuildRequest, BuildSource, BuiltImage},
    image::StoredImage,
    log::LogQuery,
};
use tokio_util::sync::CancellationToken;

/// A service on `dir` that has no patience with garbage.
async fn service(dir: &std::path::Path, min_free_bytes: u64) -> Builder {
    let registry = RegistryConfig { grace_seconds: 0, min_free_bytes, ..RegistryConfig::default() };
    let config = Config { data_dir: dir.to_owned(), registry, launcher: None, ..Config::default() };
    let token = ServiceToken::load_or_create(&config.service_token_file()).unwrap();
    open(&config, &Deps { token, api_key: None }, CancellationToken::new()).await.unwrap().builder
}

fn request(agent: &str, answer: &str) -> BuildRequest {
    let file = format!("def handler(request, context):\n    return {answer:?}\n");
    BuildRequest {
        attempt: BuildAttemptId::mint(),
        agent: Name::parse("agent", agent).unwrap(),
        source: BuildSource::parse([("agent.py".to_owned(), file)].into(), None, None).unwrap(),
        refresh: false,
        mask: Vec::new(),
    }
}

async fn build(builder: &Builder, answer: &str) -> BuiltImage {
    builder.build(Operation::new(), request("agent", answer)).await.unwrap()
}

fn stored(image: &BuiltImage) -> StoredImage {
    StoredImage { repository: image.repository.clone(), digest: image.digest }
}

/// Collects until no build is left; how many images and blobs that were. What is used in the very millisecond stays.
async fn collect_all(builder: &Builder) -> (u64, u64) {
    let (mut images, mut blobs) = (0, 0);
    loop {
        let all_gone = builder.list_builds(BuildQuery { limit: 10, ..BuildQuery::default() }).await.unwrap().is_empty();
        let collected = builder.collect_images(Vec::new()).await.unwrap();
        images += collected.images;
        blobs += collected.blobs;
        if all_gone {
            return (images, blobs);
        }
    }
}

#[tokio::test]
async fn an_image_goes_with_its_record_when_no_agent_uses_it() {
    let dir = tempfile::tempdir().unwrap();
    let builder = service(dir.path(), 0).await;
    let (old, new) = (build(&builder, "old").await, build(&builder, "new").await);
    let collected = builder.collect_images(vec![stored(&new)]).await.unwrap();
    // The source layer, the configuration and the provenance; the runtime layer is every image's, and the SBOM of both.
    assert_eq!((collected.images, collected.blobs), (1, 3));
    assert!(collected.bytes > 0);
    assert_eq!(builder.get_build(old.build_id.clone()).await.unwrap_err().code, Code::NotFound);
    assert_eq!(builder.get_build(new.build_id.clone()).await.unwrap().image, Some(new.clone()));
    assert_eq!(builder.keep_images(vec![stored(&old)]).await.unwrap_err().code, Code::ImageNotFound);
    builder.keep_images(vec![stored(&new)]).await.unwrap();
    // It is built again, to the same bytes.
    assert_eq!(build(&builder, "old").await, old);
    assert_eq!(builder.collect_images(vec![stored(&old), stored(&new)]).await.unwrap().images, 0);
    let all = builder.collect_images(Vec::new()).await.unwrap();
    // Three of each, and what they had in common: the SBOM and the configuration of artifacts.
    assert_eq!((all.images, all.blobs), (2, 8));
    assert_eq!(builder.list_builds(hoistway_model::build::BuildQuery::default()).await.unwrap(), []);
    assert_eq!(build(&builder, "new").await, new, "the runtime layer is still there");
}

#[tokio::test]
async fn builds_beside_collections_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let builder = service(dir.path(), 0).await;
    let collecting = {
        let builder = builder.clone();
        tokio::spawn(async move {
            loop {
                builder.collect_images(Vec::new()).await.unwrap();
            }
        })
    };
    for round in 0..60 {
        build(&builder, &format!("answer {}", round % 3)).await;
    }
    collecting.abort();
    assert!(collecting.await.unwrap_err().is_cancelled());
}

#[tokio::test]
async fn a_full_disk_refuses_new_builds_only() {
    let dir = tempfile::tempdir().unwrap();
    let image = build(&service(dir.path(), 0).await, "built").await;
    let builder = service(dir.path(), u64::MAX).await;
    let refused = builder.build(Operation::new(), request("agent", "new")).await.unwrap_err();
    assert_eq!((refused.code, refused.code.http_status()), (Code::InsufficientStorage, 507));
    assert!(refused.message.contains("are to be kept free"), "{refused}");
    assert_eq!(build(&builder, "built").await, image, "what is built already needs no room");
    assert_eq!(collect_all(&builder).await.0, 1, "and making room is always possible");
}

#[tokio::test]
async fn a_rebuild_quotes_no_source() {
    let dir = tempfile::tempdir().unwrap();
    let builder = service(dir.path(), 0).await;
    let broken = || {
        let file = "key = 'sk-unmasked' 'x' = 1\n".to_owned();
        let source = BuildSource::parse([("agent.py".to_owned(), file)].into(), None, None).unwrap();
        BuildRequest { source, ..request("agent", "") }
    };
    let told = builder.answer(Operation::new(), broken(), Quotes::Masked).await.unwrap_err();
    assert!(told.details.iter().any(|line| line.contains("sk-unmasked")), "{:?}", told.details);
    let request = broken();
    let id = request.attempt.to_string();
    let quiet = builder.answer(Operation::new(), request, Quotes::Never).await.unwrap_err();
    assert_eq!((quiet.code, quiet.message, quiet.details.len()), (Code::SyntaxError, told.message, 0));
    let log: Vec<_> = builder.build_logs(id, LogQuery::default()).await.unwrap().collect().await;
    let log = format!("{log:?}");
    assert!(log.contains("syntax error in agent.py, line 1") && !log.contains("sk-unmasked"), "{log}");
}
