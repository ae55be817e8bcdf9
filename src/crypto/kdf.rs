//! Key derivation: HKDF-SHA256 from keys, Argon2id from passphrases. Argon2's costs come from the slot, so from whoever can
//! write to the store: they are checked against limits before anything is allocated.

use super::secret::Passphrase;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Largest memory cost that is obeyed, in KiB (4 GiB).
pub const MAX_MEMORY_KIB: u32 = 4 * 1024 * 1024;
/// Largest number of passes that is obeyed.
pub const MAX_PASSES: u32 = 100;
/// Largest number of lanes that is obeyed.
pub const MAX_LANES: u32 = 16;

/// Costs of Argon2id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KdfParams {
    /// Memory in KiB.
    #[serde(rename = "m")]
    pub memory_kib: u32,
    /// Passes over it.
    #[serde(rename = "t")]
    pub passes: u32,
    /// Lanes.
    #[serde(rename = "p")]
    pub lanes: u32,
}

impl Default for KdfParams {
    /// 64 MiB, 3 passes, 4 lanes: RFC 9106's second recommendation.
    fn default() -> KdfParams {
        KdfParams { memory_kib: 64 * 1024, passes: 3, lanes: 4 }
    }
}

impl KdfParams {
    /// Fails unless the costs are within the limits above.
    pub fn check(&self) -> Result<()> {
        let fine = (1..=MAX_LANES).contains(&self.lanes)
            && (1..=MAX_PASSES).contains(&self.passes)
            && (8 * self.lanes..=MAX_MEMORY_KIB).contains(&self.memory_kib);
        if fine {
            Ok(())
        } else {
            Err(Error::Refused(format!(
                "Argon2id costs m = {} KiB, t = {}, p = {} are outside the limits (m up to {MAX_MEMORY_KIB} KiB and at least 8 per lane, t up to {MAX_PASSES}, p up to {MAX_LANES})",
                self.memory_kib, self.passes, self.lanes
            )))
        }
    }
}

/// Argon2id version 0x13, 32 bytes out.
pub fn argon2id(passphrase: &Passphrase, salt: &[u8; 32], params: KdfParams) -> Result<Zeroizing<[u8; 32]>> {
    params.check()?;
    let refused = |e: argon2::Error| Error::Refused(format!("Argon2id: {e}"));
    let costs = argon2::Params::new(params.memory_kib, params.passes, params.lanes, Some(32)).map_err(refused)?;
    let mut out = Zeroizing::new([0u8; 32]);
    argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, costs)
        .hash_password_into(passphrase.bytes(), salt, out.as_mut_slice())
        .map_err(refused)?;
    Ok(out)
}

/// HKDF-SHA256 (RFC 5869), 32 bytes out. `info` is the concatenation of its parts.
pub fn hkdf(key: &[u8; 32], salt: &[u8], info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0u8; 32]);
    // Expanding fails only beyond 255 × 32 bytes.
    let _ = hkdf::Hkdf::<sha2::Sha256>::new(Some(salt), key).expand_multi_info(info, out.as_mut_slice());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_that_would_exhaust_the_machine_are_refused_before_they_are_paid() {
        let passphrase = Passphrase::new("x").unwrap();
        for (memory_kib, passes, lanes) in [(u32::MAX, 1, 1), (64, u32::MAX, 1), (64, 1, u32::MAX), (7, 1, 1), (64, 0, 1), (64, 1, 0)] {
            assert!(argon2id(&passphrase, &[0; 32], KdfParams { memory_kib, passes, lanes }).is_err());
        }
    }

    #[test]
    fn the_salt_and_the_costs_matter() {
        let p = Passphrase::new("correct horse").unwrap();
        let small = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
        let a = argon2id(&p, &[0; 32], small).unwrap();
        assert_eq!(*a, *argon2id(&p, &[0; 32], small).unwrap());
        assert_ne!(*a, *argon2id(&p, &[1; 32], small).unwrap());
        assert_ne!(*a, *argon2id(&p, &[0; 32], KdfParams { passes: 2, ..small }).unwrap());
    }
}
