//! Sends letters to experts and payers.
//!
//! A letter travels at most once for each call, and the error says what the caller may do: a temporary failure is
//! repeated, a refused address is not, and when the server fell silent after it had the letter, only a repeat with the same
//! `Message-ID` is allowed, which mail systems recognise. For that the caller chooses the id and the date.
//!
//! Must not know: who is told what, and why.

mod letter;
mod smtp;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::letter::{Attachment, BadAddress, Letter, Mailbox, check_address, check_public_address};
use self::smtp::SmtpServer;

/// Where letters go.
#[derive(Clone)]
pub enum Mailer {
    /// To an SMTP server.
    Smtp(Box<SmtpServer>),
    /// Into a directory, one `.eml` file for each letter: for tests and the demonstration.
    Directory(PathBuf),
    /// Nowhere: every letter is answered with [`MailError::Off`].
    Off,
}

impl Mailer {
    /// Reads an address: `none`, `file:///directory`, `smtps://user:password@host` or `smtp://host:port?tls=…`, where
    /// `tls` is `required` (port 587), `opportunistic` (the default, port 25) or `none` (port 25). User and password
    /// are percent-encoded. Over an unencrypted connection they are sent only with `tls=none` or to this machine.
    ///
    /// # Errors
    /// See [`BadMailUrl`].
    pub fn from_url(text: &str, extra_ca_pem: Option<&[u8]>) -> Result<Self, BadMailUrl> {
        if text == "none" {
            return Ok(Mailer::Off);
        }
        let url = url::Url::parse(text).map_err(|_| BadMailUrl::Unparseable)?;
        match url.scheme() {
            "file" => url.to_file_path().map(Mailer::Directory).map_err(|()| BadMailUrl::Unparseable),
            "smtp" | "smtps" => Ok(Mailer::Smtp(Box::new(SmtpServer::from_url(&url, extra_ca_pem)?))),
            _ => Err(BadMailUrl::Scheme),
        }
    }

    /// The same with another limit for the whole talk with the server (60 s otherwise).
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        if let Mailer::Smtp(server) = &mut self {
            server.limit = limit;
        }
        self
    }

    /// Hands one letter over.
    ///
    /// # Errors
    /// See [`MailError`].
    pub async fn send(&self, letter: &Letter) -> Result<(), MailError> {
        match self {
            Mailer::Smtp(server) => server.send(&letter.compose()?).await,
            Mailer::Directory(directory) => {
                let (name, bytes) = (letter.file_name(), letter.compose()?.formatted());
                let directory = directory.clone();
                let written = tokio::task::spawn_blocking(move || write_whole(&directory, &name, &bytes)).await;
                match written {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(e)) => Err(MailError::Temporary(format!("the letter could not be written: {}", e.kind()))),
                    Err(_) => Err(MailError::Temporary("the letter could not be written".into())),
                }
            }
            Mailer::Off => Err(MailError::Off),
        }
    }
}

/// A reader of the directory sees whole letters only. A letter that is sent again replaces itself.
fn write_whole(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let unfinished = directory.join(format!(".{name}.part"));
    std::fs::write(&unfinished, bytes)?;
    std::fs::rename(&unfinished, directory.join(name))
}

impl fmt::Debug for Mailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mailer::Smtp(server) => write!(f, "Smtp({})", server.host_and_port()),
            Mailer::Directory(directory) => write!(f, "Directory({})", directory.display()),
            Mailer::Off => f.write_str("Off"),
        }
    }
}

/// Why a letter was not, or perhaps not, handed over. The texts may quote the server's reply but never the letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MailError {
    /// Certainly not handed over; the same letter may be tried again later (F38).
    #[error("the letter could not be handed over yet: {0}")]
    Temporary(String),
    /// Refused for good: another try would be refused too; somebody else has to be told (F40).
    #[error("the letter was refused: {0}")]
    Refused(String),
    /// The server had the letter and did not say what became of it. A repeat must carry the same `Message-ID` (F39).
    #[error("the mail server took the letter and did not answer: {0}")]
    Unknown(String),
    /// No mail server is configured.
    #[error("no mail server is configured")]
    Off,
}

/// The address of the mail server cannot be used. Never repeats it: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadMailUrl {
    /// Not a URL with a host, or a user or password that is not percent-encoded UTF-8.
    #[error("the mail address is not a URL such as smtps://user:password@mail.example")]
    Unparseable,
    /// Another scheme.
    #[error("the mail address must begin with smtp://, smtps:// or file://, or be the word none")]
    Scheme,
    /// An unknown value of `tls`, or one that contradicts `smtps`.
    #[error("tls must be required, opportunistic or none, and is required with smtps")]
    Tls,
    /// The extra certificates could not be read.
    #[error("the extra CA file holds no readable PEM certificate")]
    ExtraCa,
}

#[cfg(test)]
mod tests;
