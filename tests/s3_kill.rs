//! The storage server dies (SIGKILL) in the middle of every verb, and comes back: within the patience of the program, which then goes on by itself,
//! or too late, and then the program says so in time, and the same command again completes. Nothing may be lost, and the erased stay erased.
//!
//! The server is a SeaweedFS of the test's own, behind a small proxy that counts requests: the job is done once undisturbed, which tells how many
//! requests each command makes, and what every archive must be; then once more, with the server killed at a seeded request of each command, before
//! the request arrives, while it is carried out, or after that and before its answer arrives.
//!
//! `scripts/s3-server run cargo test --test s3_kill` brings the server's program (`RESEAL_TEST_WEED`); without it the test says loudly that it is skipped.
//! By default a seeded part of the commands is disturbed. `RESEAL_KILL_SEED=N` takes another part, `RESEAL_KILL_WHOLE=1` disturbs every command in both ways.

mod common;

use common::shop::{self, DUE, OPENED, Ran, Shop, Tree, clean_live, differs_from_live, knows_the_erased, night_time, scratch};
use common::tree;
use common::weed::{self, Weed};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const ACCESS: &str = "kill-test";
const SECRET: &str = "kill-test-secret";
/// The patience that is not enough, in seconds.
const SHORT: u64 = 2;
/// A command that was given up may take so much longer than the patience: the search for work before, what it says at its end.
const SLACK: Duration = Duration::from_secs(6);

/// Between the program and the server: counts requests, and kills the server at one of them.
struct Proxy {
    weed: Weed,
    /// The server is dead: nobody listens.
    down: AtomicBool,
    stop: AtomicBool,
    requests: AtomicU64,
    /// At which request the server dies; 0: at none.
    kill_at: AtomicU64,
    /// 0: before the request arrives, 1: while it is carried out, 2: before its answer arrives.
    phase: AtomicU8,
    /// What was being asked.
    victim: Mutex<String>,
}

impl Proxy {
    fn kill(&self) {
        self.down.store(true, Ordering::SeqCst);
        self.weed.kill();
    }

    fn listen(self: Arc<Self>, port: u16) {
        let mut listener: Option<TcpListener> = None;
        while !self.stop.load(Ordering::SeqCst) {
            if self.down.load(Ordering::SeqCst) {
                listener = None;
            } else if listener.is_none() {
                listener = TcpListener::bind(("127.0.0.1", port)).inspect(|l| l.set_nonblocking(true).unwrap()).ok();
            }
            match listener.as_ref().map(TcpListener::accept) {
                Some(Ok((client, _))) => {
                    client.set_nonblocking(false).unwrap();
                    let _ = client.set_nodelay(true);
                    if let Ok(server) = TcpStream::connect(("127.0.0.1", self.weed.port())) {
                        let _ = server.set_nodelay(true);
                        self.clone().join(client, server);
                    }
                }
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn join(self: Arc<Self>, mut client: TcpStream, mut server: TcpStream) {
        let (mut from_server, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        let last = Arc::new(AtomicBool::new(false));
        let (this, answer) = (self.clone(), last.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 64 << 10];
            while let Ok(n @ 1..) = from_server.read(&mut buffer) {
                if answer.load(Ordering::SeqCst) {
                    this.kill();
                    break;
                }
                if to_client.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
            let _ = to_client.shutdown(Shutdown::Both);
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 64 << 10];
            while let Ok(n @ 1..) = client.read(&mut buffer) {
                let mut dies = false;
                if [&b"GET /"[..], b"PUT /", b"HEAD /", b"POST /", b"DELETE /"].iter().any(|verb| buffer[..n].starts_with(verb)) {
                    let number = self.requests.fetch_add(1, Ordering::SeqCst) + 1;
                    if number == self.kill_at.load(Ordering::SeqCst) {
                        let line = buffer[..n].split(|b| *b == b'\r').next().unwrap_or_default();
                        *self.victim.lock().unwrap() = String::from_utf8_lossy(line).replace(" HTTP/1.1", "");
                        match self.phase.load(Ordering::SeqCst) {
                            0 => self.kill(),
                            1 => dies = true,
                            _ => last.store(true, Ordering::SeqCst),
                        }
                    }
                }
                if server.write_all(&buffer[..n]).is_err() {
                    break;
                }
                if dies {
                    std::thread::sleep(Duration::from_millis(1));
                    self.kill();
                }
            }
            let _ = server.shutdown(Shutdown::Both);
        });
    }
}

/// The server, and the way to it.
struct Server {
    front: u16,
    proxy: Arc<Proxy>,
}

impl Server {
    fn new(program: PathBuf) -> Server {
        let [front] = weed::free_ports();
        let weed = Weed::new(program, ACCESS, SECRET, None);
        weed.start();
        weed.bucket("kill-plain", "plain");
        weed.bucket("kill-versioned", "versioned");
        let proxy = Arc::new(Proxy {
            weed,
            down: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            kill_at: AtomicU64::new(0),
            phase: AtomicU8::new(0),
            victim: Mutex::default(),
        });
        let listening = proxy.clone();
        std::thread::spawn(move || listening.listen(front));
        Server { front, proxy }
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.front)
    }

    fn start(&self) {
        self.proxy.weed.start();
        self.proxy.down.store(false, Ordering::SeqCst);
    }

    fn is_down(&self) -> bool {
        self.proxy.down.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.proxy.stop.store(true, Ordering::SeqCst);
        self.proxy.kill();
    }
}

/// Reproducible.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

/// Which of a command's runs are disturbed.
enum Plan {
    /// None; how many requests each step makes is written down.
    Rehearsal,
    /// Those that write, in one of the two ways by chance; others now and then; a propagation in both.
    Part,
    /// Each in both ways.
    Whole,
}

struct World<'a> {
    server: &'a Server,
    shop: Shop,
    plan: Plan,
    dice: Dice,
    /// Requests of each step, in order, by the rehearsal.
    counts: Vec<(String, u64)>,
    at: usize,
    /// Disturbed; ended with an error; through all the same.
    tally: (u32, u32, u32),
    /// The verbs in whose middle the server was killed.
    met: BTreeSet<String>,
}

