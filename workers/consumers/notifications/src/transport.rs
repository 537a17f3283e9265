//! Where mail goes: a mail server, or a folder with one file a mail.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{
        Mailbox, MultiPart,
        header::{HeaderName, HeaderValue},
    },
    transport::smtp::PoolConfig,
};
use runtime::{
    StartError,
    config::{ConfigError, Secret},
};

use crate::templates::{Criticality, Rendered};

/// How long one step of a conversation with the server may take.
const SMTP_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections to the server at most.
pub(crate) const CONNECTIONS: u32 = 8;

/// How a sending ended when it did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The server said no for good (5xx), or it can be no mail.
    #[error("refused: {0}")]
    Refused(String),
    /// It surely was not sent, and may be later.
    #[error("not sent: {0}")]
    NotSent(String),
    /// Whether it was sent is not known.
    #[error("in doubt: {0}")]
    InDoubt(String),
}

enum Way {
    Smtp(Box<AsyncSmtpTransport<Tokio1Executor>>),
    Folder(PathBuf),
}

/// A way for mails to leave.
pub struct Transport {
    way: Way,
    from: Mailbox,
}

/// A mail with everything that makes it the same mail again.
pub(crate) struct Mail<'a> {
    pub(crate) id: uuid::Uuid,
    /// Which replay it is sent again for; 0 for its first time.
    pub(crate) replay: i64,
    pub(crate) created: time::OffsetDateTime,
    pub(crate) address: &'a str,
    pub(crate) name: Option<&'a str>,
    pub(crate) criticality: Criticality,
    pub(crate) rendered: Rendered,
}

impl Mail<'_> {
    /// The same for every try; another one for each replay, so that no mail server takes it for what it has delivered.
    fn key(&self) -> String {
        if self.replay == 0 { self.id.to_string() } else { format!("{}.{}", self.id, self.replay) }
    }
}

impl Transport {
    /// Reads `smtp://host:port`, `smtps://user:password@host:port` or `file:///directory`.
    ///
    /// # Errors
    /// Another address, a sender that is none, or a folder that cannot be made.
    pub fn open(url: &str, from: &str) -> Result<Self, StartError> {
        let invalid = |name, expected, value: &str| StartError::Config(ConfigError::Invalid { name, expected, value: value.to_owned() });
        let from: Mailbox = from.parse().map_err(|_| invalid("CHANCERY_MAIL_FROM", "a sender such as `Name <address>`", from))?;
        let way = if let Some(folder) = url.strip_prefix("file://") {
            let folder = PathBuf::from(folder);
            std::fs::create_dir_all(&folder).map_err(|error| StartError::Setup(format!("the mail folder cannot be made: {error}")))?;
            Way::Folder(folder)
        } else {
            // The address may carry a password: it is not shown.
            let wrong = || invalid("CHANCERY_MAIL", "smtp://…, smtps://… or file:///…", "<redacted>");
            let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(url).map_err(|_| wrong())?;
            Way::Smtp(Box::new(builder.timeout(Some(SMTP_TIMEOUT)).pool_config(PoolConfig::new().max_size(CONNECTIONS)).build()))
        };
        Ok(Self { way, from })
    }

    /// Whether mails can leave at all. Asked before a sending, so that a server that is away puts no sending in doubt.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn ready(&self) -> Result<(), SendError> {
        match &self.way {
            Way::Folder(_) => Ok(()),
            Way::Smtp(smtp) => match smtp.test_connection().await {
                Ok(true) => Ok(()),
                Ok(false) => Err(SendError::NotSent("the mail server does not answer".into())),
                Err(error) => Err(SendError::NotSent(describe(&error))),
            },
        }
    }

    /// Sends one mail.
    pub(crate) async fn send(&self, mail: &Mail<'_>) -> Result<(), SendError> {
        let message = message(&self.from, mail)?;
        match &self.way {
            Way::Folder(folder) => write(folder, mail, &message.formatted()).await.map_err(|error| SendError::NotSent(error.to_string())),
            Way::Smtp(smtp) => match smtp.send(message).await {
                Ok(_) => Ok(()),
                Err(error) if error.is_permanent() => Err(SendError::Refused(describe(&error))),
                Err(error) if error.is_transient() => Err(SendError::NotSent(describe(&error))),
                Err(error) if error.is_client() => Err(SendError::Refused(describe(&error))),
                Err(error) => Err(SendError::InDoubt(describe(&error))),
            },
        }
    }
}

