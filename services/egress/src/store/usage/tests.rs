#![allow(clippy::unwrap_used)]
use super::*;
use crate::{store::tests::store, usage::Sums};
use hoistway_kit::time::now_ms;
use hoistway_model::{Name, usage::UsageGroups};

const ALL: UsageGroups = UsageGroups { agent: true, provider: true, model: true, user: true };

fn key(agent: &str, model: &str, user: &str) -> UsageKey {
    let name = |text| Name::parse("name", text).unwrap();
    UsageKey { agent: name(agent), provider: name("p"), model: model.into(), user: user.into() }
}

fn sums(input: u64, cost: &str) -> UsageSums {
    let cost = cost.parse().unwrap();
    UsageSums { requests: 1, priced_requests: 1, input_tokens: input, output_tokens: 1, cost, ..UsageSums::default() }
}

fn today() -> i64 {
    let now = now_ms();
    now - now.rem_euclid(DAY)
}

/// The rows of a query as text.
async fn rows(
    store: &Store,
    per: UsagePeriod,
    group_by: UsageGroups,
    narrow: impl FnOnce(&mut UsageQuery),
) -> Vec<String> {
    let mut query = UsageQuery { from: today() - DAY, to: today() + DAY, per, group_by, ..UsageQuery::default() };
    narrow(&mut query);
    let report = store.usage(query, &UncommittedSums::default()).await.unwrap();
    texts(&report)
}

fn texts(report: &UsageReport) -> Vec<String> {
    let row = |row: &UsageRow| {
        let UsageRow { start, agent, provider, model, user, sums } = row;
        let hours = (start - today()) / HOUR;
        format!("{hours} {agent}/{provider}/{model}/{user} {} {} {}", sums.requests, sums.total_tokens(), sums.cost)
    };
    report.rows.iter().map(row).collect()
}

#[tokio::test]
async fn sums_of_hours_and_days_add_up_and_survive() {
    let dir = tempfile::tempdir().unwrap();
    let opened = store(dir.path(), 10).await;
    for _ in 0..2 {
        let kept = Sums::from([
            ((today(), key("a", "m", "")), sums(10, "0.6")),
            ((today() + HOUR, key("a", "m", "ada")), sums(20, "0.000000000001")),
            ((today() + HOUR, key("b", "n", "")), sums(30, "7")),
        ]);
        opened.add_usage(&Batch::new(kept)).await.unwrap();
    }
    opened.close().await;
    let store = store(dir.path(), 10).await;
    assert_eq!(
        rows(&store, UsagePeriod::Hour, ALL, |_| ()).await,
        ["0 a/p/m/ 2 22 1.2", "1 a/p/m/ada 2 42 0.000000000002", "1 b/p/n/ 2 62 14"]
    );
    assert_eq!(
        rows(&store, UsagePeriod::Day, ALL, |_| ()).await,
        ["0 a/p/m/ 2 22 1.2", "0 a/p/m/ada 2 42 0.000000000002", "0 b/p/n/ 2 62 14"]
    );
    let none = UsageGroups::default();
    assert_eq!(rows(&store, UsagePeriod::Total, none, |_| ()).await, ["-24 /// 6 126 15.200000000002"]);
    let by_user = UsageGroups { user: true, ..none };
    let of_a = rows(&store, UsagePeriod::Day, by_user, |q| q.agent = Some(key("a", "", "").agent)).await;
    assert_eq!(of_a, ["0 /// 2 22 1.2", "0 ///ada 2 42 0.000000000002"]);
    let of_ada = rows(&store, UsagePeriod::Day, none, |q| q.user = Some("ada".into())).await;
    assert_eq!(of_ada, ["0 /// 2 42 0.000000000002"]);
    assert_eq!(rows(&store, UsagePeriod::Day, none, |q| q.model = Some("x".into())).await, [""; 0]);
    assert_eq!(
        rows(&store, UsagePeriod::Hour, none, |q| q.from = today() + HOUR + 1).await,
        ["1 /// 4 104 14.000000000002"]
    );
    assert_eq!(rows(&store, UsagePeriod::Hour, none, |q| q.to = today() + HOUR).await, ["0 /// 2 22 1.2"]);
}