impl<'a> World<'a> {
    fn new(server: &'a Server, root: &Path, name: &str, (apart, whole): (bool, bool), plan: Plan, seed: u64) -> World<'a> {
        let shop = Shop::with(root, apart, &shop::dataset("crm", "data").replace("max_archives: 2", "max_archives: 9"), &["data"]);
        // Something that takes a while; all of it: large enough to go in parts.
        let mut dice = Dice(7);
        let noise: Vec<u8> = (0..if whole { 2_200_000 } else { 125_000 }).flat_map(|_| dice.next().to_le_bytes()).collect();
        std::fs::write(shop.path("data/noise.bin"), noise).unwrap();
        let text = std::fs::read_to_string(shop.path("reseal.yaml")).unwrap();
        let (data, keys) = if apart { ("kill-plain", "kill-versioned") } else { ("kill-versioned", "kill-versioned") };
        for (file, keys_at, state, patience) in [
            ("reseal.yaml", "keys", "./state", 90),
            ("short.yaml", "keys", "./state", SHORT),
            ("copy.yaml", "copy", "./state2", 90),
            ("copy-short.yaml", "copy", "./state2", SHORT),
        ] {
            let text = text
                .replace("repository: ./backups", &format!("repository: s3://{data}/{name}/data"))
                .replace("keys: ./keys", &format!("keys: s3://{keys}/{name}/{keys_at}"))
                .replace("state_dir: ./state", &format!("state_dir: {state}"))
                .replace(
                    "datasets:\n",
                    &format!(
                        "s3: {{endpoint: '{}', region: us-east-1, timeout: 10s, patience: {patience}s}}\ndatasets:\n",
                        server.endpoint()
                    ),
                );
            std::fs::write(shop.path(file), text).unwrap();
        }
        World { server, shop, plan, dice: Dice(seed), counts: Vec::new(), at: 0, tally: (0, 0, 0), met: BTreeSet::new() }
    }

    /// Runs to its end; the server is killed at this request and, when `back`, started again.
    fn run(&self, now: &str, args: &[&str], config: &str, key: &str, kill: Option<(u64, u8)>, back: bool) -> (Ran, Duration) {
        let proxy = &self.server.proxy;
        let (at, phase) = kill.unwrap_or((0, 0));
        proxy.requests.store(0, Ordering::SeqCst);
        proxy.phase.store(phase, Ordering::SeqCst);
        proxy.kill_at.store(at, Ordering::SeqCst);
        let env = [("RESEAL_CONFIG", config), ("RESEAL_KEY_FILE", key), ("AWS_ACCESS_KEY_ID", ACCESS), ("AWS_SECRET_ACCESS_KEY", SECRET)];
        let started = Instant::now();
        let child = self.shop.spawn(now, args, &env);
        let waiter = std::thread::spawn(move || (shop::finish(child), Instant::now()));
        let mut killed: Option<Instant> = None;
        while !waiter.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
            if kill.is_some() && killed.is_none() && self.server.is_down() {
                killed = Some(Instant::now());
            }
            if back && killed.is_some_and(|k| k.elapsed() > Duration::from_millis(700)) && self.server.is_down() {
                self.server.start();
            }
        }
        let (ran, ended) = waiter.join().unwrap();
        proxy.kill_at.store(0, Ordering::SeqCst);
        if self.server.is_down() {
            self.server.start();
        }
        (ran, ended - killed.unwrap_or(started))
    }

