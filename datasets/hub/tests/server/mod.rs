//! A small server that says just what `hf-hub` asks for. Other crates' tests include this file.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves one repository at revision `main`.
pub struct Server {
    pub endpoint: String,
    shop: Arc<Shop>,
    down: Arc<AtomicBool>,
}

struct Shop {
    /// `datasets/` or `models/`.
    kind: &'static str,
    name: String,
    files: BTreeMap<String, Vec<u8>>,
    /// Files sent, in order.
    sent: Mutex<Vec<String>>,
    /// The next answer with this file breaks off in its middle.
    cut: Mutex<Option<String>>,
    /// This file is answered with an error page.
    spoiled: Mutex<Option<String>>,
    /// Every answer is this status.
    status: Mutex<Option<&'static str>>,
}

impl Server {
    /// `kind` is `datasets` or `models`.
    pub fn start(kind: &'static str, name: &str, files: &[(&str, impl AsRef<[u8]>)]) -> Self {
        let files = files.iter().map(|(name, bytes)| ((*name).into(), bytes.as_ref().to_vec())).collect();
        let (sent, cut, spoiled, status) = Default::default();
        let shop = Arc::new(Shop { kind, name: name.into(), files, sent, cut, spoiled, status });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let down = Arc::<AtomicBool>::default();
        let (open, closed) = (shop.clone(), down.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if closed.load(Ordering::SeqCst) {
                    return; // dropping the listener refuses what comes
                }
                let shop = open.clone();
                std::thread::spawn(move || shop.answer(&stream));
            }
        });
        Self { endpoint, shop, down }
    }

    /// The names of the files sent so far, whole or not.
    pub fn sent(&self) -> Vec<String> {
        self.shop.sent.lock().unwrap().clone()
    }

    /// Lets the next answer with `file` break off in its middle.
    pub fn cut(&self, file: &str) {
        *self.shop.cut.lock().unwrap() = Some(file.into());
    }

    /// Answers a request for `file` with an error page.
    pub fn spoil(&self, file: &str) {
        *self.shop.spoiled.lock().unwrap() = Some(file.into());
    }

    /// Answers whatever is asked with `status`, such as `503 Service Unavailable`.
    pub fn answer_all(&self, status: &'static str) {
        *self.shop.status.lock().unwrap() = Some(status);
    }

    /// From now on connections are refused.
    pub fn stop(&self) {
        self.down.store(true, Ordering::SeqCst);
        let address = self.endpoint.trim_start_matches("http://");
        let _ = TcpStream::connect(address); // wakes the listener
        while TcpStream::connect(address).is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Shop {
    fn answer(&self, mut stream: &TcpStream) {
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        let request = lines.next().unwrap_or_default();
        let _ = lines.take_while(|line| !line.is_empty()).count();
        let mut words = request.split(' ');
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let path = target.split('?').next().unwrap_or("").replace("%20", " ");

        let prefix = if self.kind == "models" { String::new() } else { format!("/{}", self.kind) };
        let api = path.strip_prefix(&format!("/api/{}/{}", self.kind, self.name));
        let file = path.strip_prefix(&format!("{prefix}/{}/resolve/{COMMIT}/", self.name));
        let (status, headers, body) = match (api, file) {
            (Some("" | "/revision/main"), _) => ("200 OK", String::new(), self.info()),
            (Some(api), _) if api == format!("/revision/{COMMIT}") => ("200 OK", String::new(), self.info()),
            (Some(tree), _) if tree == "/tree/main" || tree == format!("/tree/{COMMIT}") => {
                ("200 OK", String::new(), self.tree())
            }
            (_, Some(name)) if self.files.contains_key(name) => {
                let tag = name.replace(['/', '.', ' '], "_");
                if method == "GET" {
                    self.sent.lock().unwrap().push(name.into());
                }
                let headers = format!("ETag: \"{tag}\"\r\nX-Repo-Commit: {COMMIT}\r\n");
                match *self.spoiled.lock().unwrap() {
                    Some(ref spoiled) if spoiled == name && method == "GET" => {
                        ("403 Forbidden", headers, b"you may not".to_vec())
                    }
                    _ => ("200 OK", headers, self.files[name].clone()),
                }
            }
            _ => ("404 Not Found", String::new(), b"{}".to_vec()),
        };
        let (status, headers, body) = match *self.status.lock().unwrap() {
            Some(status) => (status, String::new(), b"{}".to_vec()),
            None => (status, headers, body),
        };
        let mut length = body.len();
        let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
        if method == "GET"
            && file.is_some()
            && self.cut.lock().unwrap().take_if(|cut| Some(cut.as_str()) == file).is_some()
        {
            length /= 2;
        }
        let body = if method == "HEAD" { &[] } else { &body[..length] };
        let _ = stream.write_all(&[head.as_bytes(), body].concat());
    }

    fn info(&self) -> Vec<u8> {
        format!(r#"{{"id": "{}", "sha": "{COMMIT}"}}"#, self.name).into_bytes()
    }

    fn tree(&self) -> Vec<u8> {
        let entry = |(name, bytes): (&String, &Vec<u8>)| {
            format!(r#"{{"type": "file", "oid": "0", "size": {}, "path": "{name}"}}"#, bytes.len())
        };
        format!("[{}]", self.files.iter().map(entry).collect::<Vec<_>>().join(",")).into_bytes()
    }
}
