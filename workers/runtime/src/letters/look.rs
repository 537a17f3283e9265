//! Looking at dead letters: which there are, and how each stands.

use std::{collections::HashMap, time::Duration};

use async_nats::jetstream::{
    self, Context,
    consumer::Info,
    message::StreamMessage,
    stream::{DirectGetErrorKind, Stream},
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use subjects::{DeadLetterSubject, TenantId, stream as names};
use time::OffsetDateTime;
use tokio::sync::OnceCell;
use tokio_postgres::Client;

use super::{Action, Behind, Letter, LetterError};
use crate::{
    Config, nats,
    store::{
        self,
        letters::{self as sql, Parked},
    },
    streams,
};

/// Letters that one list looks at, at most, where it looks for those of a tenant.
const LOOKED_AT: usize = 10_000;
/// Consumers of EVENTS that are looked at, at most.
const CONSUMERS: usize = 1_024;
/// Events of a queue that are told one by one.
const BEHIND: i32 = 20;
/// Actions about one event that are told.
const ACTIONS: i64 = 20;

/// Which letters are asked for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Those of a consumer, or of `worker`.
    pub consumer: Option<String>,
    /// Those of a type.
    pub letter_type: Option<String>,
    /// Those of a tenant.
    pub tenant: Option<TenantId>,
}

impl Wanted {
    /// Checks what is asked for, since it becomes a part of a subject.
    ///
    /// # Errors
    /// What is no name of a consumer or type.
    pub fn check(&self) -> Result<(), LetterError> {
        let wrong = |what: &str, text: &str| Err(LetterError::Refused(format!("{text:?} is no {what}")));
        match self {
            Self { consumer: Some(consumer), .. } if !subjects::is_consumer(consumer) => wrong("name of a consumer", consumer),
            Self { letter_type: Some(letter_type), .. } if !subjects::is_type(letter_type) => wrong("type (user.created)", letter_type),
            _ => Ok(()),
        }
    }

    fn subject(&self) -> String {
        subjects::dead_letters(self.consumer.as_deref(), self.letter_type.as_deref())
    }
}

/// How many letters of a consumer and a type there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Who gave up.
    pub consumer: String,
    /// On what.
    pub letter_type: String,
    /// How often.
    pub count: u64,
    /// When for the first time of those.
    pub oldest: OffsetDateTime,
}

/// Some letters, by their numbers.
#[derive(Debug, Clone)]
pub struct Page {
    /// The letters.
    pub letters: Vec<Letter>,
    /// The number after which there may be more; none where there are no more.
    pub next: Option<u64>,
}

/// How a letter stands, which is what can be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// A command has failed, or could not be read.
    Command,
    /// The consumer goes on without the event, and takes it again when it is redriven.
    Unordered,
    /// The event waits in its queue, with what came after it in its aggregate: how much that is, and the first of it.
    Waiting(Parked, u64, Vec<Behind>),
    /// The consumer asks for order, and the event does not wait any more: it was handled or discarded.
    Gone,
    /// The consumer asks for order, and what it could not read waits nowhere.
    Unreadable,
    /// Nobody would take it: there is no such consumer, or it takes nothing again.
    Nobody,
}

/// The dead letters, as a platform operator deals with them.
#[derive(Debug)]
pub struct Letters {
    pub(super) context: Context,
    pub(super) stream: Stream,
    pub(super) database: Client,
    pub(super) timeout: Duration,
    durables: OnceCell<HashMap<String, Vec<String>>>,
}

impl Letters {
    /// Connects to the database, and looks for the stream.
    ///
    /// # Errors
    /// One of them is out of reach, or not there.
    pub async fn open(config: &Config, client: &async_nats::Client, name: &str) -> Result<Self, LetterError> {
        let mut context = jetstream::new(client.clone());
        context.set_timeout(config.publish_timeout);
        let stream = streams::get(&context, names::DEADLETTERS).await.map_err(LetterError::Unavailable)?;
        let database = store::connect(config, name, sql::OPERATOR).await.map_err(|error| LetterError::Unavailable(format!("database: {error}")))?;
        // Behind a pool that drops what a session is told, every queue would look empty, and a letter would go while its event waits for ever.
        if !sql::is_operator(&database).await? {
            return Err(LetterError::Unavailable("the database does not take this session for an operator's".into()));
        }
        Ok(Self { context, stream, database, timeout: config.publish_timeout, durables: OnceCell::new() })
    }

    /// The number of the last letter when the stream was looked at.
    pub fn last(&self) -> u64 {
        self.stream.cached_info().state.last_sequence
    }

