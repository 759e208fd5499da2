//! Attaching documents to an image in its registry: as referrers where the registry lists them, and else in an index
//! whose tag follows from the image's digest, which the distribution specification has for that.

use super::{ANSWER_LIMIT, ImagePusher, failed, push::Push, within};
use crate::registry::{BlobStore, Manifest, OCI_INDEX};
use hoistway_model::{Digest, Error, Result};
use http::HeaderValue;
use oci_client::{Client, Reference, manifest::OciImageIndex};
use serde_json::{Value, json};

impl ImagePusher {
    /// Attaches documents to an image of `repository`, but for those of a kind that the image has already. Returns how
    /// many are new.
    pub async fn attach(
        &self,
        repository: &str,
        image: Digest,
        documents: &[Manifest],
        blobs: &BlobStore,
    ) -> Result<usize> {
        let subject = self.digested(repository, image);
        let client = self.client(&subject).await?;
        let there = referrers(&client, &subject).await?;
        let has = |index: &OciImageIndex, document: &Manifest| {
            let kinds = index.manifests.iter().map(|entry| entry.artifact_type.as_deref());
            kinds.flatten().any(|kind| Some(kind) == document.artifact_type())
        };
        let new: Vec<&Manifest> = documents.iter().filter(|document| !has(&there, document)).collect();
        for document in &new {
            // Its name is its digest, as the only selector of a reference: no tag comes to be.
            let tag = document.digest().to_string();
            self.push_manifest(&Push { repository, tag: &tag, manifest: document, blobs, base: None }).await?;
        }
        if new.is_empty() {
            return Ok(0);
        }
        let client = self.client(&subject).await?;
        let now = referrers(&client, &subject).await?;
        if !new.iter().all(|document| has(&now, document)) {
            let entries = now.manifests.iter().map(serde_json::to_value).collect::<Result<Vec<Value>, _>>();
            let mut entries = entries.map_err(|e| Error::internal("writing an index of referrers", e))?;
            for document in &new {
                entries.push(entry(document)?);
            }
            let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
            let at = self.tagged(repository, &image.to_string().replace(':', "-"));
            let pushed = client.push_manifest_raw(&at, index.to_string(), HeaderValue::from_static(OCI_INDEX)).await;
            pushed.map_err(|e| failed(&at, &format!("pushing {at}"), e))?;
        }
        Ok(new.len())
    }
}

/// The descriptor of a document in an index.
fn entry(document: &Manifest) -> Result<Value> {
    let read: Value =
        serde_json::from_slice(document.bytes()).map_err(|e| Error::internal("reading a referrer's manifest", e))?;
    Ok(json!({
        "mediaType": document.media_type(),
        "digest": document.digest().to_string(),
        "size": document.bytes().len(),
        "artifactType": document.artifact_type(),
        "annotations": read["annotations"],
    }))
}

async fn referrers(client: &Client, subject: &Reference) -> Result<OciImageIndex> {
    let asked = within(ANSWER_LIMIT, client.pull_referrers(subject, None)).await;
    asked.map_err(|e| failed(subject, &format!("asking for the referrers of {subject}"), e))
}