    /// A command; the server dies in the middle of it, as the plan says.
    #[track_caller]
    fn step(&mut self, now: &str, args: &[&str]) -> Ran {
        self.step_as(now, args, ("reseal.yaml", "short.yaml"), "key")
    }

    #[track_caller]
    fn step_as(&mut self, now: &str, args: &[&str], configs: (&str, &str), key: &str) -> Ran {
        let name = format!("{} {}", args.iter().take(2).copied().collect::<Vec<_>>().join(" "), self.at);
        self.at += 1;
        if matches!(self.plan, Plan::Rehearsal) {
            let (ran, took) = self.run(now, args, configs.0, key, None, false);
            eprintln!("    {name}: {} requests in {:.1} s", self.server.proxy.requests.load(Ordering::SeqCst), took.as_secs_f64());
            self.counts.push((name, self.server.proxy.requests.load(Ordering::SeqCst)));
            return ran.ok();
        }
        let requests = self.counts[self.at - 1].1;
        let (late, back) = match self.plan {
            // It does not talk to the store.
            _ if requests == 0 => (false, false),
            Plan::Whole => (true, true),
            // The one that edits, proves and destroys.
            Plan::Part if args == ["propagate"] => (true, true),
            Plan::Part => match self.dice.below(if writes(args) { 2 } else { 12 }) {
                0 => (true, false),
                1 => (false, true),
                _ => (false, false),
            },
            Plan::Rehearsal => unreachable!(),
        };
        for back in [false, true].into_iter().filter(|b| if *b { back } else { late }) {
            let (at, phase) = (1 + self.dice.below(requests), self.dice.below(3) as u8);
            // What was killed before may still be getting up.
            self.server.proxy.weed.bucket("kill-versioned", "versioned");
            self.server.proxy.victim.lock().unwrap().clear();
            let (ran, took) = self.run(now, args, if back { configs.0 } else { configs.1 }, key, Some((at, phase)), back);
            let victim = self.server.proxy.victim.lock().unwrap().clone();
            let met = if victim.is_empty() { "not met" } else { ["before", "during", "after"][usize::from(phase)] };
            let how = if back { "comes back" } else { "stays dead" };
            eprintln!(
                "    {name}: killed {met} request {at} of {requests} ({victim}), {how}: exit code {:?} after {:.1} s",
                ran.code,
                took.as_secs_f64()
            );
            self.tally.0 += u32::from(!victim.is_empty());
            if !victim.is_empty() {
                self.met.insert(args[..args.len().min(2)].join(" "));
            }
            if ran.code == Some(0) || made_before(args, &ran) {
                self.tally.2 += u32::from(!victim.is_empty());
                return ran;
            }
            let said = &ran.stderr;
            assert!(!back, "{name}: {said}\n{}", self.server.proxy.weed.log());
            if victim.is_empty() {
                // It was too slow for the short patience before it came to be killed.
                continue;
            }
            self.tally.1 += 1;
            assert_eq!(ran.code, Some(1), "{name}: {said}");
            assert!(said.contains("s3://kill-") && said.contains(&self.server.endpoint()), "{name}: where? {said}");
            assert!(took < Duration::from_secs(SHORT) + SLACK, "{name}: it took {took:?}: {said}");
        }
        let ran = self.run(now, args, configs.0, key, None, false).0;
        if made_before(args, &ran) { ran } else { ran.ok() }
    }

    /// Not disturbed, and not counted.
    #[track_caller]
    fn quiet(&self, now: &str, args: &[&str]) -> serde_json::Value {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        self.run(now, &args, "reseal.yaml", "key", None, false).0.ok().json()
    }

