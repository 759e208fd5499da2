//! From source to an image in the registry: analyse, resolve, install, layer, publish.

use crate::{
    base_image::{BaseImage, FoundBase},
    dependencies::Dependencies,
    image::{Image, ImageLayer, ImageSpec, SOURCE_HISTORY, assemble, build_hex, media_type},
    layer::{Layer, LayerBuilder},
    log::BuildLog,
    python::{Analyser, Interpreter, Target, imports},
    referrers::{self, Contents, Invocation, Referrer},
    registry::{BlobStore, Manifest, NewTag, Reference, RepoName, store::find_manifest},
    remote_registry::{ImagePusher, Push},
    runner_layer::RunnerLayers,
    source_recovery,
    store::{Attempt, Finished, Store},
};
use hoistway_kit::{telemetry::within, time::now_ms};
use hoistway_model::{
    Code, Digest, Error, Name, Result,
    build::{BuildRequest, BuildSource, BuiltImage},
    digest::Hasher,
    image::{APP_DIR, label, layout},
    source::Requirements,
};
use std::{str::FromStr, sync::Arc};
use tracing::info_span;

/// The number of times that a build id is lengthened before two different images with one id are a defect.
const MAX_LENGTHENED: usize = 8;

/// Turns requests into images. Clones share it.
#[derive(Clone)]
pub struct Pipeline(Arc<Inner>);

struct Inner {
    interpreter: Interpreter,
    analyser: Analyser,
    dependencies: Dependencies,
    base: Option<BaseImage>,
    /// Where images are pushed to besides the embedded registry.
    pusher: Option<ImagePusher>,
    store: Store,
    blobs: BlobStore,
    runner: RunnerLayers,
}

/// An image whose blobs are stored, and what belongs to it.
struct WrittenImage {
    image: Image,
    referrers: [Manifest; 2],
}

impl Pipeline {
    /// Makes the runtime layer, puts it into the blob store, and puts everything together.
    pub async fn open(
        interpreter: Interpreter,
        dependencies: Dependencies,
        base: Option<BaseImage>,
        pusher: Option<ImagePusher>,
        store: Store,
        blobs: BlobStore,
    ) -> Result<Self> {
        let sandbox = dependencies.sandbox().clone();
        let runner = RunnerLayers::open(&interpreter, &sandbox, dependencies.work(), blobs.clone()).await?;
        let analyser = Analyser::new(&interpreter, sandbox);
        Ok(Self(Arc::new(Inner { interpreter, analyser, dependencies, base, pusher, store, blobs, runner })))
    }

    /// The digest of everything that decides what a build makes, but for what package indexes answer.
    pub async fn inputs(&self, request: &BuildRequest) -> Result<Digest> {
        let inner = &self.0;
        let BuildSource { files, entry_point, requirements, requires_python: _ } = &request.source;
        let (base, target) = inner.base_and_target().await?;
        let mut inputs = Hasher::new();
        inputs.member(layout::CURRENT.as_bytes());
        inputs.member(request.agent.as_str().as_bytes());
        inputs.member(files.digest().to_string().as_bytes());
        inputs.member(entry_point.as_bytes());
        // No requirements and an empty list of them are different: the first means that imports decide.
        inputs.member(requirements.as_ref().map(|r| format!("={}", r.text())).unwrap_or_default().as_bytes());
        inputs.member(inner.interpreter.identity.as_bytes());
        inputs.member(inner.runner.layer(&target).await?.layer.digest.to_string().as_bytes());
        inputs.member(base.map(|base| base.digest.to_string()).unwrap_or_default().as_bytes());
        if target.wheels().is_some() {
            inputs.member(target.identity().as_bytes());
        }
        Ok(inputs.finish())
    }

