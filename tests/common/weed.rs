//! A SeaweedFS of a test's own, to be killed, to serve another provider's buckets, to speak TLS, or to have a key management. Its program is named by `RESEAL_TEST_WEED`;
//! `scripts/s3-server run` sets it.
#![allow(dead_code)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// The program, or a loud word that the test is skipped.
pub fn program() -> Option<PathBuf> {
    let program = std::env::var_os("RESEAL_TEST_WEED");
    if program.is_none() {
        eprintln!("!!!!!!!! SKIPPED: RESEAL_TEST_WEED is not set; scripts/s3-server run … sets it !!!!!!!!");
    }
    program.map(PathBuf::from)
}

/// Ports that nobody listens on, here and 10000 higher, where its servers talk among themselves.
pub fn free_ports<const N: usize>() -> [u16; N] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let free = |port: u16| [port, port + 10_000].iter().all(|p| TcpListener::bind(("127.0.0.1", *p)).is_ok());
    // Both below 32768, where the system takes the ports of outgoing connections from: a server that is down for a while would lose its own.
    let first = 20_000 + (std::process::id() % 700) as u16;
    std::array::from_fn(|_| {
        (0..2_000).map(|_| first + NEXT.fetch_add(1, Ordering::SeqCst) % 2_000).find(|port| free(*port)).expect("a free port")
    })
}

/// The name of the one key of a server with a key management.
pub const KMS_KEY: &str = "alias/seaweedfs-default";

/// The server with its data; both go with it.
pub struct Weed {
    program: PathBuf,
    dir: tempfile::TempDir,
    ports: [u16; 6],
    access: &'static str,
    secret: &'static str,
    /// Certificate and key: then it speaks TLS too.
    tls: Option<(PathBuf, PathBuf)>,
    /// A key management of its own, with one key in memory.
    kms: bool,
    child: Mutex<Option<Child>>,
}

impl Weed {
    /// Not started yet.
    pub fn new(program: PathBuf, access: &'static str, secret: &'static str, tls: Option<(PathBuf, PathBuf)>) -> Weed {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        Weed { program, dir, ports: free_ports(), access, secret, tls, kms: false, child: Mutex::new(None) }
    }

    /// With a key management that has one key, [`KMS_KEY`]; the key does not outlive the server.
    pub fn with_kms(program: PathBuf, access: &'static str, secret: &'static str) -> Weed {
        let mut weed = Weed::new(program, access, secret, None);
        weed.kms = true;
        weed
    }

    /// Where it speaks plainly.
    pub fn port(&self) -> u16 {
        self.ports[3]
    }

    /// Where it speaks TLS.
    pub fn https(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports[5])
    }

    /// Starts it, or starts it again on what is there.
    pub fn start(&self) {
        let [master, volume, filer, s3, admin, https] = self.ports;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut command = Command::new(&self.program);
        command
            .args(["-logtostderr=true", "mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-webdav=false"])
            .args(["-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.allowDeleteBucketNotEmpty=false"])
            .args(["-s3.autoCreateBucket=false", "-volume.max=1000"])
            .arg(format!("-dir={}", self.dir.path().join("data").display()))
            .args([format!("-master.port={master}"), format!("-volume.port={volume}"), format!("-filer.port={filer}")])
            .args([format!("-s3.port={s3}"), format!("-admin.port={admin}")]);
        if let Some((certificate, key)) = &self.tls {
            command.arg(format!("-s3.port.https={https}"));
            command.arg(format!("-s3.cert.file={}", certificate.display())).arg(format!("-s3.key.file={}", key.display()));
        }
        if self.kms {
            let config = serde_json::json!({
                "identities": [{
                    "name": "admin",
                    "credentials": [{"accessKey": self.access, "secretKey": self.secret}],
                    "actions": ["Admin", "Read", "List", "Tagging", "Write"],
                }],
                "kms": {"default_provider": "local", "providers": {"local": {"type": "local"}}},
            });
            std::fs::write(self.dir.path().join("s3.json"), config.to_string()).unwrap();
            command.arg("-s3.config=s3.json");
        }
        let child = command
            .envs([("AWS_ACCESS_KEY_ID", self.access), ("AWS_SECRET_ACCESS_KEY", self.secret)])
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        *self.child.lock().unwrap() = Some(child);
    }

    /// SIGKILL.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Makes a bucket (`plain`, `versioned`, `lockable`), once the server is up.
    pub fn bucket(&self, name: &str, sort: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/s3-server");
        let endpoint = format!("http://127.0.0.1:{}", self.port());
        for _ in 0..120 {
            let arguments = ["bucket", &endpoint, self.access, self.secret, name, sort];
            if Command::new(&script).args(arguments).stderr(Stdio::null()).status().is_ok_and(|s| s.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        panic!("the server did not come up: {}", self.log());
    }

    /// What it said last.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Weed {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where the server of `scripts/s3-server run` is, and one of its buckets; or a loud word that the test is skipped.
pub fn server(variable: &str) -> Option<(String, String)> {
    match (std::env::var("RESEAL_TEST_S3_ENDPOINT"), std::env::var(variable)) {
        (Ok(endpoint), Ok(bucket)) => Some((endpoint, bucket)),
        _ => {
            eprintln!("!!!!!!!! SKIPPED: RESEAL_TEST_S3_ENDPOINT or {variable} is not set; scripts/s3-server run … sets them !!!!!!!!");
            None
        }
    }
}
