mod server;

use proptest::prelude::*;

use self::server::{End, Script, Server};
use super::*;

fn letter() -> Letter {
    Letter {
        message_id: "ntc_01JD.1@grosz.example".into(),
        date: "2026-11-21T19:39:58Z".parse().unwrap(),
        from: Mailbox { name: Some("Kancelaria Żółw".into()), address: "hub@grosz.example".into() },
        to: Mailbox { name: None, address: "ekspert@kancelaria.example".into() },
        subject: "Faktura do sprawy 7/2026 – zażółć gęślą jaźń".into(),
        text: "Nie udało się wystawić faktury.\n.\nKropka w osobnym wierszu nie kończy listu.\n".into(),
        html: None,
        language: "pl".into(),
        attachments: vec![],
    }
}

fn mailer(server: &Server) -> Mailer {
    Mailer::from_url(&format!("smtp://127.0.0.1:{}", server.port), None).unwrap()
}

async fn send(script: Script) -> (Result<(), MailError>, Server) {
    let server = Server::start(script).await;
    let result = mailer(&server).with_limit(Duration::from_secs(20)).send(&letter()).await;
    (result, server)
}

/// What a reader sees: the headers unfolded, and the body with its encoding undone.
fn header(letter: &str, name: &str) -> String {
    let head = letter.split("\r\n\r\n").next().unwrap().replace("\r\n ", " ");
    let line = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned));
    line.unwrap_or_else(|| panic!("no {name} in {head}"))
}

/// RFC 2047 words in UTF-8 and base64, as other software reads them.
fn words(text: &str) -> String {
    use base64::Engine;
    let word = |w: &str| {
        let encoded = w.strip_prefix("=?utf-8?b?").and_then(|w| w.strip_suffix("?=")).expect(w);
        base64::engine::general_purpose::STANDARD.decode(encoded).unwrap()
    };
    String::from_utf8(text.split(' ').flat_map(word).collect()).unwrap()
}

#[tokio::test]
async fn an_accepted_letter_arrives_as_it_was_written() {
    let (result, server) = send(Script::default()).await;
    assert_eq!(result, Ok(()));
    let arrived = server.letters().remove(0);
    assert_eq!(header(&arrived, "Message-ID"), "<ntc_01JD.1@grosz.example>");
    assert_eq!(header(&arrived, "Date"), "Sat, 21 Nov 2026 19:39:58 +0000");
    assert_eq!(header(&arrived, "To"), "ekspert@kancelaria.example");
    assert_eq!(header(&arrived, "Content-Language"), "pl");
    assert_eq!(header(&arrived, "Auto-Submitted"), "auto-generated");
    assert!(header(&arrived, "From").ends_with(" <hub@grosz.example>"));
    let subject = header(&arrived, "Subject");
    let readable: String = subject.split(' ').filter(|w| !w.starts_with("=?")).collect::<Vec<_>>().join(" ");
    assert!(readable.starts_with("Faktura do sprawy 7/2026"), "{subject}");
    let encoded: Vec<&str> = subject.split(' ').filter(|w| w.starts_with("=?")).collect();
    assert!(words(&encoded.join(" ")).contains("zażółć gęślą jaźń"), "{subject}");
    let commands = server.commands();
    assert_eq!(commands[0], "EHLO grosz.example");
    assert!(commands[1].starts_with("MAIL FROM:<hub@grosz.example>"), "{commands:?}");
    assert_eq!(commands[2], "RCPT TO:<ekspert@kancelaria.example>");
}

// F39: the bytes of a second copy are those of the first.
#[tokio::test]
async fn the_same_letter_is_the_same_bytes() {
    let mut with_all = letter();
    with_all.html = Some("<p>Nie udało się</p>".into());
    let pdf = Attachment {
        file_name: "faktura żółta.pdf".into(),
        content_type: "application/pdf".into(),
        bytes: b"%PDF-1.7\n\x00\xff".to_vec(),
    };
    let csv = Attachment { file_name: "a.csv".into(), content_type: "text/csv".into(), bytes: b"a\nb\n".to_vec() };
    with_all.attachments = vec![pdf, csv];
    let server = Server::start(Script::default()).await;
    let mailer = mailer(&server);
    mailer.send(&with_all).await.unwrap();
    mailer.send(&with_all).await.unwrap();
    let letters = server.letters();
    assert_eq!(letters.len(), 2);
    assert_eq!(letters[0], letters[1]);
    let (pdf, csv) = ("JVBERi0xLjcKAP8=", "YQpiCg==");
    for part in ["multipart/mixed", "multipart/alternative", "text/plain", "text/html", "application/pdf", pdf, csv] {
        assert!(letters[0].contains(part), "{part}");
    }
}

// F40
#[tokio::test]
async fn a_refused_recipient_is_refused_for_good() {
    let script = Script { rcpt: "550 5.1.1 No such user here", ..Script::default() };
    let (result, server) = send(script).await;
    let Err(MailError::Refused(why)) = result else { panic!("{result:?}") };
    assert!(why.contains("550") && why.contains("No such user here"), "{why}");
    assert!(!server.commands().iter().any(|c| c == "DATA"));
}

