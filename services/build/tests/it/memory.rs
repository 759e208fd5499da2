//! Packages that are made to take all memory while they are compiled.

use crate::{Place, is_root};
use hoistway_build::python::{
    installed::{self, Bytecode, Installed},
    sandbox::Role,
};
use hoistway_model::Code;
use std::{collections::BTreeMap, time::Duration};

const LIMIT: Duration = Duration::from_secs(240);

/// A source of so many bytes that takes hundreds of times as many to parse.
fn bomb(bytes: usize) -> String {
    format!("x = [{}]\n", "[[0]],".repeat(bytes / 6))
}

fn package(place: &Place, files: &[(&str, String)]) -> (Installed, std::path::PathBuf) {
    let (root, out) = (place.make_dir("source", Role::Installer), place.make_dir("out", Role::Reader));
    let write = |(name, text): &(&str, String)| std::fs::write(root.join(name), text).unwrap();
    files.iter().for_each(write);
    let files = files.iter().map(|(name, _)| ((*name).to_owned(), String::new())).collect::<BTreeMap<_, _>>();
    (Installed { name: "bomb".into(), root, files, written: BTreeMap::new(), size: 0 }, out)
}

fn size(bytecode: &Bytecode, module: &str) -> u64 {
    let mut files = bytecode.files().iter();
    files.find(|(file, _)| file.starts_with(&format!("__pycache__/{module}."))).unwrap().1.size
}

#[tokio::test]
async fn a_file_that_takes_all_memory_has_no_bytecode_and_its_neighbour_has() {
    let place = Place::with(|_| {}).await;
    let files = [("large.py", bomb(10 << 20)), ("fine.py", "x = 1\n".into())];
    let (package, out) = package(&place, &files);
    let sandbox = place.sandbox.for_build().await.unwrap();
    let bytecode = installed::compile(&package, &out, &place.python, &sandbox, 1, LIMIT).await.unwrap();
    assert_eq!(size(&bytecode, "large"), 0);
    assert!(size(&bytecode, "fine") > 0);
}

#[tokio::test]
async fn a_build_beyond_its_memory_ends_with_the_package_and_what_to_do() {
    if !is_root() {
        return;
    }
    let place = Place::with(|config| config.max_memory_bytes = 48 << 20).await;
    let sandbox = place.sandbox.for_build().await.unwrap();
    if !hoistway_testing::need("cgroups", sandbox.memory().is_some(), "control groups for memory cannot be made here") {
        return;
    }
    let (package, out) = package(&place, &[("dense.py", bomb(2_000_000))]);
    let e = installed::compile(&package, &out, &place.python, &sandbox, 1, LIMIT).await.unwrap_err();
    assert_eq!(e.code, Code::BuildFailed);
    let said = format!("{e} {:?}", e.details);
    assert!(said.contains("bomb") && said.contains("max_memory_bytes") && said.contains("48 MiB"), "{said}");
}