/// The same mail has the same id and date, however often it is made.
fn message(from: &Mailbox, mail: &Mail<'_>) -> Result<Message, SendError> {
    let unusable = |what: &str| SendError::Refused(what.to_owned());
    let address: Address = mail.address.parse().map_err(|_| unusable("the address is none that mail can go to"))?;
    let one_line = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
    let mut message = Message::builder()
        .from(from.clone())
        .to(Mailbox::new(mail.name.map(one_line), address))
        .subject(one_line(&mail.rendered.subject))
        .message_id(Some(format!("<{}@{}>", mail.key(), from.email.domain())))
        .date(SystemTime::from(mail.created))
        .multipart(MultiPart::alternative_plain_html(mail.rendered.text.clone(), mail.rendered.html.clone()))
        .map_err(|_| unusable("the mail cannot be put together"))?;
    let importance = match mail.criticality {
        Criticality::Low => "low",
        Criticality::Medium => "normal",
        Criticality::High => "high",
    };
    for (name, value) in [("Auto-Submitted", "auto-generated"), ("Importance", importance)] {
        message.headers_mut().insert_raw(HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned()));
    }
    Ok(message)
}

/// Writes beside, makes it last, then renames: whoever looks sees whole mails only, and the same mail again replaces itself.
async fn write(folder: &Path, mail: &Mail<'_>, bytes: &[u8]) -> io::Result<()> {
    use tokio::io::AsyncWriteExt as _;
    let time = subjects::timestamp::format(mail.created).replace(':', "");
    let name = format!("{time}-{}.eml", mail.key());
    let temporary = folder.join(format!(".{name}.part"));
    let mut file = tokio::fs::File::create(&temporary).await?;
    file.write_all(bytes).await?;
    file.sync_all().await?;
    tokio::fs::rename(&temporary, folder.join(name)).await
}

/// The server's code and nothing it says: its words may repeat the address.
fn describe(error: &lettre::transport::smtp::Error) -> String {
    match error.status() {
        Some(code) => format!("the mail server answered {code}"),
        None if error.is_timeout() => "the mail server is silent".to_owned(),
        None if error.is_client() => "the mail is not one that the server can take".to_owned(),
        None => "no conversation with the mail server".to_owned(),
    }
}

/// Hides that an address is in the configuration.
impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").field("way", &Secret::new("")).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail() -> Mail<'static> {
        Mail {
            id: uuid::Uuid::from_u128(9),
            replay: 0,
            created: time::OffsetDateTime::UNIX_EPOCH,
            address: "ann@example.com",
            name: Some("Ann \"A\"\r\nBcc: eve@example.com"),
            criticality: Criticality::High,
            rendered: Rendered { subject: "Hi\r\nBcc: eve@example.com".into(), text: "text".into(), html: "<p>html</p>".into() },
        }
    }

    #[test]
    fn the_same_mail_is_the_same_again_and_no_name_adds_a_header() {
        let from = "Chancery <no-reply@id.example>".parse().unwrap();
        let text = |message: Message| String::from_utf8(message.formatted()).unwrap();
        let one = text(message(&from, &mail()).unwrap());
        assert!(one.contains("Message-ID: <00000000-0000-0000-0000-000000000009@id.example>\r\n"), "{one}");
        assert!(one.contains("Importance: high\r\n") && one.contains("Date: Thu, 01 Jan 1970 00:00:00 +0000\r\n"), "{one}");
        assert!(!one.lines().any(|line| line.to_ascii_lowercase().starts_with("bcc:")), "{one}");
    }

    #[test]
    fn a_mail_that_is_sent_again_has_an_id_of_its_own() {
        let from = "Chancery <no-reply@id.example>".parse().unwrap();
        let again = message(&from, &Mail { replay: 7, ..mail() }).unwrap();
        let text = String::from_utf8(again.formatted()).unwrap();
        assert!(text.contains("Message-ID: <00000000-0000-0000-0000-000000000009.7@id.example>\r\n"), "{text}");
    }

    #[test]
    fn an_address_that_is_none_is_refused_for_good() {
        let from = "Chancery <no-reply@id.example>".parse().unwrap();
        assert!(matches!(message(&from, &Mail { address: "nobody", ..mail() }), Err(SendError::Refused(_))));
    }

    #[test]
    fn an_unusable_setting_is_named_without_being_shown() {
        let error = Transport::open("gopher://user:hunter2@x", "a@b.example").unwrap_err().to_string();
        assert!(error.contains("CHANCERY_MAIL") && !error.contains("hunter2"), "{error}");
    }
}
