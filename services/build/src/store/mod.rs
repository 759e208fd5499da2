//! Builds, kept locks and known dependency layers. sea-orm stays in here.

mod build;
mod layer;
mod lock;

use crate::{
    layer::Layer,
    migration,
    registry::{Manifest, NewTag, PutOutcome, RepoName, store::publish_image},
};
use hoistway_kit::{
    db::{Db, db_error},
    operations::{self, Begun, Undone},
    time::now_ms,
};
use hoistway_model::{
    BuildAttemptId, Digest, Error, Name, OperationId, Result,
    build::{Build, BuildStatus, BuiltImage},
};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, OnConflict},
};
use std::path::Path;

const WRITING: &str = "writing the build records";
const READING: &str = "reading the build records";
const KIND: &str = "build";

/// The build service's database.
#[derive(Debug, Clone)]
pub struct Store(Db);

/// What an attempt is about; its first row.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub id: BuildAttemptId,
    pub operation: OperationId,
    pub agent: Name,
    /// Digest of everything that decides what comes out.
    pub inputs: Digest,
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
    pub requirements: Digest,
    pub interpreter: String,
    pub text: String,
}

/// What a successful build leaves, written in one transaction.
#[derive(Debug)]
pub struct Finished<'a> {
    pub image: &'a BuiltImage,
    pub repository: &'a RepoName,
    pub manifest: &'a Manifest,
    pub tag: &'a NewTag,
    pub lock: Option<&'a KeptLock>,
    pub log: &'a [String],
}

impl Store {
    /// Opens the database, making or migrating it, and ends the builds that a former process left running.
    pub async fn open(path: &Path) -> Result<Self> {
        let db = Db::open(path, migration::all()).await?;
        build::Entity::update_many()
            .col_expr(build::Column::Status, Expr::value(BuildStatus::Failed.as_str()))
            .col_expr(build::Column::Error, Expr::value("the build service was stopped in the middle of the build"))
            .col_expr(build::Column::CompletedAt, Expr::value(now_ms()))
            .filter(build::Column::CompletedAt.is_null())
            .exec(db.write())
            .await
            .map_err(db_error(WRITING))?;
        Ok(Self(db))
    }

    /// The database, for the registry's tables in it.
    pub fn db(&self) -> &Db {
        &self.0
    }

