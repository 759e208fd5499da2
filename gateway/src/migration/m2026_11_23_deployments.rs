//! The journal of deployments.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[derive(DeriveIden)]
enum Deployments {
    Table,
    Id,
    Agent,
    State,
    Log,
    Request,
    Warnings,
    Failure,
    CreatedAt,
    CompletedAt,
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table(Deployments::Table)
                    .col(text(Deployments::Id).primary_key())
                    .col(text(Deployments::Agent))
                    .col(text(Deployments::State))
                    .col(text(Deployments::Log))
                    .col(blob_null(Deployments::Request))
                    .col(text(Deployments::Warnings))
                    .col(text_null(Deployments::Failure))
                    .col(big_integer(Deployments::CreatedAt))
                    .col(big_integer_null(Deployments::CompletedAt))
                    .to_owned(),
            )
            .await?;
        manager
            .create_index(
                Index::create()
                    .name("deployments_by_agent")
                    .table(Deployments::Table)
                    .col(Deployments::Agent)
                    .col(Deployments::Id)
                    .to_owned(),
            )
            .await?;
        manager
            .create_index(
                Index::create()
                    .name("deployments_by_end")
                    .table(Deployments::Table)
                    .col(Deployments::CompletedAt)
                    .to_owned(),
            )
            .await
    }
}
