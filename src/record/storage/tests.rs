//! A storage is written to only if it is new or ours.

use super::*;
use crate::media::media_tool::TempDir;
use crate::store::row::RecordingRow;

struct Bench {
    dir: TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let dir = TempDir::new();
        let store = Store::open(Path::new(&dir.path(""))).unwrap();
        Self { dir, store }
    }

    fn root(&self) -> std::path::PathBuf {
        self.dir.path("storage").into()
    }

    fn attach(&self, consent: Consent) -> Result<Arc<dyn Disk>, RecordError> {
        attach(&real_disk::opener(), &self.store, &self.root(), consent)
    }

    #[track_caller]
    fn check_fault(&self, want: StorageFault) {
        let before = self.names();
        match self.attach(Consent::No) {
            Err(RecordError::Storage(fault)) => assert_eq!(fault, want),
            other => panic!("{other:?}"),
        }
        assert_eq!(self.names(), before, "nothing was written");
    }

    fn names(&self) -> Option<Vec<String>> {
        let mut names = real_disk::RealDisk::open(&self.root()).ok()?.list("").unwrap();
        names.sort();
        Some(names)
    }
}

#[test]
fn a_new_storage_is_made_and_marked_and_known_afterwards() {
    let bench = Bench::new();
    bench.attach(Consent::No).unwrap();
    assert_eq!(bench.names(), Some(vec![MARKER.to_owned()]));
    bench.attach(Consent::No).unwrap();
    let known = bench.store.reader().storage(&bench.root().to_string_lossy()).unwrap().unwrap();
    let text = std::fs::read_to_string(bench.root().join(MARKER)).unwrap();
    assert_eq!(text, format!("lightnvr-storage 1\n{}\n", known.uuid));
}

#[test]
fn a_mount_point_without_its_disk_stays_empty() {
    let bench = Bench::new();
    bench.attach(Consent::No).unwrap();
    let away = bench.dir.path("away");
    std::fs::rename(bench.root(), &away).unwrap();
    bench.check_fault(StorageFault::Missing);
    std::fs::create_dir(bench.root()).unwrap();
    bench.check_fault(StorageFault::Missing);
    std::fs::remove_dir(bench.root()).unwrap();
    std::fs::rename(&away, bench.root()).unwrap();
    bench.attach(Consent::No).unwrap();
}

#[test]
fn another_recorders_storage_is_left_alone_until_it_is_adopted() {
    let (ours, theirs) = (Bench::new(), Bench::new());
    theirs.attach(Consent::No).unwrap();
    std::fs::rename(theirs.root(), ours.root()).unwrap();
    ours.check_fault(StorageFault::Foreign);
    ours.attach(Consent::Adopt).unwrap();
    ours.attach(Consent::No).unwrap();
}

#[test]
fn an_adopted_replacement_is_another_storage_than_the_lost_one() {
    let bench = Bench::new();
    bench.attach(Consent::No).unwrap();
    let lost = bench.dir.path("lost");
    std::fs::rename(bench.root(), &lost).unwrap();
    bench.attach(Consent::Adopt).unwrap();
    std::fs::rename(bench.root(), bench.dir.path("replacement")).unwrap();
    std::fs::rename(&lost, bench.root()).unwrap();
    bench.check_fault(StorageFault::Foreign);
}

#[test]
fn a_marker_that_a_power_cut_left_out_is_written_again() {
    for left_behind in [None, Some(""), Some("lightnvr-sto")] {
        let bench = Bench::new();
        note(&bench.store, &bench.root().to_string_lossy(), &new_uuid().unwrap(), false).unwrap();
        if let Some(text) = left_behind {
            std::fs::create_dir(bench.root()).unwrap();
            std::fs::write(bench.root().join(MARKER), text).unwrap();
        }
        bench.attach(Consent::No).unwrap();
        bench.attach(Consent::No).unwrap();
    }
}

#[test]
fn a_store_from_before_the_marker_knows_its_storage_by_its_recordings() {
    let bench = Bench::new();
    let row = RecordingRow {
        id: 1,
        stream_id: 0,
        stream_name: "Tor".into(),
        start_ms: 0,
        end_ms: 1,
        size: 1,
        path: bench.root().join("0/x.mp4").to_string_lossy().into_owned(),
        in_progress: false,
        is_protected: false,
        boot: 0,
    };
    bench.store.commit(&[Change::PutRecording(row)]).unwrap();
    bench.check_fault(StorageFault::Missing);
    std::fs::create_dir_all(bench.root().join("0")).unwrap();
    bench.attach(Consent::No).unwrap();
}