    /// Records an attempt, or says what became of its operation before.
    pub async fn begin(&self, attempt: &Attempt) -> Result<Begun> {
        let txn = self.0.begin().await?;
        let begun = operations::begin(&txn, attempt.operation, KIND, attempt.inputs).await?;
        if !matches!(begun, Begun::Done(_)) {
            let row = build::ActiveModel {
                attempt: Set(attempt.id.to_string()),
                public_id: Set(attempt.public_id()),
                agent: Set(attempt.agent.as_str().to_owned()),
                status: Set(BuildStatus::Building.as_str().to_owned()),
                inputs: Set(attempt.inputs.to_string()),
                log: Set(String::new()),
                created_at: Set(now_ms()),
                ..Default::default()
            };
            // An attempt that a former process left unfinished begins anew.
            let anew = OnConflict::column(build::Column::Attempt)
                .update_columns([build::Column::Status])
                .values([(build::Column::Error, Expr::value(Option::<String>::None))])
                .values([(build::Column::CompletedAt, Expr::value(Option::<i64>::None))])
                .to_owned();
            build::Entity::insert(row)
                .on_conflict(anew)
                .exec_without_returning(&txn)
                .await
                .map_err(db_error(WRITING))?;
            txn.commit().await.map_err(db_error(WRITING))?;
        }
        Ok(begun)
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

    /// Answers an operation with the image that an earlier build made; no build is recorded.
    pub async fn reuse(&self, attempt: &Attempt, response: &[u8]) -> Result<Begun> {
        let txn = self.0.begin().await?;
        let begun = operations::begin(&txn, attempt.operation, KIND, attempt.inputs).await?;
        if !matches!(begun, Begun::Done(_)) {
            operations::finish(&txn, attempt.operation, response).await?;
            txn.commit().await.map_err(db_error(WRITING))?;
        }
        Ok(begun)
    }

    /// Ends an attempt with an image: image, tag, build, lock and answer become visible together. False when
    /// the tag is another image's.
    pub async fn succeed(&self, attempt: &Attempt, done: &Finished<'_>, response: &[u8]) -> Result<bool> {
        let txn = self.0.begin().await?;
        operations::finish(&txn, attempt.operation, response).await?;
        match publish_image(&txn, done.repository, done.manifest, done.tag).await? {
            PutOutcome::Stored => {}
            PutOutcome::TagTaken => return Ok(false),
            PutOutcome::Missing(missing) => {
                return Err(Error::internal("publishing an image", format!("blobs are missing: {missing:?}")));
            }
        }
        if let Some(lock) = done.lock {
            let row = lock::ActiveModel {
                agent: Set(attempt.agent.as_str().to_owned()),
                requirements: Set(lock.requirements.to_string()),
                interpreter: Set(lock.interpreter.clone()),
                lock: Set(lock.text.clone()),
                created_at: Set(now_ms()),
            };
            let key = [lock::Column::Agent, lock::Column::Requirements, lock::Column::Interpreter];
            let newer =
                OnConflict::columns(key).update_columns([lock::Column::Lock, lock::Column::CreatedAt]).to_owned();
            let written = lock::Entity::insert(row).on_conflict(newer).exec_without_returning(&txn).await;
            written.map_err(db_error(WRITING))?;
        }
        let changes = build::ActiveModel {
            status: Set(BuildStatus::Succeeded.as_str().to_owned()),
            public_id: Set(done.image.build_id.clone()),
            repository: Set(Some(done.image.repository.clone())),
            tag: Set(Some(done.image.tag.clone())),
            digest: Set(Some(done.image.digest.to_string())),
            entry_point: Set(Some(done.image.entry_point.clone())),
            log: Set(done.log.join("\n")),
            completed_at: Set(Some(now_ms())),
            ..Default::default()
        };
        update(&txn, attempt.id, changes).await?;
        txn.commit().await.map_err(db_error(WRITING))?;
        Ok(true)
    }

    /// Ends an attempt without an image. Its operation stays open: the same call tries again.
    pub async fn fail(&self, attempt: BuildAttemptId, error: &str, log: &[String]) -> Result<()> {
        let changes = build::ActiveModel {
            status: Set(BuildStatus::Failed.as_str().to_owned()),
            error: Set(Some(error.to_owned())),
            log: Set(log.join("\n")),
            completed_at: Set(Some(now_ms())),
            ..Default::default()
        };
        update(self.0.write(), attempt, changes).await
    }

    /// Keeps an operation from finishing, or from happening at all.
    pub async fn undo(&self, operation: OperationId) -> Result<Undone> {
        let txn = self.0.begin().await?;
        let undone = operations::undo(&txn, operation).await?;
        txn.commit().await.map_err(db_error(WRITING))?;
        Ok(undone)
    }

    /// The lock that these requirements were resolved to for this agent.
    pub async fn lock(&self, agent: &Name, requirements: Digest, interpreter: &str) -> Result<Option<String>> {
        let key = (agent.as_str().to_owned(), requirements.to_string(), interpreter.to_owned());
        let found = lock::Entity::find_by_id(key).one(self.0.read()).await.map_err(db_error(READING))?;
        Ok(found.map(|row| row.lock))
    }

    /// The dependency layer that these inputs made before.
    pub async fn layer(&self, inputs: Digest) -> Result<Option<Layer>> {
        let found = layer::Entity::find_by_id(inputs.to_string()).one(self.0.read()).await;
        let Some(row) = found.map_err(db_error(READING))? else { return Ok(None) };
        let size = u64::try_from(row.size).unwrap_or_default();
        Ok(Some(Layer { digest: row.digest.parse()?, diff_id: row.diff_id.parse()?, size }))
    }

    /// Remembers which layer these inputs make.
    pub async fn remember_layer(&self, inputs: Digest, made: Layer) -> Result<()> {
        let row = layer::ActiveModel {
            inputs: Set(inputs.to_string()),
            digest: Set(made.digest.to_string()),
            diff_id: Set(made.diff_id.to_string()),
            size: Set(i64::try_from(made.size).unwrap_or(i64::MAX)),
            created_at: Set(now_ms()),
        };
        let newer = OnConflict::column(layer::Column::Inputs)
            .update_columns([layer::Column::Digest, layer::Column::DiffId, layer::Column::Size])
            .to_owned();
        let written = layer::Entity::insert(row).on_conflict(newer).exec_without_returning(self.0.write()).await;
        written.map(drop).map_err(db_error(WRITING))
    }

    /// The newest build of a public id.
    pub async fn get(&self, id: &str) -> Result<Option<(BuildAttemptId, Build, Vec<String>)>> {
        let found = build::Entity::find()
            .filter(build::Column::PublicId.eq(id))
            .order_by_desc(build::Column::Attempt)
            .one(self.0.read())
            .await
            .map_err(db_error(READING))?;
        let Some(row) = found else { return Ok(None) };
        let log = row.log.lines().map(str::to_owned).collect();
        Ok(Some((row.attempt.parse()?, build::from_row(row)?, log)))
    }

    /// The newest builds, newest first.
    pub async fn list(&self, limit: u32) -> Result<Vec<Build>> {
        let rows = build::Entity::find()
            .order_by_desc(build::Column::Attempt)
            .limit(u64::from(limit))
            .all(self.0.read())
            .await
            .map_err(db_error(READING))?;
        rows.into_iter().map(build::from_row).collect()
    }

    /// Forgets operations older than `before` (milliseconds since the epoch), and failed builds with them.
    pub async fn purge(&self, before: i64) -> Result<()> {
        operations::purge(self.0.write(), before).await?;
        build::Entity::delete_many()
            .filter(build::Column::Status.eq(BuildStatus::Failed.as_str()))
            .filter(build::Column::CompletedAt.lt(before))
            .exec(self.0.write())
            .await
            .map(drop)
            .map_err(db_error(WRITING))
    }
}

async fn update(
    db: &impl sea_orm::ConnectionTrait,
    attempt: BuildAttemptId,
    changes: build::ActiveModel,
) -> Result<()> {
    build::Entity::update_many()
        .set(changes)
        .filter(build::Column::Attempt.eq(attempt.to_string()))
        .exec(db)
        .await
        .map(drop)
        .map_err(db_error(WRITING))
}