    /// Every archive by its day; those of one day (a backup whose end was not heard of was made again) must be equal.
    fn restored(&self, now: &str) -> BTreeMap<String, Tree> {
        let mut out: BTreeMap<String, Tree> = BTreeMap::new();
        for archive in self.quiet(now, &["archives"])["archives"].as_array().unwrap() {
            let (id, time) = (archive["id"].as_str().unwrap(), &archive["created_at"].as_str().unwrap()[..10]);
            let scratch = scratch();
            let to = scratch.path().join("out");
            self.quiet(now, &["restore", id, "--to", to.to_str().unwrap()]);
            let restored = tree(&to);
            if let Some(other) = out.insert(time.to_string(), restored) {
                assert!(other == out[time], "two archives of {time} differ");
            }
        }
        out
    }

    fn live(&self) -> Tree {
        tree(&self.shop.path("data")).into_iter().map(|(name, bytes)| (format!("data/{name}"), bytes)).collect()
    }
}

const LATER: &str = "2026-10-16T01:00:00Z";
const COPY: (&str, &str) = ("copy.yaml", "copy-short.yaml");

/// Of a command whose last answer got lost, and that can be given once only, the next one is told that it is done.
fn made_before(args: &[&str], ran: &Ran) -> bool {
    let said = match args {
        ["init", ..] => "is a repository already",
        ["request", "extend", ..] => "extended already",
        ["keys", "forget-export", ..] => "was recorded at",
        _ => return false,
    };
    ran.code == Some(1) && ran.stderr.contains(said)
}

/// Verbs after which the repository is another one.
fn writes(args: &[&str]) -> bool {
    let pairs =
        [["keys", "rotate"], ["keys", "export"], ["keys", "import"], ["intake", "admit"], ["request", "open"], ["request", "cancel"]];
    matches!(args, ["init" | "backup" | "rotate" | "nightly", ..]) || pairs.iter().any(|pair| args.starts_with(pair))
}

