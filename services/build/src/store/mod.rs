//! Builds, kept locks and known packages. sea-orm stays in here.

mod collect;
mod entity;
mod known_packages;
mod prune;

pub use known_packages::{KnownPackage, PackageSet};
pub use prune::Bounds;

use crate::{
    log::Kept,
    migrations,
    registry::{
        Manifest, NewTag, PutOutcome, RepoName,
        store::{publish_image, touch_manifest},
    },
};
use entity::{build, lock};
use hoistway_kit::{
    db::{Db, Location, db_error, execute_raw, storable},
    idempotency::{self, OperationStart, Undone},
    time::now_ms,
};
use hoistway_model::{
    BuildAttemptId, Digest, Error, Name, OperationId, Result,
    build::{Build, BuildStatus, BuiltImage},
    source::Requirements,
};
use hoistway_proto::builds::v1 as pb;
use prost::Message;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::OnConflict,
};

const WRITING: &str = "writing the build records";
const READING: &str = "reading the build records";
const KIND: &str = "build";

/// The build service's database.
#[derive(Debug, Clone)]
pub struct Store(Db);

/// The subject of an attempt. It is in memory until it ends: nothing of it matters after a power cut.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub id: BuildAttemptId,
    pub operation: OperationId,
    pub agent: Name,
    /// Digest of everything that decides what comes out.
    pub inputs: Digest,
    /// Milliseconds since the epoch.
    pub created_at: i64,
    /// The HTTP request that caused it.
    pub request_id: Option<String>,
}

impl Attempt {
    /// The public id of an attempt that has made nothing.
    pub fn public_id(&self) -> String {
        let hex = Digest::of(self.id.to_string().as_bytes()).hex();
        format!("build-{}", &hex[..12])
    }
}

/// A lock to be kept.
#[derive(Debug, Clone)]
pub struct KeptLock {
    pub requirements: Requirements,
    /// The Python and platform that it is for.
    pub interpreter: String,
    pub text: String,
}

/// The records of a successful build, written in one transaction.
#[derive(Debug)]
pub struct Finished<'a> {
    pub image: &'a BuiltImage,
    pub repository: &'a RepoName,
    pub manifest: &'a Manifest,
    /// What belongs to the image and has it as its subject.
    pub referrers: &'a [Manifest],
    pub tag: &'a NewTag,
    pub lock: Option<&'a KeptLock>,
    pub log: &'a Kept,
}

impl Store {
    /// Opens the database, making or migrating it.
    pub async fn open(location: &Location) -> Result<Self> {
        Ok(Self(Db::open(location, migrations::ALL).await?))
    }

    /// The database, for the registry's tables in it.
    pub fn db(&self) -> &Db {
        &self.0
    }

    /// The answer that an operation got before.
    pub async fn answer(&self, attempt: &Attempt) -> Result<Option<BuiltImage>> {
        let stored = idempotency::lookup(self.0.read(), attempt.operation, KIND, attempt.inputs).await?;
        stored.as_deref().map(decode).transpose()
    }

    /// The image that the same inputs made before.
    pub async fn image_of(&self, inputs: Digest) -> Result<Option<BuiltImage>> {
        let found = build::Entity::find()
            .filter(build::Column::Inputs.eq(inputs.to_string()))
            .filter(build::Column::Status.eq(BuildStatus::Succeeded.as_str()))
            .order_by_desc(build::Column::Attempt)
            .one(self.0.read())
            .await
            .map_err(db_error(READING))?;
        Ok(found.map(build::from_row).transpose()?.and_then(|b| b.image))
    }

