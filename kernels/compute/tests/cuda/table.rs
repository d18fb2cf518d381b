//! `cuda-kernels.md` is of the kernels as they are.

use std::collections::BTreeMap;

/// Hash by name, and every row's spills.
fn table() -> BTreeMap<String, (String, Vec<String>)> {
    include_str!("../../cuda-kernels.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|line| {
            let cells: Vec<&str> = line.trim_end_matches('|').split('|').map(str::trim).collect();
            let [name, _units, _shared, _on_80, _on_90, spills, hash] = cells[..] else {
                panic!("a row of cuda-kernels.md has other cells: {line}")
            };
            let name = name.trim_end_matches('`').to_string();
            (name, (hash.trim_matches('`').to_string(), vec![spills.to_string()]))
        })
        .collect()
}

#[test]
fn the_table_was_made_from_these_kernels_and_none_of_them_spills() {
    let table = table();
    let sources = kernels::cuda::sources();
    let renew = "run kernels/compute/cuda-kernels.py";
    for source in sources {
        let Some((recorded, spills)) = table.get(&source.name) else {
            panic!("{} is not in cuda-kernels.md: {renew}", source.name)
        };
        assert_eq!(
            *recorded,
            source.hash(),
            "{} is not the kernel that cuda-kernels.md describes: {renew}",
            source.name
        );
        assert_eq!(spills, &["0"], "{} spills registers", source.name);
    }
    let names: Vec<&String> = sources.iter().map(|source| &source.name).collect();
    for name in table.keys() {
        assert!(names.contains(&name), "cuda-kernels.md describes {name}, which is no kernel: {renew}");
    }
}

#[test]
fn a_block_asks_for_no_more_than_a_card_has() {
    for source in kernels::cuda::sources() {
        let limit = kernels::cuda::source::SHARED_LIMIT;
        assert!(source.shared <= limit, "{} wants {} bytes of shared memory", source.name, source.shared);
    }
}

#[test]
fn a_pass_on_record_is_of_these_kernels() {
    for pass in kernels::cuda::record() {
        assert!(kernels::cuda::operators().any(|name| name == pass.operator), "{} has no CUDA kernels", pass.operator);
        let now = kernels::cuda::fingerprint(&pass.operator);
        assert_eq!(
            pass.kernels, now,
            "cuda-selftest.md: {} has other kernels now, which have not passed",
            pass.operator
        );
    }
}

/// What `cuda-kernels.py` reads: the text of every kernel and a list of them.
#[test]
#[ignore = "part of kernels/compute/cuda-kernels.py, which names the folder in CUDA_KERNELS_TO"]
fn write_the_kernels() {
    let folder = std::path::PathBuf::from(std::env::var("CUDA_KERNELS_TO").expect("CUDA_KERNELS_TO names a folder"));
    let mut list = String::new();
    for (i, source) in kernels::cuda::sources().iter().enumerate() {
        std::fs::write(folder.join(format!("{i}.cu")), &source.text).unwrap();
        list += &format!("{}\t{}\t{}\t{}\n", source.name, source.units, source.shared, source.hash());
    }
    std::fs::write(folder.join("list.tsv"), list).unwrap();
}