    /// Whether everything of an image is still in the registry.
    pub async fn is_whole(&self, image: &BuiltImage) -> Result<bool> {
        let inner = &self.0;
        let repository = repository(&image.repository)?;
        let found = find_manifest(inner.store.db().read(), &repository, &Reference::Digest(image.digest)).await?;
        let Some(stored) = found else { return Ok(false) };
        let manifest = read_manifest(stored.bytes)?;
        // The base matters only where its layers are elsewhere.
        let base = match &inner.pusher {
            Some(_) => inner.base_and_target().await?.0,
            None => None,
        };
        let needed = inner.blobs_here(&manifest, base.as_ref());
        let blobs = inner.blobs.clone();
        let whole = move || needed.iter().all(|digest| blobs.contains(digest));
        let whole = tokio::task::spawn_blocking(whole).await;
        let whole = whole.map_err(|e| Error::internal("looking for an image's blobs", e))?;
        let Some(pusher) = inner.pusher.as_ref().filter(|_| whole) else { return Ok(whole) };
        // A registry that does not answer is no reason to build the same again.
        Ok(pusher.has(repository.as_str(), image.digest).await.unwrap_or_else(|e| {
            tracing::warn!(cause = e.chain(), "whether {} is still in its registry is not known: {e}", image.digest);
            true
        }))
    }

    /// The source of an image that was built here, read out of the image.
    pub async fn source_of(&self, agent: &Name, digest: Digest) -> Result<BuildSource> {
        let inner = &self.0;
        let repository = repository(agent.as_str())?;
        let found = find_manifest(inner.store.db().read(), &repository, &Reference::Digest(digest)).await?;
        let missing = || Error::new(Code::ImageNotFound, format!("the registry has no image {agent}@{digest}"));
        let manifest = found.ok_or_else(missing)?.bytes;
        let blobs = inner.blobs.clone();
        let read = tokio::task::spawn_blocking(move || source_recovery::source(&manifest, &blobs));
        read.await.map_err(|e| Error::internal("reading an image's source", e))?
    }

    /// Builds and publishes.
    pub async fn run(&self, attempt: &Attempt, request: &BuildRequest, log: &BuildLog) -> Result<BuiltImage> {
        let inner = &self.0;
        let source = &request.source;
        // Garbage collection leaves what this build finds or makes.
        let _lease = inner.blobs.lease();
        log.step("requirements");
        let (base, target) = inner.base_and_target().await?;
        log.write_line(format!("building {} from {} files for {target}", request.agent, source.files.len()));
        if target.compiler().is_none() {
            let (own, other) = (inner.interpreter.python(), target.python());
            log.write_line(format!(
                "modules are compiled whenever the agent starts: Python {own} of this machine cannot do it for {other}"
            ));
        }
        inner.copy_base(base.as_ref(), log).await?;
        let analysing = info_span!("build.analyse", hoistway.build.files = source.files.len());
        let requirements = within(analysing, inner.requirements(source, &target, log)).await?;
        let mut layers = vec![inner.runner.layer(&target).await?.clone()];
        let runner = layers[0].layer.digest;
        let (mut lock, mut packages) = (None, Vec::new());
        if let Some(wanted) = &requirements {
            log.step("dependencies");
            let (refresh, store) = (request.refresh, &inner.store);
            let layers_of = inner.dependencies.layers(&request.agent, wanted, refresh, &target, store, log);
            let found = within(info_span!("build.dependencies"), layers_of).await?;
            layers.extend(found.layers);
            lock = Some(found.lock);
            packages = found.packages;
        }
        log.step("image");
        let contents = inner.contents(&request.agent, packages, base.as_ref(), runner);
        let invocation = invocation(attempt, request, &target);
        let describe =
            move |image: &Image, source: &Layer| referrers::write(&contents, &invocation, image, source, now_ms());
        let writing = inner.write_source(source, requirements, layers, (base.as_ref(), &target), describe, log);
        let written = within(info_span!("build.write_image"), writing).await?;
        let WrittenImage { image, referrers } = written;
        let repository = repository(request.agent.as_str())?;
        let manifest = read_manifest(image.manifest.into())?;
        log.step("publish");
        for lengthened in 0..MAX_LENGTHENED {
            let hex = build_hex(&request.agent, image.digest, lengthened);
            let tag = hex.parse().map_err(|e| Error::internal("naming the image", format!("{e:?}")))?;
            let built = BuiltImage {
                build_id: format!("build-{hex}"),
                repository: repository.as_str().to_owned(),
                tag: hex,
                digest: image.digest,
                entry_point: source.entry_point.clone(),
            };
            match &inner.pusher {
                Some(pusher) => {
                    let base = base.as_ref().and_then(|base| base.remote.as_ref());
                    let (repository, tag, blobs) = (built.repository.as_str(), built.tag.as_str(), &inner.blobs);
                    let push = pusher.push(Push { repository, tag, manifest: &manifest, blobs, base }, log);
                    within(info_span!("build.push"), push).await?;
                    // The image runs without them.
                    let attach = pusher.attach(repository, built.digest, &referrers, blobs);
                    match within(info_span!("build.attach_sbom"), attach).await {
                        Ok(0) => {}
                        Ok(_) => log.write_line("attached its SBOM and provenance"),
                        Err(e) => log.write_line(format!("its SBOM and provenance are not attached there: {e}")),
                    }
                }
                None => log.write_line(format!("pushed {}:{} ({})", built.repository, built.tag, built.digest)),
            }
            let finished = Finished {
                image: &built,
                repository: &repository,
                manifest: &manifest,
                referrers: &referrers,
                tag: &NewTag { tag, immutable: true },
                lock: lock.as_ref(),
                log: &log.kept(attempt.request_id.clone()),
            };
            if within(info_span!("build.publish"), inner.store.succeed(attempt, &finished)).await? {
                return Ok(built);
            }
            log.write_line("that id is another image's: a longer one is taken");
        }
        Err(Error::internal("naming the image", "every id is another image's"))
    }
}

