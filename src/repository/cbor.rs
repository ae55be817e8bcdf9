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
    let (value, used) = decode_first(object, bytes)?;
    exactly(object, value, bytes.len() - used)
}

fn exactly<T>(object: &str, value: T, left: usize) -> Result<T> {
    match left {
        0 => Ok(value),
        more => Err(Error::damaged(object, format!("{more} bytes too many"))),
    }
}

/// How deep the values may be nested that [`decode_any`] reads.
const DEPTH: usize = 64;

/// Decodes exactly one value of a type that may hold anything ([`ciborium::Value`]): nested too deep, it is an error and not the end of the stack.
pub fn decode_any<T: DeserializeOwned>(object: &str, bytes: &[u8]) -> Result<T> {
    let mut rest = bytes;
    let value = ciborium::de::from_reader_with_recursion_limit(&mut rest, DEPTH);
    let value = value.map_err(|_| Error::damaged(object, "its fields are not as expected"))?;
    exactly(object, value, rest.len())
}

/// Decodes the first of several values that stand back to back, and says how many bytes it takes.
pub fn decode_first<T: DeserializeOwned>(object: &str, bytes: &[u8]) -> Result<(T, usize)> {
    let mut decoder = minicbor_serde::Deserializer::new(bytes);
    // The decoder's own message could quote what it read.
    let value = T::deserialize(&mut decoder).map_err(|_| Error::damaged(object, "its fields are not as expected"))?;
    Ok((value, decoder.decoder().position().min(bytes.len())))
}
