//! `reseal schema`: the JSON Schema of the configuration, for editors.

use super::DONE;
use super::open::Context;
use crate::{Result, config};

/// Prints it, with or without `--json`.
pub fn run(cx: &Context) -> Result<u8> {
    cx.ui.verbatim(&config::schema_json());
    Ok(DONE)
}
