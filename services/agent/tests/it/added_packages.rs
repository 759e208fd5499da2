//! Agents that have more packages than the warm parent which they are forked from.

use crate::conformance::test_runtime::{Kind, TestRuntime, ask, open_to_all, until_warm};
use crate::runtime::LIMIT;
use hoistway_agent::runtime::{Program, Started};
use std::path::PathBuf;

/// Different in each process that imports it, and the same in those that are forked from one that has. As some packages do,
/// it asks for the loopback interface, which a parent has as well.
const ONE: (&str, &str) = (
    "one.py",
    "import os, socket\nNUMBER = os.urandom(8).hex()\nwith socket.socket() as asks: asks.bind(('127.0.0.1', 0))",
);
const TWO: [(&str, &str); 3] = [
    ("two.py", "VALUE = 'two'"),
    ("two-1.dist-info/METADATA", "Name: two\nVersion: 1\n"),
    ("two-1.dist-info/entry_points.txt", "[console_scripts]\ntwo = two:main\n"),
];
const SOURCE: &str = "import one\ndef handler(message): return one.NUMBER";
const BOTH: &str = "import importlib.metadata, one, two\n\
    def handler(message): return one.NUMBER if message == 'x' else two.VALUE + importlib.metadata.version('two')";

/// Starts an agent with a layer for each of these packages, the first one lowest.
async fn started(test: &TestRuntime, source: &str, packages: &[&[(&str, &str)]]) -> Started {
    let mut instance = test.instance(source).await;
    let site = tempfile::tempdir_in(test.dir.path()).unwrap().keep();
    open_to_all(&site);
    let mut layers: Vec<PathBuf> = Vec::new();
    for package in packages {
        let layer = test.dir.path().join(format!("layer-{}", package[0].0));
        for (path, text) in *package {
            for root in [&site, &layer] {
                std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
                std::fs::write(root.join(path), text).unwrap();
            }
        }
        layers.insert(0, layer);
    }
    let Program::Unpacked { site_dirs, site_layers, .. } = &mut instance.program else { unreachable!() };
    (*site_dirs, *site_layers) = (vec![site], layers);
    let started = test.runtime.apply(instance).await.unwrap();
    tokio::time::timeout(LIMIT, started.ready()).await.unwrap().unwrap();
    started
}

/// A runtime with a warm parent that has imported the first package, and the number that it got there.
async fn warm() -> (TestRuntime, String) {
    let test = TestRuntime::new(Kind::Forked).await;
    started(&test, SOURCE, &[&[ONE]]).await;
    until_warm(&*test.runtime, 2.0).await;
    let number = ask(&started(&test, SOURCE, &[&[ONE]]).await, "x").await;
    (test, number)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_one_package_more_is_forked_and_finds_it() {
    let (test, number) = warm().await;
    let agent = started(&test, BOTH, &[&[ONE], &TWO]).await;
    assert_eq!((ask(&agent, "x").await, ask(&agent, "two").await), (number, "two1".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_package_may_change_the_others_is_not_forked_from_their_parent() {
    let (test, number) = warm().await;
    let plugin = ("two-1.dist-info/entry_points.txt", "[one.plugins]\ntwo = two:plugin\n");
    let agent = started(&test, BOTH, &[&[ONE], &[TWO[0], TWO[1], plugin]]).await;
    assert_ne!(ask(&agent, "x").await, number);
    assert_eq!(ask(&agent, "two").await, "two1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_fewer_packages_has_none_that_it_lacks() {
    let (test, _) = warm().await;
    let source = "import sys\ndef handler(message): return 'one' in sys.modules";
    let agent = started(&test, source, &[&TWO]).await;
    assert_eq!(ask(&agent, "x").await, "false");
}
