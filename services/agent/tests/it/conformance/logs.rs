//! Output, masked and within bounds.

use super::test_runtime::{Kind, SECRET, TestRuntime, ask};
use crate::runtime::GRACE;
use hoistway_agent::runtime::State;

pub async fn a_flood_is_kept_within_bounds_and_masked(kind: Kind) {
    let test = TestRuntime::with(kind, |settings| settings.logs.lines = 5_000).await;
    let source = "import os, sys
def handler(message):
    for n in range(100_000): sys.stdout.write(f'{n} ' + 'x' * 200 + '\\n')
    print('key', os.environ['STRIPE_KEY'])
    print('the end', flush=True)
    return 'written'";
    let (instance, started) = test.ready(source).await;
    assert_eq!(ask(&started, "x").await, "written");
    test.runtime.remove(&instance.revision, GRACE).await.unwrap();
    let log = test.log(10_000).await;
    assert!(log.len() <= 5_000 && log.len() > 1_000, "{}", log.len());
    assert_eq!(log[log.len() - 2..], ["key ********", "the end"]);
    assert!(log.iter().all(|line| !line.contains(SECRET)));
    let numbers = log[..log.len() - 2].iter().map(|line| line.split(' ').next().unwrap().parse::<u32>().unwrap());
    assert!(numbers.clone().zip(numbers.skip(1)).all(|(one, next)| one + 1 == next), "no line is missing in between");
}

pub async fn the_last_words_of_a_run_are_in_the_log(kind: Kind) {
    let test = TestRuntime::new(kind).await;
    let instance =
        test.instance("import os, sys\nsys.stdout.write('no line feed')\nsys.stdout.flush()\nos._exit(4)\ndef handler(message): pass").await;
    let started = test.runtime.apply(instance.clone()).await.unwrap();
    started.ready().await.unwrap_err();
    assert!(matches!(started.state(), State::Failed(_)));
    let log = test.log(10).await;
    let retried = "exited with status 4 before it was ready; the agent was forked, and is started by itself now";
    let failed = "the agent could not be started: exited with status 4 before it was ready";
    match kind {
        Kind::Forked => assert_eq!(log, ["no line feed", retried, "no line feed", failed]),
        Kind::Process | Kind::Docker => assert_eq!(log, ["no line feed", failed]),
    }
    test.runtime.remove(&instance.revision, GRACE).await.unwrap();
}
