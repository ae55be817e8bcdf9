//! `reseal completions`: a script that teaches a shell the commands.

use super::DONE;
use super::args::{Cli, Completions};
use super::open::Context;
use crate::{Error, Result};
use clap::CommandFactory;
use serde_json::json;

/// Prints it.
pub fn run(cx: &Context, args: &Completions) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "reseal", &mut script);
    let script = String::from_utf8(script).map_err(|e| Error::Usage(e.to_string()))?;
    if cx.ui.json {
        cx.ui.object(&json!({ "shell": args.shell.to_string(), "script": script }));
    } else {
        cx.ui.script(&script);
    }
    Ok(DONE)
}