    /// Answers an operation with the image that an earlier build made, unless it has an answer already; no build is
    /// recorded, but its lock is the newest of the agent again. Nothing happens when the image is gone.
    pub async fn reuse(&self, attempt: &Attempt, image: BuiltImage) -> Result<Option<BuiltImage>> {
        let txn = self.0.begin().await?;
        let begun = idempotency::begin(&txn, attempt.operation, KIND, attempt.inputs).await?;
        if !touch_manifest(&txn, &image.repository.parse()?, &image.digest).await? {
            return Ok(None);
        }
        if let OperationStart::Done(stored) = begun {
            return decode(&stored).map(Some);
        }
        idempotency::finish(&txn, attempt.operation, &encode(&image)).await?;
        let text = "UPDATE locks SET created_at = $1 WHERE (agent, requirements, interpreter) IN (
            SELECT agent, lock_requirements, lock_interpreter FROM builds WHERE public_id = $2 AND agent = $3)";
        let values = [now_ms().into(), image.build_id.as_str().into(), attempt.agent.as_str().into()];
        execute_raw(&txn, text, values).await.map_err(db_error(WRITING))?;
        txn.commit().await.map_err(db_error(WRITING))?;
        Ok(Some(image))
    }

    /// Ends an attempt with an image: image, tag, build, lock and answer become visible together. False when
    /// the tag is another image's.
    pub async fn succeed(&self, attempt: &Attempt, done: &Finished<'_>) -> Result<bool> {
        let txn = self.0.begin().await?;
        idempotency::begin(&txn, attempt.operation, KIND, attempt.inputs).await?;
        idempotency::finish(&txn, attempt.operation, &encode(done.image)).await?;
        match publish_image(&txn, done.repository, done.manifest, done.referrers, done.tag).await? {
            PutOutcome::Stored => {}
            PutOutcome::TagTaken => return Ok(false),
            PutOutcome::Missing(missing) | PutOutcome::WrongSizes(missing) => {
                return Err(Error::internal(
                    "publishing an image",
                    format!("blobs are not there or not as said: {missing:?}"),
                ));
            }
        }
        if let Some(lock) = done.lock {
            let row = lock::ActiveModel {
                agent: Set(attempt.agent.as_str().to_owned()),
                requirements: Set(lock.requirements.digest().to_string()),
                interpreter: Set(lock.interpreter.clone()),
                lock: Set(lock.text.clone()),
                created_at: Set(now_ms()),
                requirements_text: Set(lock.requirements.text().to_owned()),
            };
            use lock::Column as C;
            let newer = OnConflict::columns([C::Agent, C::Requirements, C::Interpreter])
                .update_columns([C::Lock, C::CreatedAt, C::RequirementsText])
                .to_owned();
            let written = lock::Entity::insert(row).on_conflict(newer).exec_without_returning(&txn).await;
            written.map_err(db_error(WRITING))?;
        }
        let row = build::ActiveModel {
            status: Set(BuildStatus::Succeeded.as_str().to_owned()),
            public_id: Set(done.image.build_id.clone()),
            repository: Set(Some(done.image.repository.clone())),
            tag: Set(Some(done.image.tag.clone())),
            digest: Set(Some(done.image.digest.to_string())),
            entry_point: Set(Some(done.image.entry_point.clone())),
            lock_requirements: Set(done.lock.map(|lock| lock.requirements.digest().to_string())),
            lock_interpreter: Set(done.lock.map(|lock| lock.interpreter.clone())),
            ..ended(attempt, done.log)?
        };
        insert(&txn, row).await?;
        txn.commit().await.map_err(db_error(WRITING))?;
        Ok(true)
    }

    /// Records an attempt that ended without an image. Its operation stays open: the same call tries again.
    pub async fn fail(&self, attempt: &Attempt, error: &str, log: &Kept) -> Result<()> {
        let row = build::ActiveModel {
            status: Set(BuildStatus::Failed.as_str().to_owned()),
            public_id: Set(attempt.public_id()),
            error: Set(Some(storable(error).into_owned())),
            ..ended(attempt, log)?
        };
        insert(self.0.write(), row).await
    }

    /// Keeps an operation from finishing, or from happening at all.
    pub async fn undo(&self, operation: OperationId) -> Result<Undone> {
        let txn = self.0.begin().await?;
        let undone = idempotency::undo(&txn, operation).await?;
        txn.commit().await.map_err(db_error(WRITING))?;
        Ok(undone)
    }

    /// The newest build of a public id, or that of an attempt.
    pub async fn get(&self, id: &str) -> Result<Option<(Build, Kept)>> {
        let wanted = match id.parse::<BuildAttemptId>() {
            Ok(attempt) => build::Column::Attempt.eq(attempt.to_string()),
            Err(_) => build::Column::PublicId.eq(id),
        };
        let found = build::Entity::find()
            .filter(wanted)
            .order_by_desc(build::Column::Attempt)
            .one(self.0.read())
            .await
            .map_err(db_error(READING))?;
        let Some(row) = found else { return Ok(None) };
        let kept = build::kept(&row)?;
        Ok(Some((build::from_row(row)?, kept)))
    }

    /// The newest builds, newest first.
    pub async fn list(&self, agent: Option<&Name>, before: Option<BuildAttemptId>, limit: u32) -> Result<Vec<Build>> {
        let mut query = build::Entity::find().order_by_desc(build::Column::Attempt).limit(u64::from(limit));
        if let Some(agent) = agent {
            query = query.filter(build::Column::Agent.eq(agent.as_str()));
        }
        if let Some(before) = before {
            query = query.filter(build::Column::Attempt.lt(before.to_string()));
        }
        let rows = query.all(self.0.read()).await.map_err(db_error(READING))?;
        rows.into_iter().map(build::from_row).collect()
    }
}

/// The answer of an operation as it is stored.
fn encode(image: &BuiltImage) -> Vec<u8> {
    pb::BuiltImage::from(image.clone()).encode_to_vec()
}

fn decode(stored: &[u8]) -> Result<BuiltImage> {
    pb::BuiltImage::decode(stored).map_err(|e| Error::internal("reading a build's stored answer", e))?.try_into()
}

/// The columns that every ended attempt has.
fn ended(attempt: &Attempt, log: &Kept) -> Result<build::ActiveModel> {
    let record = serde_json::to_string(log).map_err(|e| Error::internal(WRITING, e))?;
    Ok(build::ActiveModel {
        attempt: Set(attempt.id.to_string()),
        agent: Set(attempt.agent.as_str().to_owned()),
        inputs: Set(attempt.inputs.to_string()),
        log: Set(storable(&log.lines.join("\n")).into_owned()),
        record: Set(Some(record)),
        created_at: Set(attempt.created_at),
        completed_at: Set(now_ms()),
        ..Default::default()
    })
}

/// Writes an attempt; one that failed before and was tried again is replaced.
async fn insert(db: &impl sea_orm::ConnectionTrait, row: build::ActiveModel) -> Result<()> {
    use build::Column as C;
    let again = OnConflict::column(C::Attempt)
        .update_columns([C::PublicId, C::Status, C::Repository, C::Tag, C::Digest, C::EntryPoint])
        .update_columns([C::Error, C::Log, C::Record, C::CompletedAt, C::LockRequirements, C::LockInterpreter])
        .to_owned();
    let written = build::Entity::insert(row).on_conflict(again).exec_without_returning(db).await;
    written.map(drop).map_err(db_error(WRITING))
}
