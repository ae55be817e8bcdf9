//! What the fuzz targets share: each is a name, and what it does lies in `src/fuzzing.rs` of the main crate, where its parsers are.

pub use libfuzzer_sys;
pub use reseal::fuzzing::run;

/// A target. Writes inputs to begin with into the folder that `RESEAL_FUZZ_SEEDS` names, if it does.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        $crate::libfuzzer_sys::fuzz_target!(
            init: $crate::plant($name),
            |data: &[u8]| $crate::run($name, data)
        );
    };
}

/// Writes a target's seeds.
pub fn plant(name: &str) {
    let Some(folder) = std::env::var_os("RESEAL_FUZZ_SEEDS").map(std::path::PathBuf::from) else { return };
    for (n, seed) in reseal::fuzzing::seeds(name).into_iter().enumerate() {
        if let Err(e) = std::fs::write(folder.join(format!("seed-{n}")), seed) {
            panic!("{}: {e}", folder.display());
        }
    }
}
