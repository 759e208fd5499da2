//! What agents write.

use super::*;
use hoistway_agent::runtime::Stream;

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_kept_masked_and_outlive_the_instance() {
    let stage = Stage::new().await;
    let source = "import os, sys
print('loaded')
def handle(line):
    print('got', line, 'with', os.environ['STRIPE_KEY'])
    print('trouble', CONFIG['token'], file=sys.stderr, end='')
    return line";
    let (instance, started) = stage.ready(source).await;
    ask(&started, "hello").await;
    stage.runtime.remove(&instance.revision, GRACE).await.unwrap();
    let lines = stage.runtime.logs(&instance.agent, 100).await.unwrap();
    let of = |stream| lines.iter().filter(|l| l.stream == stream).map(|l| &*l.text).collect::<Vec<_>>();
    assert_eq!(of(Stream::Out), ["loaded", "got hello with ********"]);
    assert_eq!(of(Stream::Err), ["trouble ********"]);
    assert!(lines.iter().all(|l| l.revision == instance.revision && l.time_ms > 1_600_000_000_000));
    assert_eq!(stage.runtime.logs(&instance.agent, 1).await.unwrap().len(), 1);

    stage.runtime.forget(&instance.agent).await.unwrap();
    assert_eq!(stage.runtime.logs(&instance.agent, 100).await.unwrap(), []);
    assert!(!stage.dir.path().join("data/logs/test-agent").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_bounded_and_loses_no_line_in_between() {
    let stage = Stage::with(|config| config.log_file_size = 200_000).await;
    let source = "def handle(line):
    for n in range(20000): print('line', n)
    return line";
    let (instance, started) = stage.ready(source).await;
    assert_eq!(ask(&started, "flood").await, "flood");
    stage.runtime.remove(&instance.revision, GRACE).await.unwrap();
    let lines = stage.runtime.logs(&instance.agent, 100_000).await.unwrap();
    let first: usize = lines[0].text.strip_prefix("line ").unwrap().parse().unwrap();
    assert!(lines.len() > 2000, "{}", lines.len());
    assert!(lines.iter().enumerate().all(|(n, l)| l.text == format!("line {}", first + n)));
    assert_eq!(lines.last().unwrap().text, "line 19999");
    let size: u64 = std::fs::read_dir(stage.dir.path().join("data/logs/test-agent"))
        .unwrap()
        .map(|f| f.unwrap().metadata().unwrap().len())
        .sum();
    assert!(size <= 400_000, "{size}");
}
