//! A small SMTP server on loopback that says what it is told to.

use std::io::{BufRead, Write};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// The replies; everything else is answered with 250.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    /// Empty: never greets.
    pub greeting: &'static str,
    pub mail: &'static str,
    pub rcpt: &'static str,
    pub end: End,
    /// Before each reply.
    pub pause: Duration,
}

/// What follows the whole letter.
#[derive(Debug, Clone, Copy)]
pub enum End {
    Reply(&'static str),
    Cut,
    Hang,
}

impl Default for Script {
    fn default() -> Self {
        let end = End::Reply("250 2.0.0 queued");
        Script { greeting: "220 test ready", mail: "250 ok", rcpt: "250 ok", end, pause: Duration::ZERO }
    }
}

#[derive(Default)]
struct Heard {
    commands: Vec<String>,
    letters: Vec<String>,
}

pub struct Server {
    pub port: u16,
    heard: Arc<Mutex<Heard>>,
}

impl Server {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let all = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(BufReader::new(stream), script, Arc::clone(&all)));
            }
        });
        Server { port, heard }
    }

    pub fn commands(&self) -> Vec<String> {
        self.heard.lock().unwrap().commands.clone()
    }

    pub fn letters(&self) -> Vec<String> {
        self.heard.lock().unwrap().letters.clone()
    }
}

async fn talk(mut stream: BufReader<TcpStream>, script: Script, heard: Arc<Mutex<Heard>>) {
    if script.greeting.is_empty() {
        return std::future::pending().await;
    }
    let say = async |stream: &mut BufReader<TcpStream>, reply: &str| {
        tokio::time::sleep(script.pause).await;
        say(stream, reply).await;
    };
    say(&mut stream, script.greeting).await;
    while let Some(command) = line(&mut stream).await {
        let verb = command.split([' ', ':']).next().unwrap_or_default().to_owned();
        heard.lock().unwrap().commands.push(command);
        match verb.as_str() {
            "EHLO" => say(&mut stream, "250-test\r\n250-8BITMIME\r\n250 AUTH PLAIN LOGIN").await,
            "AUTH" => say(&mut stream, "235 welcome").await,
            "MAIL" => say(&mut stream, script.mail).await,
            "RCPT" => say(&mut stream, script.rcpt).await,
            "QUIT" => return say(&mut stream, "221 bye").await,
            "DATA" => {
                say(&mut stream, "354 go on").await;
                let letter = letter(&mut stream).await;
                heard.lock().unwrap().letters.push(letter);
                match script.end {
                    End::Reply(reply) => say(&mut stream, reply).await,
                    End::Cut => return,
                    End::Hang => return std::future::pending().await,
                }
            }
            _ => say(&mut stream, "250 ok").await,
        }
    }
}

/// Up to the line with a single full stop; doubled ones are undone.
async fn letter(stream: &mut BufReader<TcpStream>) -> String {
    let mut letter = String::new();
    while let Some(line) = line(stream).await {
        if line == "." {
            break;
        }
        letter += line.strip_prefix('.').unwrap_or(&line);
        letter += "\r\n";
    }
    letter
}

async fn line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    match stream.read_line(&mut line).await {
        Ok(n) if n > 0 => Some(line.trim_end_matches("\r\n").to_owned()),
        _ => None,
    }
}

async fn say(stream: &mut BufReader<TcpStream>, reply: &str) {
    let _ = stream.get_mut().write_all(format!("{reply}\r\n").as_bytes()).await;
}

/// Takes one letter over TLS. The thread ends with the letter, or with nothing when the talk was broken off.
pub fn smtps() -> (u16, JoinHandle<String>) {
    let certificate = include_bytes!("../../../tests/fixtures/tls/good.pem");
    let key = include_bytes!("../../../tests/fixtures/tls/leaf.key.pem");
    let certificate = CertificateDer::from_pem_slice(certificate).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::from_pem_slice(key).unwrap())
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let session = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = std::io::BufReader::new(rustls::StreamOwned::new(session, stream));
        let mut letter = String::new();
        let mut in_letter = false;
        let mut reply = "220 ready\r\n";
        loop {
            if stream.get_mut().write_all(reply.as_bytes()).is_err() {
                return letter;
            }
            let mut line = String::new();
            if !stream.read_line(&mut line).is_ok_and(|n| n > 0) {
                return letter;
            }
            reply = match (in_letter, line.as_str()) {
                (true, ".\r\n") => {
                    in_letter = false;
                    "250 queued\r\n"
                }
                (true, _) => {
                    letter += &line;
                    ""
                }
                (false, "DATA\r\n") => {
                    in_letter = true;
                    "354 go on\r\n"
                }
                (false, _) => "250 ok\r\n",
            };
        }
    });
    (port, thread)
}
