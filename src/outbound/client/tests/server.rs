//! A server that does, for each connection, what the test tells it to.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What to do with the next connection.
#[derive(Debug, Clone)]
pub enum Step {
    /// Read one request, answer, close.
    Answer(String),
    /// Answer every request and keep the connection open.
    Keep(String),
    /// Answer the first request, read the second one and close.
    KeepOnce(String),
    /// Close before reading.
    CloseAtOnce,
    /// Read the request and close.
    CloseAfterRequest,
    /// Read the request, send this and close.
    Partial(String),
    /// The same with bytes.
    PartialBytes(Vec<u8>),
    /// Read the request, send this and wait for ever.
    PartialThenHang(String),
    /// Send this without waiting for a request, then close when the other side has closed.
    Raw(String),
    /// Read whatever comes and never answer.
    Hang,
}

/// An ordinary answer.
pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// A port on which nobody listens.
pub async fn unused_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

pub struct Server {
    pub port: u16,
    connections: Arc<Mutex<usize>>,
    requests: watch::Receiver<Vec<String>>,
}

impl Server {
    pub async fn start(steps: Vec<Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(Mutex::new(0));
        let (seen, requests) = watch::channel(vec![]);
        tokio::spawn(accept(listener, steps.into(), Arc::clone(&connections), Arc::new(seen)));
        Server { port, connections, requests }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }

    pub fn requests(&self) -> Vec<String> {
        self.requests.borrow().clone()
    }

    pub async fn wait_for_requests(&self, count: usize) {
        self.requests.clone().wait_for(|seen| seen.len() >= count).await.unwrap();
    }
}

type Seen = Arc<watch::Sender<Vec<String>>>;

async fn accept(listener: TcpListener, mut steps: VecDeque<Step>, connections: Arc<Mutex<usize>>, seen: Seen) {
    while let Ok((stream, _)) = listener.accept().await {
        *connections.lock().unwrap() += 1;
        let step = steps.pop_front().expect("no further connection is allowed");
        tokio::spawn(play(stream, step, Arc::clone(&seen)));
    }
}

async fn play(mut stream: TcpStream, step: Step, seen: Seen) {
    match step {
        Step::CloseAtOnce => {}
        Step::CloseAfterRequest => {
            read_request(&mut stream, &seen).await;
        }
        Step::Answer(text) | Step::Partial(text) => {
            read_request(&mut stream, &seen).await;
            let _ = stream.write_all(text.as_bytes()).await;
        }
        Step::PartialBytes(bytes) => {
            read_request(&mut stream, &seen).await;
            let _ = stream.write_all(&bytes).await;
        }
        Step::Keep(text) => {
            while read_request(&mut stream, &seen).await {
                let _ = stream.write_all(text.as_bytes()).await;
            }
        }
        Step::KeepOnce(text) => {
            read_request(&mut stream, &seen).await;
            let _ = stream.write_all(text.as_bytes()).await;
            read_request(&mut stream, &seen).await;
        }
        Step::PartialThenHang(text) => {
            read_request(&mut stream, &seen).await;
            let _ = stream.write_all(text.as_bytes()).await;
            std::future::pending().await
        }
        Step::Raw(text) => {
            let _ = stream.write_all(text.as_bytes()).await;
            let mut rest = vec![];
            let _ = stream.read_to_end(&mut rest).await;
        }
        Step::Hang => {
            read_request(&mut stream, &seen).await;
            std::future::pending().await
        }
    }
}

/// Reads one whole request and keeps it; false when the connection ended.
async fn read_request(stream: &mut TcpStream, seen: &Seen) -> bool {
    let mut bytes = vec![];
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return false,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |n| n.parse().unwrap()) {
            seen.send_modify(|all| all.push(text));
            return true;
        }
    }
}

/// Serves one connection with TLS and this certificate; returns the port.
pub fn tls(certificate_pem: &str) -> u16 {
    let key = include_bytes!("../../../../tests/fixtures/tls/leaf.key.pem");
    let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::from_pem_slice(key).unwrap())
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let session = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = rustls::StreamOwned::new(session, stream);
        let mut buffer = [0; 4096];
        // A client that does not like the certificate never gets here.
        if stream.read(&mut buffer).is_ok_and(|n| n > 0) {
            stream.write_all(ok("over tls").as_bytes()).unwrap();
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    port
}