#[tokio::test]
async fn a_letter_refused_after_reading_is_refused_for_good() {
    let (result, _) = send(Script { end: End::Reply("554 5.7.1 Rejected as spam"), ..Script::default() }).await;
    assert!(matches!(result, Err(MailError::Refused(_))), "{result:?}");
}

// F38
#[tokio::test]
async fn temporary_failures_are_to_be_tried_again() {
    for script in [
        Script { rcpt: "451 4.7.1 Greylisted", ..Script::default() },
        Script { end: End::Reply("452 4.3.1 Disk full"), ..Script::default() },
        Script { greeting: "421 Too many connections", ..Script::default() },
        Script { greeting: "554 No service here", ..Script::default() },
        Script { mail: "550 Sender not allowed", ..Script::default() },
        Script { rcpt: "530 5.7.0 Authentication required", ..Script::default() },
        Script { greeting: "what is this", ..Script::default() },
    ] {
        let shown = format!("{script:?}");
        let (result, server) = send(script).await;
        assert!(matches!(result, Err(MailError::Temporary(_))), "{shown}: {result:?}");
        assert!(server.letters().len() < 2);
    }
    let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let result = Mailer::from_url(&format!("smtp://127.0.0.1:{unused}"), None).unwrap().send(&letter()).await;
    assert!(matches!(result, Err(MailError::Temporary(_))), "{result:?}");
}

// F39
#[tokio::test]
async fn silence_after_the_letter_leaves_its_fate_open() {
    let (result, server) = send(Script { end: End::Cut, ..Script::default() }).await;
    assert!(matches!(result, Err(MailError::Unknown(_))), "{result:?}");
    assert_eq!(server.letters().len(), 1, "the server had it");

    let server = Server::start(Script { end: End::Hang, ..Script::default() }).await;
    let result = mailer(&server).with_limit(Duration::from_millis(200)).send(&letter()).await;
    assert!(matches!(result, Err(MailError::Unknown(_))), "{result:?}");
}

#[tokio::test]
async fn a_server_that_never_greets_is_left_at_the_limit() {
    let server = Server::start(Script { greeting: "", ..Script::default() }).await;
    let result = mailer(&server).with_limit(Duration::from_millis(200)).send(&letter()).await;
    assert_eq!(result, Err(MailError::Temporary("the server did not answer in time".into())));
}

// F38: each step is in time, and all of them together are not.
#[tokio::test]
async fn a_server_that_is_slow_at_each_step_is_left_at_the_limit() {
    let pause = Duration::from_millis(150);
    let server = Server::start(Script { pause, ..Script::default() }).await;
    let result = mailer(&server).with_limit(3 * pause).send(&letter()).await;
    assert_eq!(result, Err(MailError::Temporary("the server did not answer in time".into())));
    assert!(server.letters().is_empty());
}

// F36
#[tokio::test]
async fn without_the_encryption_that_was_asked_for_nothing_is_sent() {
    let server = Server::start(Script::default()).await;
    let url = format!("smtp://127.0.0.1:{}?tls=required", server.port);
    let result = Mailer::from_url(&url, None).unwrap().send(&letter()).await;
    assert!(matches!(result, Err(MailError::Temporary(_))), "{result:?}");
    assert!(!server.commands().iter().any(|c| c.starts_with("MAIL")), "{:?}", server.commands());
}

// F36
#[tokio::test]
async fn encryption_from_the_start_trusts_only_known_authorities() {
    let ca = include_bytes!("../../tests/fixtures/tls/ca.pem");
    let (port, arrived) = server::smtps();
    let trusting = Mailer::from_url(&format!("smtps://localhost:{port}"), Some(ca)).unwrap();
    trusting.send(&letter()).await.unwrap();
    assert!(arrived.join().unwrap().contains("Message-ID: <ntc_01JD.1@grosz.example>\r\n"));
    for (host, ca) in [("localhost", None), ("127.0.0.1", Some(&ca[..]))] {
        let (port, arrived) = server::smtps();
        let mailer = Mailer::from_url(&format!("smtps://{host}:{port}"), ca).unwrap();
        let result = mailer.send(&letter()).await;
        assert!(matches!(result, Err(MailError::Temporary(_))), "{result:?}");
        assert_eq!(arrived.join().unwrap(), "");
    }
}

#[tokio::test]
async fn user_and_password_are_decoded_and_sent() {
    let server = Server::start(Script::default()).await;
    let url = format!("smtp://us%40er:p%2Bw%C5%BC@127.0.0.1:{}", server.port);
    Mailer::from_url(&url, None).unwrap().send(&letter()).await.unwrap();
    let auth = server.commands().into_iter().find(|c| c.starts_with("AUTH ")).unwrap();
    // "\0us@er\0p+wż" in base64
    assert_eq!(auth, "AUTH PLAIN AHVzQGVyAHArd8W8");
}

