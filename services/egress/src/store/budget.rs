//! The table `budgets`, and what was used of them.

use super::Store;
use crate::usage::DAY;
use hoistway_kit::{
    db::{db_error, execute_raw, query_raw},
    time::{month, now_ms},
};
use hoistway_model::{
    Code, Error, Money, Name, Result,
    budget::{Budget, BudgetLimit},
};
use sea_orm::{DbErr, QueryResult, Value};

/// The most agents that can have a budget.
const MAX_BUDGETS: i64 = 10_000;
const READING: &str = "reading budgets";
const WRITING: &str = "writing a budget";

/// Tokens and cost of today and of this month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spent {
    pub(crate) day: (u128, u128),
    pub(crate) month: (u128, u128),
}

impl Store {
    /// Every budget.
    pub(crate) async fn budgets(&self) -> Result<Vec<(Name, Budget)>> {
        let rows = self.query("SELECT agent, limits FROM budgets", []).await?;
        rows.iter().map(budget).collect()
    }

    /// Keeps an agent's budget in the place of another one, or removes it. It belongs to the name: a deleted agent
    /// leaves it to the next one.
    pub(crate) async fn keep_budget(&self, agent: &Name, budget: Option<&Budget>) -> Result<()> {
        let txn = self.db.begin().await?;
        let run =
            async |text: &str, values: Vec<Value>| execute_raw(&txn, text, values).await.map_err(db_error(WRITING));
        run("DELETE FROM budgets WHERE agent = $1", vec![agent.as_str().into()]).await?;
        if let Some(budget) = budget {
            let text = "INSERT INTO budgets SELECT $1, $2, $3 WHERE (SELECT COUNT(*) FROM budgets) < $4";
            let values = vec![agent.as_str().into(), text_of(budget).into(), now_ms().into(), MAX_BUDGETS.into()];
            if run(text, values).await? == 0 {
                let text = format!("{MAX_BUDGETS} agents have a budget, which is the most: remove one first");
                return Err(Error::new(Code::ResourceExhausted, text));
            }
        }
        txn.commit().await.map_err(db_error(WRITING))
    }

    /// The usage of each agent today and this month.
    pub(crate) async fn spent(&self) -> Result<Vec<(Name, Spent)>> {
        let now = now_ms();
        let today = now - now.rem_euclid(DAY);
        let of_today =
            |column: &str| format!("CAST(SUM(CASE WHEN start >= {today} THEN {column} ELSE 0 END) AS BIGINT)");
        let text = format!(
            "SELECT agent, {}, {}, {}, CAST(SUM(input_tokens + output_tokens) AS BIGINT),
                 CAST(SUM(cost_whole) AS BIGINT), CAST(SUM(cost_rest) AS BIGINT)
             FROM usage_days WHERE start >= $1 GROUP BY agent",
            of_today("input_tokens + output_tokens"),
            of_today("cost_whole"),
            of_today("cost_rest"),
        );
        let rows = self.query(&text, [month(now).0.into()]).await?;
        rows.iter().map(spent).collect()
    }

    /// The models that an agent called this month and that had no price.
    pub(crate) async fn unpriced_models(&self, agent: &Name) -> Result<Vec<String>> {
        let text = "SELECT DISTINCT model FROM usage_days
             WHERE start >= $1 AND agent = $2 AND priced_requests < requests ORDER BY model LIMIT 100";
        let rows = self.query(text, [month(now_ms()).0.into(), agent.as_str().into()]).await?;
        rows.iter().map(|row| row.try_get_by_index(0).map_err(db_error(READING))).collect()
    }

    async fn query<const N: usize>(&self, text: &str, values: [Value; N]) -> Result<Vec<QueryResult>> {
        query_raw(self.db.read(), text, values).await.map_err(db_error(READING))
    }
}

/// A budget as the table has it: `LIMIT=AMOUNT`, with spaces between.
fn text_of(budget: &Budget) -> String {
    let limits: Vec<_> = budget.limits().iter().map(|(limit, most)| format!("{limit}={most}")).collect();
    limits.join(" ")
}

fn budget(row: &QueryResult) -> Result<(Name, Budget)> {
    let text = |index| row.try_get_by_index::<String>(index).map_err(db_error(READING));
    let unreadable = || Error::internal(READING, "a budget cannot be read");
    let limit = |part: &str| {
        let (limit, most) = part.split_once('=').ok_or_else(unreadable)?;
        Ok((limit.parse::<BudgetLimit>().map_err(|_| unreadable())?, most.parse().map_err(|_| unreadable())?))
    };
    let limits = text(1)?.split(' ').map(limit).collect::<Result<Vec<_>>>()?;
    Ok((Name::parse("agent", &text(0)?)?, Budget::new(limits)?))
}

fn spent(row: &QueryResult) -> Result<(Name, Spent)> {
    let number = |index| row.try_get_by_index::<i64>(index);
    let pair = |tokens| -> Result<_, DbErr> {
        let cost = Money::from_parts(number(tokens + 1)?, number(tokens + 2)?);
        Ok((number(tokens)?.unsigned_abs().into(), cost.units()))
    };
    let agent: String = row.try_get_by_index(0).map_err(db_error(READING))?;
    let (day, month) = (pair(1).map_err(db_error(READING))?, pair(4).map_err(db_error(READING))?);
    Ok((Name::parse("agent", &agent)?, Spent { day, month }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        store::tests::store,
        usage::{Batch, KeepsUsage, Sums, UsageKey},
    };
    use hoistway_model::usage::UsageSums;

    fn name(text: &str) -> Name {
        Name::parse("name", text).unwrap()
    }

    #[tokio::test]
    async fn budgets_and_what_was_used_of_them_survive() {
        let dir = tempfile::tempdir().unwrap();
        let opened = store(dir.path(), 10).await;
        let limits = [(BudgetLimit::TokensPerDay, 5), (BudgetLimit::CostPerMonth, 1_500_000_000_000)];
        for most in [7, 5] {
            let budget = Budget::new([(BudgetLimit::TokensPerDay, most), limits[1]]).unwrap();
            opened.keep_budget(&name("a"), Some(&budget)).await.unwrap();
        }
        opened.keep_budget(&name("b"), Some(&Budget::new([limits[0]]).unwrap())).await.unwrap();
        opened.keep_budget(&name("b"), None).await.unwrap();
        let now = now_ms();
        let (this_month, today) = (month(now).0, now - now.rem_euclid(DAY));
        let key = UsageKey { agent: name("a"), provider: name("p"), model: "m".into(), user: String::new() };
        let sums = |tokens, priced| UsageSums {
            requests: 1,
            priced_requests: priced,
            input_tokens: tokens,
            output_tokens: 1,
            cost: Money::from_units(3),
            ..UsageSums::default()
        };
        for (start, tokens, priced) in [(today, 10, 1), (this_month, 100, 0), (this_month - 1, 1_000, 1)] {
            opened.add_usage(&Batch::new(Sums::from([((start, key.clone()), sums(tokens, priced))]))).await.unwrap();
        }
        opened.close().await;
        let store = store(dir.path(), 10).await;
        assert_eq!(store.budgets().await.unwrap(), [(name("a"), Budget::new(limits).unwrap())]);
        let day = if today == this_month { (112, 6) } else { (11, 3) };
        assert_eq!(store.spent().await.unwrap(), [(name("a"), Spent { day, month: (112, 6) })]);
        assert_eq!(store.unpriced_models(&name("a")).await.unwrap(), ["m"]);
        assert_eq!(store.unpriced_models(&name("b")).await.unwrap(), [""; 0]);
    }
}