fn repository(name: &str) -> Result<RepoName> {
    RepoName::from_str(name).map_err(|e| Error::internal("naming the repository", format!("{e:?}")))
}

fn read_manifest(bytes: bytes::Bytes) -> Result<Manifest> {
    Manifest::parse(Some(media_type::MANIFEST), bytes)
        .map_err(|e| Error::internal("reading a manifest", format!("{e:?}")))
}

fn invocation(attempt: &Attempt, request: &BuildRequest, target: &Target) -> Invocation {
    let BuildSource { entry_point, requirements, requires_python, files: _ } = &request.source;
    Invocation {
        attempt: attempt.id,
        started_at: attempt.created_at,
        platform: target.platform().to_string(),
        entry_point: entry_point.clone(),
        requirements: requirements.as_ref().map(|given| given.text().to_owned()),
        requires_python: requires_python.as_ref().map(ToString::to_string),
        refresh: request.refresh,
    }
}

impl Inner {
    /// The base image, if there is one, and what is built for.
    async fn base_and_target(&self) -> Result<(Option<FoundBase>, Target)> {
        let Some(base) = &self.base else { return Ok((None, Target::host(&self.interpreter))) };
        let found = base.find(&self.store, &self.blobs, &self.interpreter).await?;
        let target = found.target.clone();
        Ok((Some(found), target))
    }

    /// Has the layers of a remote base where images are pulled from: here, unless they are pushed.
    async fn copy_base(&self, found: Option<&FoundBase>, log: &BuildLog) -> Result<()> {
        match (&self.base, found) {
            (Some(base), Some(found)) if self.pusher.is_none() => base.copy_layers(found, &self.blobs, log).await,
            _ => Ok(()),
        }
    }

    /// The blobs of an image that must be in the embedded registry: all, but for the layers of a remote base where
    /// images are pushed, because these go from one registry to the other.
    fn blobs_here(&self, manifest: &Manifest, base: Option<&FoundBase>) -> Vec<Digest> {
        let elsewhere = base.filter(|base| self.pusher.is_some() && base.remote.is_some());
        let elsewhere: Vec<Digest> =
            elsewhere.map(|base| base.image.layers().map(|(digest, _)| digest).collect()).unwrap_or_default();
        manifest.blobs().iter().filter(|digest| !elsewhere.contains(digest)).copied().collect()
    }