#[tokio::test]
async fn a_letter_in_a_directory_is_one_whole_file() {
    let directory = std::env::temp_dir().join(format!("grosz-mail-{}", std::process::id()));
    let url = url::Url::from_directory_path(&directory).unwrap();
    let mailer = Mailer::from_url(url.as_str(), None).unwrap();
    mailer.send(&letter()).await.unwrap();
    mailer.send(&letter()).await.unwrap();
    let second = Letter { message_id: "../../x@grosz.example".into(), ..letter() };
    assert!(matches!(mailer.send(&second).await, Err(MailError::Refused(_))));
    let names: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(names, ["20261121T193958Z-ntc_01JD.1_grosz.example.eml"]);
    let text = std::fs::read_to_string(directory.join(&names[0])).unwrap();
    assert_eq!(header(&text, "Message-ID"), "<ntc_01JD.1@grosz.example>");
    std::fs::remove_dir_all(&directory).unwrap();
}

#[tokio::test]
async fn without_a_mail_server_no_letter_is_lost_in_silence() {
    assert_eq!(Mailer::from_url("none", None).unwrap().send(&letter()).await, Err(MailError::Off));
}

#[test]
fn mail_urls_are_read_strictly_and_never_shown() {
    let read = |url: &str| Mailer::from_url(url, None).map(|mailer| format!("{mailer:?}"));
    assert_eq!(read("smtps://u:s3cret@mail.example").as_deref(), Ok("Smtp(mail.example:465)"));
    assert_eq!(read("smtp://mail.example").as_deref(), Ok("Smtp(mail.example:25)"));
    assert_eq!(read("smtp://u:p@mail.example?tls=required").as_deref(), Ok("Smtp(mail.example:587)"));
    assert_eq!(read("smtp://[::1]:1025?tls=none").as_deref(), Ok("Smtp(::1:1025)"));
    assert_eq!(read("file:///var/mail/out").as_deref(), Ok("Directory(/var/mail/out)"));
    assert_eq!(read("http://mail.example"), Err(BadMailUrl::Scheme));
    assert_eq!(read("smtps://mail.example?tls=none"), Err(BadMailUrl::Tls));
    assert_eq!(read("smtp://mail.example?tls=off"), Err(BadMailUrl::Tls));
    assert_eq!(read("smtp://u%zz:p@mail.example"), Err(BadMailUrl::Unparseable));
    for bad in ["", "mail.example", "smtp://", "smtp:mail.example"] {
        assert_eq!(read(bad), Err(BadMailUrl::Unparseable), "{bad}");
    }
    let ca =
        Mailer::from_url("smtps://mail.example", Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"));
    assert_eq!(ca.err(), Some(BadMailUrl::ExtraCa));
}

#[test]
fn addresses_are_checked() {
    for good in ["a@b.example", "jan.kowalski+x@poczta.example", "x@żółw.example", "root@localhost"] {
        assert_eq!(check_address(good), Ok(()), "{good}");
    }
    let long = format!("a@{}.example", "b".repeat(250));
    for bad in [
        "",
        "a",
        "@b.example",
        "a@",
        "a b@c.example",
        "a@b.example\r\nBcc: x@y.example",
        "a\n@b.example",
        "\"a\"@b.example",
        "a@b.example, c@d.example",
        "a@@b.example",
        "<a@b.example>",
        "żółw@b.example",
        "a@b example",
        "a@1.2.3.4",
        &long,
    ] {
        assert_eq!(check_address(bad), Err(BadAddress), "{bad}");
    }
}

#[test]
fn a_payers_address_is_one_of_the_internet() {
    for good in ["jan@firma.pl", "jan.kowalski+x@poczta.firma.example", "x@żółw.example", "x@xn--w-uga1v8h.example"]
    {
        assert_eq!(check_public_address(good), Ok(()), "{good}");
    }
    for bad in [
        "jan@localhost",
        "jan@firma",
        "jan@firma.",
        "jan@.firma",
        "jan@a_b.example",
        "jan@-a.example",
        "jan@[::1]",
        "jan",
    ] {
        assert_eq!(check_public_address(bad), Err(BadAddress), "{bad}");
    }
}

proptest! {
    /// Whatever stands in a name, a subject or a file name, no further header begins with it.
    #[test]
    fn no_text_adds_a_header(
        subject in "[ -~żółć\r\n\t]{0,90}",
        name in "[ -~żółć\r\n\t]{0,90}",
        file_name in "[ -~żółć\r\n\t]{0,90}",
    ) {
        let mut letter = letter();
        letter.subject = format!("{subject}\r\nBcc: x@evil.example");
        letter.to.name = Some(format!("{name}\r\nBcc: x@evil.example"));
        let attachment =
            Attachment { file_name: format!("{file_name}\r\nX-Bad: 1"), content_type: "a/b".into(), bytes: vec![] };
        letter.attachments = vec![attachment];
        let message = letter.compose().unwrap();
        prop_assert_eq!(message.envelope().to().len(), 1);
        let text = String::from_utf8(message.formatted()).unwrap();
        for line in text.split("\r\n") {
            prop_assert!(!line.starts_with("Bcc") && !line.starts_with("X-Bad"), "{}", line);
            prop_assert!(!line.contains(['\r', '\n']), "{:?}", line);
        }
    }
}
