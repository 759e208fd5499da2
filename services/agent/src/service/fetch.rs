//! Having the image of a revision where the runtime runs it.

use super::{
    Service,
    revision_supervisor::{RevisionHealth, RevisionSupervisor},
};
use crate::{
    images::{Description, FIRST_PATIENCE, Failure, RETRY_PATIENCE, Tree},
    runtime::Program,
    store::{ImageFacts, Revision, StoredPhase},
};
use hoistway_kit::{backoff::Backoff, telemetry};
use hoistway_model::{Code, Digest, Error, Result, image::ImageRef};
use std::{sync::Arc, time::Duration};
use tracing::Span;

/// The pauses before an unreachable registry is called again.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(60));

impl Service {
    /// The revision's program, and what its image has shown; the image is pulled as often as it takes while its registry
    /// cannot be reached.
    pub(super) async fn fetch(self: &Arc<Self>, supervisor: &Arc<RevisionSupervisor>) -> Result<(ImageFacts, Program)> {
        let revision = &supervisor.revision;
        if let Some(known) = &revision.image
            && !self.runtime.runs_images()
            && let Some(program) = self.unpacked_before(supervisor, known).await?
        {
            pulled_from(&known.digest, true);
            return Ok((known.clone(), program));
        }
        let mut image = revision.spec.image.clone();
        if let Some(known) = &revision.image {
            image.digest = Some(known.digest);
        }
        let mut backoff = BACKOFF;
        let mut patience = FIRST_PATIENCE;
        let mut told = revision.phase == StoredPhase::PendingImage;
        loop {
            let pulled = match self.runtime.runs_images() {
                true => self.pull_whole(supervisor, &image, patience).await,
                false => self.pull_unpacked(supervisor, &image, patience).await,
            };
            match pulled {
                Ok((facts, program)) => {
                    pulled_from(&facts.digest, false);
                    if facts.has_former_packages() && revision.spec.build_id.is_none() {
                        tracing::warn!(
                            agent = %revision.spec.agent,
                            "the packages in {} were put together by an older Hoistway, which did not check them against \
                             their wheels: deploy the agent from its source, or with an image that is built now",
                            image.display_tagged()
                        );
                    }
                    return Ok((facts, program));
                }
                Err(Failure::Final(e)) => return Err(e),
                Err(Failure::Unreachable(why)) => {
                    if !told && !supervisor.proven {
                        let kept = self.store.keep_outcome(&revision.id, StoredPhase::PendingImage, &why, None).await;
                        // The database may be away as well; both come back.
                        told = kept.inspect_err(|e| tracing::warn!(cause = e.chain(), "{e}")).is_ok();
                    }
                    tracing::info!(agent = %revision.spec.agent, "an image cannot be pulled yet: {why}");
                    supervisor.set(|c| c.life = RevisionHealth::Waiting { why });
                    self.refresh_soon(&revision.spec.agent);
                }
            }
            tokio::time::sleep(backoff.jittered_pause()).await;
            patience = RETRY_PATIENCE;
        }
    }

    /// The layers of a known image, if they are all on this machine.
    async fn unpacked_before(&self, supervisor: &RevisionSupervisor, known: &ImageFacts) -> Result<Option<Program>> {
        self.interpreter.suits(&known.python).map_err(|e| match &supervisor.revision.spec.build_id {
            // The gateway sees to it.
            Some(_) => Error::new(e.code, self.interpreter.changed(&known.python)),
            None => e,
        })?;
        let Some((tree, pins)) = self.images.store().tree(&known.layers).await? else { return Ok(None) };
        supervisor.pins().push(pins);
        Ok(Some(self.unpacked(tree)))
    }

    /// Pulls and unpacks the image's own layers.
    async fn pull_unpacked(
        &self,
        supervisor: &RevisionSupervisor,
        image: &ImageRef,
        patience: Duration,
    ) -> Result<(ImageFacts, Program), Failure> {
        let (description, pins) = self.images.pull(image, patience).await?;
        let found = self.images.store().tree(&description.layers).await.map_err(Failure::Final)?;
        let (tree, site) = found.ok_or_else(|| {
            let text = format!("{} has no source or no runner in it", image.display_tagged());
            Failure::Final(Error::new(Code::UnsupportedImage, text))
        })?;
        *supervisor.pins() = vec![pins, site];
        Ok((facts(description), self.unpacked(tree)))
    }

    /// Lets the runtime pull the image. A known one needs no registry that answers.
    async fn pull_whole(
        &self,
        supervisor: &RevisionSupervisor,
        image: &ImageRef,
        patience: Duration,
    ) -> Result<(ImageFacts, Program), Failure> {
        let Revision { image: known, spec, .. } = &supervisor.revision;
        let facts = match (self.images.describe(image, patience).await, known) {
            (Ok(description), _) if !description.has_base => {
                let remedy = match (known, &spec.build_id) {
                    // It ran as a process before, and the gateway sees to it.
                    (Some(_), Some(_)) => {
                        "with base_image (hoistway up --base-image REPOSITORY:TAG) it is built again from the source that \
                         its image keeps; /api/deployments tells how that goes"
                    }
                    _ => "set base_image (hoistway up --base-image REPOSITORY:TAG) and deploy the source again",
                };
                let text = format!(
                    "{} was built without a base image, so it has no Python, and the docker runtime runs it as it is: {remedy}",
                    image.display_tagged()
                );
                return Err(Failure::Final(Error::new(Code::UnsupportedImage, text)));
            }
            (Ok(description), Some(known)) => ImageFacts { has_base: Some(description.has_base), ..known.clone() },
            (Err(_), Some(known)) => known.clone(),
            (described, None) => facts(described?),
        };
        let program = self.runtime.pull(image, &facts.digest).await?;
        Ok((facts, program))
    }

    fn unpacked(&self, tree: Tree) -> Program {
        Program::Unpacked {
            app_dir: tree.app_dir,
            site_dirs: tree.site_dirs,
            site_layers: tree.site_layers,
            runner: tree.runner,
            interpreter: self.interpreter.path.clone(),
        }
    }
}

/// Notes in the current span which image was used, and whether all of it was unpacked already.
fn pulled_from(digest: &Digest, unpacked_before: bool) {
    let span = Span::current();
    telemetry::set_attribute(&span, "oci.manifest.digest", digest.to_string());
    telemetry::set_attribute(&span, "hoistway.image.unpacked_before", unpacked_before);
}

fn facts(description: Description) -> ImageFacts {
    let Description { digest, layers, has_base, python, layout, entry_point } = description;
    ImageFacts { digest, layers, python, layout, has_base: Some(has_base), entry_point }
}