    /// The packages to install: those that the request names, else those that the imports need. Every file that the
    /// entry point reaches is parsed either way, so that a syntax error, and that there is nothing to invoke, is found
    /// before anything is installed.
    async fn requirements(
        &self,
        source: &BuildSource,
        target: &Target,
        log: &BuildLog,
    ) -> Result<Option<Requirements>> {
        if let Some(wanted) = &source.requires_python {
            target.suits(wanted)?;
        }
        let own = imports::own_modules(&source.files, &source.entry_point);
        let analyser = self.analyser.for_target(target);
        let found = analyser.analyse(&source.files, &source.entry_point).await?;
        analyser.must_offer(&source.files, &source.entry_point, &own).await?;
        let wanted = match &source.requirements {
            Some(wanted) => {
                for (file, unread) in found.iter().filter_map(|one| Some((&one.file, one.unread.as_ref()?))) {
                    let (own, other) = (self.interpreter.python(), target.python());
                    log.write_line(format!(
                        "{file}, line {}: {}, says Python {own} of this machine; Python {other} may take it",
                        unread.line, unread.message
                    ));
                }
                wanted.clone()
            }
            None => {
                let elsewhere = imports::modules_anywhere(&source.files);
                let needed = imports::requirements_from_imports(&found, &own, &elsewhere, target)?;
                if !needed.is_empty() {
                    log.write_line(format!(
                        "requirements from imports: {}",
                        needed.text().trim_end().replace('\n', ", ")
                    ));
                }
                needed
            }
        };
        Ok((!wanted.is_empty()).then_some(wanted))
    }

    /// The parts of an image that its documents list.
    fn contents(
        &self,
        agent: &Name,
        packages: Vec<referrers::Package>,
        base: Option<&FoundBase>,
        runner: Digest,
    ) -> Contents {
        let python = base.and_then(|base| base.image.env("PYTHON_VERSION").or_else(|| base.image.label(label::PYTHON)));
        Contents {
            agent: agent.clone(),
            python: python.unwrap_or(&self.interpreter.full_version).to_owned(),
            base: self.base.as_ref().zip(base).map(|(named, base)| {
                let (registry, repository) = named.repository();
                referrers::Base { registry, repository, digest: base.digest }
            }),
            runner,
            packages,
        }
    }

    /// Writes the source layer, the configuration and the documents about the image into the blob store.
    async fn write_source(
        &self,
        source: &BuildSource,
        requirements: Option<Requirements>,
        mut layers: Vec<ImageLayer>,
        (base, target): (Option<&FoundBase>, &Target),
        describe: impl FnOnce(&Image, &Layer) -> Result<[Referrer; 2]> + Send + 'static,
        log: &BuildLog,
    ) -> Result<WrittenImage> {
        let source = source.clone();
        let blobs = self.blobs.clone();
        let below = base.map(|base| base.image.clone());
        let (python, platform) = (target.python(), target.platform());
        let log = log.clone();
        let written = tokio::task::spawn_blocking(move || {
            let mut builder = LayerBuilder::new();
            let app = APP_DIR.trim_start_matches('/');
            for (name, content) in source.files.iter() {
                builder.source_file(&format!("{app}/{name}"), content)?;
            }
            let (layer, bytes) = builder.to_bytes()?;
            log.write_line(format!("source layer {}, {} bytes", layer.digest, layer.size));
            layers.push(ImageLayer { layer, created_by: SOURCE_HISTORY.into() });
            let image = assemble(&ImageSpec {
                python: &python,
                platform: &platform,
                entry_point: &source.entry_point,
                requirements: requirements.as_ref().map(Requirements::text).unwrap_or_default(),
                base: below.as_deref(),
                layers: &layers,
            })?;
            let referrers = describe(&image, &layer)?;
            let mut batch = blobs.batch();
            batch.put_bytes(&bytes)?;
            batch.put_bytes(&image.config)?;
            batch.put_bytes(referrers::EMPTY)?;
            for referrer in &referrers {
                batch.put_bytes(&referrer.document)?;
            }
            batch.commit()?;
            Ok::<_, Error>(WrittenImage { image, referrers: referrers.map(|referrer| referrer.manifest) })
        });
        let written = written.await.map_err(|e| Error::internal("writing the image", e))??;
        let needed = self.blobs_here(&read_manifest(written.image.manifest.clone().into())?, base);
        let blobs = self.blobs.clone();
        let looking = tokio::task::spawn_blocking(move || needed.into_iter().find(|digest| !blobs.contains(digest)));
        match looking.await.map_err(|e| Error::internal("writing the image", e))? {
            Some(gone) => Err(Error::internal("writing the image", format!("the layer {gone} is gone"))),
            None => Ok(written),
        }
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pipeline")
    }
}
