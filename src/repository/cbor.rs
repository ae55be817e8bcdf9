//! CBOR in and out, with errors that name the object and not its contents.

use crate::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// Encodes. The buffer is wiped when dropped; copies that a growing buffer leaves behind are the allocator's.
pub fn encode(value: &impl Serialize) -> Result<Zeroizing<Vec<u8>>> {
    let mut out = Zeroizing::new(Vec::with_capacity(1024));
    ciborium::into_writer(value, &mut *out).map_err(|e| Error::Refused(format!("cannot be encoded: {e}")))?;
    Ok(out)
}

/// Decodes exactly one value; anything after it is damage.
pub fn decode<T: DeserializeOwned>(object: &str, bytes: &[u8]) -> Result<T> {
    let mut rest = bytes;
    // The decoder's own message could quote what it read.
    let value = ciborium::from_reader(&mut rest).map_err(|_| Error::damaged(object, "its fields are not as expected"))?;
    if rest.is_empty() { Ok(value) } else { Err(Error::damaged(object, format!("{} bytes too many", rest.len()))) }
}
