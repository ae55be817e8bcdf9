//! The command line: arguments → command → exit code. A file per command; nothing below this room prints, prompts or ends the process.

mod archives;
pub mod args;
mod audit;
mod backup;
mod buckets;
mod catalog;
mod certificate;
mod clock;
mod completions;
mod deadlines;
mod demo;
mod drill;
mod export;
mod exports;
mod init;
mod intake;
mod keys;
mod map;
mod nightly;
mod open;
mod page;
mod progress;
mod propagate;
mod request;
mod restore;
mod retention;
mod rotate;
mod schema;
mod secrets;
mod show;
mod sides;
mod signals;
mod subject;
mod text;
mod ui;
mod verify;
mod words;

use crate::env::{Env, Stop, SystemRandom};
use crate::{Error, Result};
use args::{Cli, Command};
use clap::Parser;
use open::Context;
use progress::Progress;
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use ui::Ui;

/// Done.
const DONE: u8 = 0;
/// Usage or configuration.
const USAGE: u8 = 2;
/// Done in part; what is left was listed.
const PARTIAL: u8 = 3;
/// A verification failed.
const FAILED: u8 = 4;

/// The whole program.
pub fn main() -> ExitCode {
    crate::memory::settle();
    let args: Vec<OsString> = std::env::args_os().collect();
    match Cli::try_parse_from(&args) {
        Ok(cli) => ExitCode::from(run(cli)),
        Err(e) => ExitCode::from(misused(&e, &args)),
    }
}

fn run(cli: Cli) -> u8 {
    let global = cli.global;
    let progress = Arc::new(Progress::new(global.quiet, global.no_progress, global.verbose));
    let ui = Ui::new(global.json, global.quiet, progress.clone());
    let stop = Stop::default();
    signals::listen(stop.clone(), progress.clone());
    let (clock, set) = match clock::clock() {
        Ok(clock) => clock,
        Err(e) => return ended(&ui, Err(e)),
    };
    if let Some(at) = set {
        ui.warn(&format!("RESEAL_NOW sets the clock to {} UTC; that is for demonstrations and tests only", text::time(at)));
    }
    let env = Env { clock, random: Arc::new(SystemRandom), stop, monitor: progress };
    let context = Context { global, env, ui };
    let result = dispatch(&context, cli.command);
    ended(&context.ui, result)
}

fn ended(ui: &Ui, result: Result<u8>) -> u8 {
    let code = match result {
        Ok(code) => code,
        Err(e) => {
            ui.error(&e);
            e.exit_code()
        }
    };
    match ui.finish() {
        Err(e) => {
            ui.error(&e);
            code.max(e.exit_code())
        }
        Ok(()) => code,
    }
}

fn dispatch(cx: &Context, command: Command) -> Result<u8> {
    match command {
        Command::Init(a) => init::run(cx, &a),
        Command::Backup(a) => backup::run(cx, &a),
        Command::Archives(a) => archives::run(cx, &a),
        Command::Show(a) => show::run(cx, &a),
        Command::Restore(a) => restore::run(cx, &a),
        Command::Export(a) => export::run(cx, &a),
        Command::Subject(a) => subject::run(cx, &a),
        Command::Request(a) => request::run(cx, &a),
        Command::Propagate(a) => propagate::run(cx, &a),
        Command::Rotate(a) => rotate::run(cx, &a),
        Command::Verify(a) => verify::run(cx, &a),
        Command::Drill(a) => drill::run(cx, &a),
        Command::Certificate(a) => certificate::run(cx, &a),
        Command::Retention(a) => retention::run(cx, &a),
        Command::Nightly(a) => nightly::run(cx, &a),
        Command::Keys(a) => keys::run(cx, &a),
        Command::Intake(a) => intake::run(cx, &a),
        Command::Audit(a) => audit::run(cx, &a),
        Command::Map(a) => map::run(cx, &a),
        Command::Schema => schema::run(cx),
        Command::Catalog(a) => catalog::run(cx, &a),
        Command::Completions(a) => completions::run(cx, &a),
        Command::Demo(a) => demo::run(cx, &a),
    }
}

/// What clap makes of a wrong command line (and of `--help` and `--version`).
fn misused(error: &clap::Error, args: &[OsString]) -> u8 {
    // A reader that left early is no failure, here as elsewhere.
    let _ = error.print();
    if error.exit_code() == 0 {
        return DONE;
    }
    let json = args.iter().take_while(|a| *a != "--").any(|a| a == "--json");
    if json {
        let ui = Ui::new(true, true, Arc::new(Progress::new(true, true, 0)));
        let whole = error.render().to_string();
        let message = whole.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default().trim().to_string();
        ui.object(&ui::error_object(&message, USAGE));
        let _ = ui.finish();
    }
    USAGE
}

/// The worst of several exit codes: damage, failed checks, locks, mistakes, failures, and only then what is left to do.
fn worst(codes: impl IntoIterator<Item = u8>) -> u8 {
    let rank = |c: &u8| [3, 1, 2, 5, 4, 6].iter().position(|r| r == c).map_or(0, |p| p + 1);
    codes.into_iter().max_by_key(rank).unwrap_or(DONE)
}

/// Stops between two pieces of work.
fn go_on(cx: &Context) -> Result<(), Error> {
    cx.env.stop.check("what is done stays done; run the same command again")
}
