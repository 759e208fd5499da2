//! The tables `usage_hours`, `usage_days` and `usage_batch`.

use super::Store;
use crate::usage::{Batch, DAY, HOUR, KeepsUsage, UncommittedSums, UsageKey};
use async_trait::async_trait;
use hoistway_kit::{
    db::{db_error, execute_raw, query_raw, storable},
    prune::{Rows, ago, prune},
};
use hoistway_model::{
    Code, Error, Money, Result,
    usage::{UsagePeriod, UsageQuery, UsageReport, UsageRow, UsageSums},
};
use sea_orm::{DatabaseTransaction, DbErr, QueryResult, Value};
use std::collections::BTreeMap;

/// The most sums of one answer.
const MAX_ROWS: usize = 10_000;
const READING: &str = "reading what models were used for";
const WRITING: &str = "writing what models were used for";

const ADDED: [&str; 7] = [
    "requests",
    "failed_requests",
    "estimated_requests",
    "priced_requests",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
];

/// Changes nothing if the batch is the one that was added last.
const NOTE_BATCH: &str = "INSERT INTO usage_batch VALUES (1, $1)
    ON CONFLICT (id) DO UPDATE SET batch = excluded.batch WHERE usage_batch.batch <> excluded.batch";
const LAST_BATCH: &str = "SELECT batch FROM usage_batch WHERE batch = $1";

/// The primary key of both tables.
const KEY: &str = "start, agent, provider, model, end_user";

/// A table of sums and the length of their time.
const TABLES: [(&str, i64); 2] = [("usage_hours", HOUR), ("usage_days", DAY)];

#[async_trait]
impl KeepsUsage for Store {
    async fn add_usage(&self, batch: &Batch) -> Result<()> {
        if batch.sums.is_empty() {
            return Ok(());
        }
        let txn = self.db.begin().await?;
        let id = batch.id.to_string();
        if execute_raw(&txn, NOTE_BATCH, [id.into()]).await.map_err(db_error(WRITING))? == 0 {
            return Ok(());
        }
        for ((hour, key), sums) in &batch.sums {
            for (table, length) in TABLES {
                add(&txn, table, hour - hour.rem_euclid(length), key, sums).await.map_err(db_error(WRITING))?;
            }
        }
        txn.commit().await.map_err(db_error(WRITING))
    }
}

impl Store {
    /// Sums, at most so many that they fit into an answer; with those that are not committed yet.
    pub(crate) async fn usage(&self, query: UsageQuery, uncommitted: &UncommittedSums) -> Result<UsageReport> {
        let (table, length) = match query.per {
            UsagePeriod::Hour => TABLES[0],
            UsagePeriod::Day => TABLES[1],
            // Hours are exact, as long as they are kept.
            UsagePeriod::Total if query.from >= ago(self.usage_keep[0].time) => TABLES[0],
            UsagePeriod::Total => TABLES[1],
        };
        let from = query.from - query.from.rem_euclid(length);
        let to = query.to + (-query.to).rem_euclid(length);
        let (text, values) = select(table, from, to, &query);
        let snapshot = self.db.snapshot().await?;
        let found = query_raw(&snapshot, text, values).await.map_err(db_error(READING))?;
        // A commit may have succeeded whose answer has not come.
        let writing = match &uncommitted.writing {
            Some(batch) => {
                let committed = query_raw(&snapshot, LAST_BATCH, [batch.id.to_string().into()]).await;
                Some(batch).filter(|_| committed.is_ok_and(|rows| rows.is_empty()))
            }
            None => None,
        };
        let rows = found.iter().map(row).collect::<Result<Vec<_>, _>>().map_err(db_error(READING))?;
        // Without a group there is one sum, of nothing too, in the answer of the database.
        let kept = rows.into_iter().filter(|row| row.sums.requests > 0);
        let waits = uncommitted.waiting.iter().chain(writing.iter().flat_map(|batch| &batch.sums));
        let waits = waits.filter_map(|((hour, key), sums)| {
            let start = hour - hour.rem_euclid(length);
            ((from..to).contains(&start) && is_asked_for(&query, key)).then(|| shown(&query, start, key, *sums))
        });
        let mut rows = BTreeMap::<_, UsageSums>::new();
        for UsageRow { start, agent, provider, model, user, sums } in kept.chain(waits) {
            let start = if query.per == UsagePeriod::Total { from } else { start };
            *rows.entry((start, agent, provider, model, user)).or_default() += sums;
        }
        if rows.len() > MAX_ROWS {
            let text =
                format!("the answer would have more than {MAX_ROWS} sums: ask for a shorter time, or group by less");
            return Err(Error::new(Code::InvalidArgument, text));
        }
        let row =
            |((start, agent, provider, model, user), sums)| UsageRow { start, agent, provider, model, user, sums };
        Ok(UsageReport { from, to, rows: rows.into_iter().map(row).collect() })
    }

