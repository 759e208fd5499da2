//! The referrers that an image has of its own: those that its build wrote, unlike those that clients push. The image
//! needs them, as an index needs the manifests that it lists, so nothing removes them while the image is there; and
//! they go in the same transaction as the image, or when another build of it wrote others.

use super::{delete::remove_manifest, sql};
use crate::registry::Manifest;
use hoistway_model::{Digest, Result};
use sea_orm::{ConnectionTrait, FromQueryResult};

const DOING: &str = "removing what belongs to an image";

/// A manifest that an image needs and whose subject is that image.
const OWN: &str = "SELECT m.digest FROM registry_manifests m WHERE m.repo = $1 AND m.subject = $2 AND EXISTS (
    SELECT 1 FROM registry_references r WHERE r.repo = m.repo AND r.manifest = m.subject AND r.digest = m.digest)";

#[derive(FromQueryResult)]
struct Row {
    digest: String,
}

/// Removes the own referrers of an image but those of `kept`. One that somebody tagged stays, as any pushed manifest
/// would.
pub(super) async fn remove_own_referrers<C: ConnectionTrait>(
    conn: &C,
    repo: &str,
    image: Digest,
    kept: &[Manifest],
) -> Result<()> {
    let image = image.to_string();
    let own: Vec<Row> = sql::query(conn, DOING, OWN, [repo.into(), image.clone().into()]).await?;
    for Row { digest } in own {
        if kept.iter().any(|manifest| manifest.digest().to_string() == digest) {
            continue;
        }
        let text = "DELETE FROM registry_references WHERE repo = $1 AND manifest = $2 AND digest = $3";
        sql::execute(conn, DOING, text, [repo.into(), image.clone().into(), digest.clone().into()]).await?;
        let text = "SELECT digest FROM registry_tags WHERE repo = $1 AND digest = $2 LIMIT 1";
        let tagged: Vec<Row> = sql::query(conn, DOING, text, [repo.into(), digest.clone().into()]).await?;
        if tagged.is_empty() {
            remove_manifest(conn, repo, &digest).await?;
        }
    }
    Ok(())
}
