//! The agent's working directory.

use super::*;

const CHANGES: &str = "import os, pathlib
HERE = pathlib.Path(OPTIONS['--app'][0])
SOURCE = HERE / 'agent.py'
def handle(line):
    if line == 'end': os._exit(1)
    if line == 'change':
        assert HERE.samefile(os.getcwd())
        with open(SOURCE, 'a') as file: file.write('# changed')
        pathlib.Path('notes.txt').write_text('mine')
        (HERE / 'cache').mkdir()
        os.rename('notes.txt', 'cache/notes.txt')
        os.remove('lib/data.txt')
        with open('lib/more.txt', 'x') as file: file.write('more')
    return ' '.join(sorted(str(path.relative_to(HERE)) for path in HERE.rglob('*'))) + f' {os.path.getsize(SOURCE)}'";

#[tokio::test(flavor = "multi_thread")]
async fn the_working_directory_is_the_agents_own_and_new_for_each_process() {
    let stage = Stage::new().await;
    let mut instance = stage.instance(CHANGES);
    instance.proven = true;
    let Program::Unpacked { app_dir, .. } = &instance.program else { unreachable!() };
    let (app_dir, read_only) = (app_dir.clone(), std::fs::Permissions::from_mode(0o555));
    std::fs::create_dir(app_dir.join("lib")).unwrap();
    std::fs::write(app_dir.join("lib/data.txt"), "data").unwrap();
    // As layers are.
    std::fs::set_permissions(app_dir.join("lib"), read_only.clone()).unwrap();
    std::fs::set_permissions(app_dir.join("agent.py"), std::fs::Permissions::from_mode(0o444)).unwrap();
    std::fs::set_permissions(&app_dir, read_only).unwrap();

    let started = stage.runtime.apply(instance.clone()).await.unwrap();
    tokio::time::timeout(LIMIT, started.ready()).await.unwrap().unwrap();
    let size = CHANGES.len();
    let fresh = format!("agent.py lib lib/data.txt {size}");
    assert_eq!(ask(&started, "look").await, fresh);
    let changed = format!("agent.py cache cache/notes.txt lib lib/more.txt {}", size + "# changed".len());
    assert_eq!(ask(&started, "change").await, changed);

    assert_eq!(ask(&started, "end").await, "");
    until(&started, |state| *state != State::Ready).await;
    until(&started, |state| *state == State::Ready).await;
    assert_eq!(ask(&started, "look").await, fresh);
    assert_eq!(std::fs::read_to_string(app_dir.join("agent.py")).unwrap(), CHANGES);
    assert_eq!(std::fs::read_dir(&app_dir).unwrap().count(), 2);
    stage.runtime.remove(&instance.revision, GRACE).await.unwrap();
    assert_eq!(std::fs::read_dir(stage.dir.path().join("data/run")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_too_large_to_copy_is_read_where_it_is() {
    let stage = Stage::new().await;
    let instance = stage.instance("import os\ndef handle(line): return str(os.path.getsize('large.bin'))");
    let Program::Unpacked { app_dir, .. } = &instance.program else { unreachable!() };
    std::fs::File::create(app_dir.join("large.bin")).unwrap().set_len(65 << 20).unwrap();
    for open in [app_dir.as_path(), &app_dir.join("agent.py"), &app_dir.join("large.bin")] {
        std::fs::set_permissions(open, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let started = stage.runtime.apply(instance.clone()).await.unwrap();
    tokio::time::timeout(LIMIT, started.ready()).await.unwrap().unwrap();
    assert_eq!(ask(&started, "look").await, (65 << 20).to_string());
    stage.runtime.remove(&instance.revision, GRACE).await.unwrap();
    let said = stage.logs(&instance.agent, 10).await;
    let wanted = "the working directory is read-only: the source has 2 files with 65 MiB, and up to 10000 with 64 MiB";
    assert!(said.iter().any(|line| line.text.starts_with(wanted)), "{said:?}");
}