/// Every verb that works on the whole of a repository or of a request; what every archive is at the end.
fn job(w: &mut World, apart: bool) -> BTreeMap<String, Tree> {
    let mut lives: Vec<Tree> = Vec::new();
    w.step(&night_time(1), &["init"]);
    w.step(&night_time(1), &["backup"]);
    lives.push(w.live());
    w.shop.change(2);
    w.step(&night_time(2), &["backup"]);
    lives.push(w.live());
    w.step(OPENED, &["archives"]);
    w.step(OPENED, &["show", "latest", "--entries"]);
    w.step(OPENED, &["verify", "--read-data"]);
    // Into what an interrupted one left, too.
    w.step(OPENED, &["restore", "latest", "--to", "restored", "--overwrite"]);
    assert_eq!(differs_from_live(&tree(&w.shop.path("restored")), &lives[1]), None);
    let tar = w.step(OPENED, &["export", "latest"]);
    assert!(tar.stdout.len() > 100_000);
    w.step(OPENED, &["drill"]);
    w.step(OPENED, &["subject", "find", "--identity-file", "identity0.yaml"]);
    w.step(OPENED, &["subject", "export", "--identity-file", "identity0.yaml", "--to", "held"]);
    w.step(OPENED, &["map", "check"]);

    w.step(OPENED, &["keys", "add", "--label", "second", "--new-key-file", "key2"]);
    w.step(OPENED, &["keys", "add", "--label", "web1", "--put-only", "put.key"]);
    w.step(OPENED, &["keys", "rotate"]);
    let keys = w.step(OPENED, &["keys", "list", "--json"]).json();
    // A slot whose making got no answer was made again.
    let extra: Vec<String> =
        keys["keys"].as_array().unwrap().iter().filter(|k| k["label"] == "second").map(|k| k["id"].as_str().unwrap().to_string()).collect();
    for id in &extra[1..] {
        w.quiet(OPENED, &["keys", "remove", id]);
    }
    w.step(OPENED, &["keys", "remove", &extra[0]]);

    w.shop.change(3);
    w.step_as(OPENED, &["backup"], ("reseal.yaml", "short.yaml"), "put.key");
    lives.push(w.live());
    w.step(OPENED, &["intake", "list"]);
    w.step(OPENED, &["intake", "admit"]);
    let before = w.restored(OPENED);
    assert_eq!(before.len(), 3);
    for (restored, live) in before.values().zip(&lives) {
        assert_eq!(differs_from_live(restored, live), None);
    }

    w.step(OPENED, &["request", "open", "--identity-file", "identities.yaml"]);
    let list = w.step(OPENED, &["request", "list", "--json"]).json();
    let ids: Vec<String> = list["requests"].as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap().to_string()).collect();
    w.step(OPENED, &["request", "hold", &ids[0], "--reason", "a test"]);
    w.step(OPENED, &["request", "release", &ids[0]]);
    w.step(OPENED, &["request", "extend", &ids[0], "--reason", "many"]);
    w.step(OPENED, &["request", "show", &ids[0]]);
    // Another one, which is not to be carried out; more than one where the first was not heard of.
    w.step(OPENED, &["request", "open", "--identity-file", "identity0.yaml"]);
    let all = w.step(OPENED, &["request", "list", "--json"]).json();
    let mut more: Vec<String> = all["requests"].as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap().to_string()).collect();
    more.retain(|id| !ids.contains(id));
    for id in &more[1..] {
        w.quiet(OPENED, &["request", "cancel", id]);
    }
    w.step(OPENED, &["request", "cancel", &more[0]]);
    w.step(OPENED, &["retention"]);
    w.step(DUE, &["propagate", "--dry-run"]);
    w.step(DUE, &["propagate"]);
    for id in &ids[..2] {
        let certificate = w.step(DUE, &["certificate", id]).json();
        assert_eq!(certificate["body"]["result"], "PASS", "{certificate:#}");
    }
    for id in &ids[2..] {
        assert_eq!(w.quiet(DUE, &["certificate", id])["body"]["result"], "PASS");
    }
    w.step(DUE, &["audit", "--check"]);
    clean_live(&w.shop.path("data"));
    w.step(LATER, &["nightly"]);
    w.step(LATER, &["rotate"]);
    w.step(LATER, &["catalog", "rebuild"]);

    w.step(LATER, &["keys", "export", "keys.export", "--label", "safe"]);
    let exports = w.step(LATER, &["keys", "exports", "--json"]).json();
    if apart {
        w.step_as(LATER, &["keys", "import", "keys.export"], COPY, "key");
        w.step_as(LATER, &["verify", "--read-data"], COPY, "key");
    } else {
        w.step(LATER, &["keys", "import", "keys.export"]);
    }
    let id = exports["exports"][0]["id"].as_str().unwrap().to_string();
    w.step(LATER, &["keys", "forget-export", &id, "--reason", "burnt"]);
    w.quiet(LATER, &["verify", "--read-data"]);
    let restored = w.restored(LATER);
    for (time, tree) in &restored {
        assert_eq!(knows_the_erased(tree), None, "archive of {time}");
    }
    assert_eq!(w.at, if matches!(w.plan, Plan::Rehearsal) { w.counts.len() } else { w.at });
    restored
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn the_server_is_killed_in_the_middle_of_every_verb_and_nothing_is_lost() {
    let Some(program) = weed::program() else { return };
    let (seed, whole) = (number("RESEAL_KILL_SEED", 1), number("RESEAL_KILL_WHOLE", 0) == 1);
    let server = Server::new(program);
    let dir = scratch();
    let worlds: &[bool] = if whole {
        &[true, false]
    } else if seed % 2 == 1 {
        &[true]
    } else {
        &[false]
    };
    for &apart in worlds {
        let started = Instant::now();
        let name = format!("w{}", u8::from(apart));
        eprintln!("seed {seed}, keys {}: undisturbed", if apart { "apart" } else { "in the same place" });
        let mut calm = World::new(&server, &dir.path().join(&name), &name, (apart, whole), Plan::Rehearsal, seed);
        let expected = job(&mut calm, apart);
        eprintln!("  {:.0} s; with kills", started.elapsed().as_secs_f64());
        let plan = if whole { Plan::Whole } else { Plan::Part };
        let name = format!("k{}", u8::from(apart));
        let mut world = World::new(&server, &dir.path().join(&name), &name, (apart, whole), plan, seed);
        world.counts = calm.counts;
        let restored = job(&mut world, apart);
        assert!(restored == expected, "{:?} and {:?}", restored.keys(), expected.keys());
        let (met, failed, through) = world.tally;
        eprintln!("  {:.0} s; {met} kills: {failed} commands ended with an error, {through} went through", started.elapsed().as_secs_f64());
        assert!(met >= 10 && world.met.contains("propagate"), "too few kills met a command: {:?}", world.met);
    }
}