#[tokio::test]
async fn sums_that_wait_are_added_to_those_that_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 10).await;
    store.add_usage(&Batch::new(Sums::from([((today(), key("a", "m", "")), sums(10, "1"))]))).await.unwrap();
    let waits = Sums::from([
        ((today(), key("a", "m", "")), sums(20, "2")),
        ((today() + HOUR, key("a", "m", "ada")), sums(30, "3")),
        ((today(), key("b", "m", "")), sums(40, "4")),
        ((today() - 3 * DAY, key("a", "m", "")), sums(50, "5")),
    ]);
    let waits = UncommittedSums { waiting: waits, writing: None };
    let asked = async |per, group_by, agent: Option<&str>| {
        let agent = agent.map(|agent| key(agent, "", "").agent);
        let query =
            UsageQuery { from: today() - DAY, to: today() + DAY, per, group_by, agent, ..UsageQuery::default() };
        texts(&store.usage(query, &waits).await.unwrap())
    };
    let none = UsageGroups::default();
    assert_eq!(asked(UsagePeriod::Hour, ALL, None).await, ["0 a/p/m/ 2 32 3", "0 b/p/m/ 1 41 4", "1 a/p/m/ada 1 31 3"]);
    assert_eq!(asked(UsagePeriod::Day, none, Some("a")).await, ["0 /// 3 63 6"]);
    assert_eq!(asked(UsagePeriod::Total, none, None).await, ["-24 /// 4 104 10"]);
}

#[tokio::test]
async fn a_batch_is_added_once_and_shown_once_before_and_after_its_commit_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 10).await;
    let batch =
        |tokens| std::sync::Arc::new(Batch::new(Sums::from([((today(), key("a", "m", "")), sums(tokens, "1"))])));
    let (first, second) = (batch(10), batch(20));
    let shown = async |writing: &std::sync::Arc<Batch>| {
        let query = UsageQuery { from: today(), to: today() + DAY, per: UsagePeriod::Day, ..UsageQuery::default() };
        let uncommitted = UncommittedSums { waiting: Sums::new(), writing: Some(writing.clone()) };
        texts(&store.usage(query, &uncommitted).await.unwrap())
    };
    assert_eq!(shown(&first).await, ["0 /// 1 11 1"]);
    for _ in 0..2 {
        store.add_usage(&first).await.unwrap();
        assert_eq!(shown(&first).await, ["0 /// 1 11 1"]);
    }
    assert_eq!(shown(&second).await, ["0 /// 2 32 2"]);
    store.add_usage(&second).await.unwrap();
    assert_eq!(shown(&second).await, ["0 /// 2 32 2"]);
}

#[tokio::test]
async fn old_sums_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 10).await;
    let old = today() - 100 * DAY;
    let kept = Sums::from([((old, key("a", "m", "")), sums(1, "0")), ((today(), key("a", "m", "")), sums(1, "0"))]);
    store.add_usage(&Batch::new(kept)).await.unwrap();
    store.tidy().await.unwrap();
    for per in [UsagePeriod::Hour, UsagePeriod::Day] {
        assert_eq!(rows(&store, per, ALL, |q| q.from = old).await, ["0 a/p/m/ 1 2 0"]);
    }
}

#[tokio::test]
async fn an_answer_that_would_be_too_long_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 10).await;
    let many: Sums = (0..=MAX_ROWS).map(|n| ((today(), key("a", "m", &n.to_string())), sums(1, "0"))).collect();
    store.add_usage(&Batch::new(many)).await.unwrap();
    let query = UsageQuery { from: today(), to: today() + DAY, group_by: ALL, ..UsageQuery::default() };
    let e = store.usage(query, &UncommittedSums::default()).await.map(|report| report.rows.len()).unwrap_err();
    assert_eq!((e.code, e.message.contains("more than 10000 sums")), (Code::InvalidArgument, true));
}

#[tokio::test]
async fn a_user_whose_name_cannot_be_stored_stops_nobody_from_being_counted() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 10).await;
    let kept =
        Sums::from([((today(), key("a", "m", "x\0y")), sums(1, "1")), ((today(), key("b", "m", "")), sums(1, "1"))]);
    store.add_usage(&Batch::new(kept)).await.unwrap();
    let shown = rows(&store, UsagePeriod::Day, ALL, |_| ()).await;
    assert_eq!(shown, ["0 a/p/m/x\u{fffd}y 1 2 1", "0 b/p/m/ 1 2 1"]);
}