    /// Removes sums that are not to be kept.
    pub(super) async fn purge_usage(&self) -> Result<()> {
        for ((table, _), keep) in TABLES.into_iter().zip(self.usage_keep) {
            prune(&self.db, &Rows { table, key: KEY, time: "start", which: "TRUE" }, keep).await?;
        }
        Ok(())
    }
}

async fn add(
    txn: &DatabaseTransaction,
    table: &str,
    start: i64,
    key: &UsageKey,
    sums: &UsageSums,
) -> Result<(), DbErr> {
    let added: String = ADDED.map(|column| format!("{column} = {table}.{column} + excluded.{column},")).concat();
    let text = format!(
        "INSERT INTO {table} VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
         ON CONFLICT ({KEY}) DO UPDATE SET {added}
             cost_whole = {table}.cost_whole + excluded.cost_whole
                 + ({table}.cost_rest + excluded.cost_rest) / 1000000000000,
             cost_rest = ({table}.cost_rest + excluded.cost_rest) % 1000000000000"
    );
    let number = |number: u64| Value::from(i64::try_from(number).unwrap_or(i64::MAX));
    let (whole, rest) = sums.cost.parts();
    let values = [
        start.into(),
        key.agent.as_str().into(),
        key.provider.as_str().into(),
        storable(&key.model).into_owned().into(),
        storable(&key.user).into_owned().into(),
        number(sums.requests),
        number(sums.failed_requests),
        number(sums.estimated_requests),
        number(sums.priced_requests),
        number(sums.input_tokens),
        number(sums.cached_input_tokens),
        number(sums.output_tokens),
        whole.into(),
        rest.into(),
    ];
    execute_raw(txn, text, values).await.map(drop)
}

fn select(table: &str, from: i64, to: i64, query: &UsageQuery) -> (String, Vec<Value>) {
    let groups = query.group_by;
    let shown = |wanted: bool, column: &'static str| if wanted { column } else { "''" };
    let start = if query.per == UsagePeriod::Total { "CAST(0 AS BIGINT)" } else { "start" };
    let columns = [
        shown(groups.agent, "agent"),
        shown(groups.provider, "provider"),
        shown(groups.model, "model"),
        shown(groups.user, "end_user"),
    ]
    .join(", ");
    let summed = ADDED.into_iter().chain(["cost_whole", "cost_rest"]);
    let sums: Vec<_> = summed.map(|column| format!("CAST(SUM({column}) AS BIGINT)")).collect();
    let sums = sums.join(", ");
    let mut text = format!("SELECT {start}, {columns}, {sums} FROM {table} WHERE start >= $1 AND start < $2");
    let mut values = vec![from.into(), to.into()];
    for (column, wanted) in [
        ("agent", query.agent.as_ref().map(|name| name.as_str())),
        ("provider", query.provider.as_ref().map(|name| name.as_str())),
        ("model", query.model.as_deref()),
        ("end_user", query.user.as_deref()),
    ] {
        if let Some(wanted) = wanted {
            values.push(wanted.into());
            text.push_str(&format!(" AND {column} = ${}", values.len()));
        }
    }
    text.push_str(&format!(" GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5 LIMIT {}", MAX_ROWS + 1));
    (text, values)
}

fn is_asked_for(query: &UsageQuery, key: &UsageKey) -> bool {
    query.agent.as_ref().is_none_or(|agent| *agent == key.agent)
        && query.provider.as_ref().is_none_or(|provider| *provider == key.provider)
        && query.model.as_ref().is_none_or(|model| *model == key.model)
        && query.user.as_ref().is_none_or(|user| *user == key.user)
}

/// Sums as a row that shows what the query groups by.
fn shown(query: &UsageQuery, start: i64, key: &UsageKey, sums: UsageSums) -> UsageRow {
    let text = |wanted: bool, text: &str| if wanted { text.to_owned() } else { String::new() };
    let groups = query.group_by;
    UsageRow {
        start,
        agent: text(groups.agent, key.agent.as_str()),
        provider: text(groups.provider, key.provider.as_str()),
        model: text(groups.model, &key.model),
        user: text(groups.user, &key.user),
        sums,
    }
}

fn row(found: &QueryResult) -> Result<UsageRow, DbErr> {
    let number = |index| found.try_get_by_index::<i64>(index).map(i64::unsigned_abs);
    Ok(UsageRow {
        start: found.try_get_by_index(0)?,
        agent: found.try_get_by_index(1)?,
        provider: found.try_get_by_index(2)?,
        model: found.try_get_by_index(3)?,
        user: found.try_get_by_index(4)?,
        sums: UsageSums {
            requests: number(5)?,
            failed_requests: number(6)?,
            estimated_requests: number(7)?,
            priced_requests: number(8)?,
            input_tokens: number(9)?,
            cached_input_tokens: number(10)?,
            output_tokens: number(11)?,
            cost: Money::from_parts(found.try_get_by_index(12)?, found.try_get_by_index(13)?),
        },
    })
}

#[cfg(test)]
mod tests;