    /// How many letters there are of each consumer and type, the most first.
    ///
    /// # Errors
    /// See [`LetterError`].
    pub async fn counts(&self, wanted: &Wanted) -> Result<Vec<Count>, LetterError> {
        wanted.check()?;
        let subject = wanted.subject();
        let asked = async {
            self.stream
                .info_with_subjects(&subject)
                .await
                .map_err(|error| error.to_string())?
                .try_collect::<Vec<_>>()
                .await
                .map_err(|error| error.to_string())
        };
        let subjects: Vec<(String, usize)> = nats::ask_api("STREAM.INFO.DEADLETTERS", asked).await.map_err(LetterError::Unavailable)?;
        let mut counts = Vec::with_capacity(subjects.len());
        for (subject, count) in subjects {
            let Ok(parsed) = DeadLetterSubject::parse(&subject) else { continue };
            // Dealt with since it was counted.
            let Some(first) = self.next(&subject, 1).await? else { continue };
            let (consumer, letter_type) = (parsed.consumer.to_owned(), parsed.letter_type.to_owned());
            counts.push(Count { consumer, letter_type, count: count as u64, oldest: first.time });
        }
        counts.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| (&a.consumer, &a.letter_type).cmp(&(&b.consumer, &b.letter_type))));
        Ok(counts)
    }

    /// The letters with numbers above one, so many at most.
    ///
    /// # Errors
    /// See [`LetterError`].
    pub async fn list(&self, wanted: &Wanted, after: u64, limit: usize) -> Result<Page, LetterError> {
        wanted.check()?;
        let (subject, mut after, mut letters) = (wanted.subject(), after, Vec::new());
        for _ in 0..LOOKED_AT {
            let Some(message) = self.next(&subject, after + 1).await? else { return Ok(Page { letters, next: None }) };
            if letters.len() == limit {
                return Ok(Page { letters, next: Some(after) });
            }
            after = message.sequence;
            let letter = Letter::read(message);
            if wanted.tenant.is_none_or(|tenant| letter.tenant == Some(tenant)) {
                letters.push(letter);
            }
        }
        Ok(Page { letters, next: Some(after) })
    }

    /// A letter.
    ///
    /// # Errors
    /// See [`LetterError`].
    pub async fn get(&self, number: u64) -> Result<Letter, LetterError> {
        let asked = async {
            match self.stream.direct_get(number).await {
                Ok(message) => Ok(Some(message)),
                Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        };
        // 0 would be no number to the server.
        let found = if number == 0 { None } else { nats::ask_api("DIRECT.GET.DEADLETTERS", asked).await.map_err(LetterError::Unavailable)? };
        found.map(Letter::read).ok_or(LetterError::NotFound(number))
    }

    /// How a letter stands.
    ///
    /// # Errors
    /// See [`LetterError`].
    pub async fn standing(&self, letter: &Letter) -> Result<Standing, LetterError> {
        let consumer = &letter.consumer;
        if letter.is_command() {
            return Ok(Standing::Command);
        }
        if let Some(parked) = sql::parked(&self.database, consumer, letter.origin_sequence, letter.event).await? {
            let (total, first) = sql::behind(&self.database, consumer, &parked, BEHIND).await?;
            return Ok(Standing::Waiting(parked, total, first));
        }
        let takes = self.durables().await?.get(consumer).is_some_and(|filters| {
            let subject = subjects::redrives(consumer);
            filters.is_empty() || filters.iter().any(|filter| subjects::matches(filter, &subject))
        });
        Ok(match takes {
            true => Standing::Unordered,
            false if !sql::is_in_order(&self.database, consumer).await? => Standing::Nobody,
            false if letter.is_unreadable() => Standing::Unreadable,
            false => Standing::Gone,
        })
    }

    /// What was done about letters, the last first.
    ///
    /// # Errors
    /// See [`LetterError`].
    pub async fn history(&self, limit: i64) -> Result<Vec<Action>, LetterError> {
        Ok(sql::history(&self.database, None, limit).await?)
    }

    /// What was done about the event of a letter before, by whichever consumer it was given up.
    ///
    /// # Errors
    /// See [`LetterError`].
    pub async fn history_of(&self, letter: &Letter) -> Result<Vec<Action>, LetterError> {
        let Some(event) = letter.event else { return Ok(Vec::new()) };
        Ok(sql::history(&self.database, Some(event), ACTIONS).await?)
    }

    /// The durables of EVENTS and what each takes.
    async fn durables(&self) -> Result<&HashMap<String, Vec<String>>, LetterError> {
        let look = async || {
            let events = streams::get(&self.context, names::EVENTS).await?;
            let infos: Vec<Info> = nats::ask_api("CONSUMER.LIST.EVENTS", events.consumers().take(CONSUMERS).try_collect()).await?;
            Ok(infos.into_iter().filter_map(filters).collect())
        };
        self.durables.get_or_try_init(look).await.map_err(LetterError::Unavailable)
    }

    /// The first message of a subject at or after a place.
    async fn next(&self, subject: &str, from: u64) -> Result<Option<StreamMessage>, LetterError> {
        let asked = async {
            match self.stream.direct_get_next_for_subject(subject, Some(from.max(1))).await {
                Ok(message) => Ok(Some(message)),
                Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        };
        nats::ask_api("DIRECT.GET.DEADLETTERS", asked).await.map_err(LetterError::Unavailable)
    }
}

/// A durable's name and what it takes.
fn filters(info: Info) -> Option<(String, Vec<String>)> {
    let one = Some(info.config.filter_subject).filter(|filter| !filter.is_empty());
    Some((info.config.durable_name?, info.config.filter_subjects.into_iter().chain(one).collect()))
}
