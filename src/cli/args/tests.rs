//! The contract with scripts, line by line.

use super::*;
use clap::CommandFactory;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn the_contract_parses() {
    for line in [
        "reseal init",
        "reseal backup",
        "reseal backup crm shop --tag before-upgrade --json",
        "reseal archives crm --json",
        "reseal show latest --entries",
        "reseal restore crm@2026-11-01 --to out --path a --path b/** --dry-run",
        "reseal restore latest --to out --overwrite --skip-gate --reason x --approver y",
        "reseal export latest --path *.csv",
        "reseal subject find --identity-file -",
        "reseal subject export --identity-file f --to out",
        "reseal request open --identity-file f --dataset a --dataset b --kind deletion --received 2026-10-01 --reason x",
        "reseal request list",
        "reseal request show ab12",
        "reseal request cancel ab12",
        "reseal request hold ab12 --reason x",
        "reseal request release ab12",
        "reseal request approve ab12",
        "reseal request extend ab12 --reason x",
        "reseal request refuse ab12 --ground x",
        "reseal request came-back ab12 --reason x",
        "reseal request add-identities ab12 --identity-file f",
        "reseal propagate",
        "reseal propagate --request a --request b --dry-run --verify full",
        "reseal propagate --request a --now --reason x",
        "reseal rotate --dry-run",
        "reseal verify",
        "reseal verify a b --read-data=10%",
        "reseal verify --read-data a",
        "reseal drill crm",
        "reseal certificate ab12",
        "reseal certificate ab12 --out f",
        "reseal certificate check f",
        "reseal nightly -q",
        "reseal keys list",
        "reseal keys add --label safe --new-key-file f",
        "reseal keys remove ab",
        "reseal keys rotate",
        "reseal init --put-only-key f",
        "reseal keys add --label web1 --put-only f --dataset crm --dataset shop",
        "reseal intake list",
        "reseal intake admit",
        "reseal intake discard ab12 --reason x",
        "reseal keys export f --label safe --replaces ab --replaces cd",
        "reseal keys exports",
        "reseal keys import f",
        "reseal keys forget-export ab --reason x",
        "reseal audit --check",
        "reseal map check",
        "reseal map suggest crm",
        "reseal schema",
        "reseal catalog rebuild",
        "reseal completions fish",
        "reseal demo",
        "reseal --config x -v --no-progress --key-file k --actor me archives",
    ] {
        if let Err(e) = parse(line) {
            panic!("{line}: {e}");
        }
    }
}

#[test]
fn half_given_decisions_are_refused() {
    for line in [
        "reseal restore latest",
        "reseal restore latest --to out --skip-gate",
        "reseal restore latest --to out --skip-gate --reason x",
        "reseal restore latest --to out --reason x",
        "reseal propagate --now",
        "reseal propagate --now --reason x",
        "reseal propagate --request a --reason x",
        "reseal request hold ab12",
        "reseal verify --read-data=0%",
        "reseal verify --read-data=101%",
        "reseal certificate",
        "reseal certificate check",
        "reseal backup -q -v",
        "reseal keys export f",
        "reseal keys forget-export ab",
        "reseal keys add --label web1 --dataset crm",
        "reseal keys add --label web1 --put-only f --new-key-file g",
        "reseal intake discard ab12",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn shares_and_moments() {
    let Command::Verify(v) = parse("reseal verify --read-data=10%").unwrap().command else { panic!() };
    assert_eq!(v.read_data, Some(0.1));
    let Command::Verify(v) = parse("reseal verify --read-data x").unwrap().command else { panic!() };
    assert_eq!((v.read_data, v.archives), (Some(1.0), vec!["x".to_string()]));
    assert_eq!(moment("2026-11-01").unwrap().to_string(), "2026-11-01T00:00:00Z");
    assert_eq!(moment("2026-11-01T02:00:00+02:00").unwrap().to_string(), "2026-11-01T00:00:00Z");
    for bad in ["", "yesterday", "2026-11-01T02:00:00", "2026-13-01"] {
        assert!(moment(bad).is_err(), "{bad}");
    }
}
