//! The file in which compiled kernels are kept, in a process of its own: CubeCL is configured once.

use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
use cubecl::environment::{self, Namespace, Store, StoreOptions};
use kernels::cuda::{keep_compiled, kept};

#[test]
fn what_is_kept_is_read_by_others() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    keep_compiled().unwrap();
    assert!(CubeClRuntimeConfig::get().compilation.cache);
    let store = || Store::<String, Vec<u8>>::new(StoreOptions::new().storage(Namespace::new("kernels")));

    environment::set_root(ours.path());
    let file = environment::path();
    assert_eq!(keep_compiled().unwrap(), file);
    store().insert("a kernel".into(), vec![7; 1000]).unwrap();
    assert_eq!(kept().0, 1);
    assert!(kept().1 >= 1000);

    // What memory alone held would not be found in a copy of the file.
    environment::set_root(theirs.path());
    assert_eq!(store().remove(&"a kernel".into()), None);
    let another = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(ours.path()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), another.path().join(entry.file_name())).unwrap();
    }
    environment::set_root(another.path());
    assert_eq!(store().remove(&"a kernel".into()), Some(vec![7; 1000]));
}
