//! Subjects: printed, parsed, filtered; and the partition of a tenant.

use crate::{Kind, TenantId};

/// The token that stands for "no tenant" in subjects.
pub const PLATFORM: &str = "platform";

/// The partition of a tenant: FNV-1a (32 bits) over the whole id as text, modulo the number of partitions.
pub fn partition(tenant: &str, partitions: u16) -> u16 {
    let hash = tenant.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash % u32::from(partitions.max(1))) as u16
}

/// Where a command is published: `cmd.<partition>.<tenantId>.<aggregate>.<command>`.
pub fn command(partition: u16, tenant: TenantId, kind: Kind, command: &str) -> String {
    format!("cmd.{partition}.{tenant}.{kind}.{command}")
}

/// Inside COMMANDS and no command: what is sent here with a condition that cannot hold shows that the stream answers.
pub const PROBE: &str = "cmd.0.probe";

/// Every command of one partition.
pub fn command_filter(partition: u16) -> String {
    format!("cmd.{partition}.>")
}

/// Where an event is published: `evt.<tenantId>.<topic>.<event>`; `event_type` is `<topic>.<event>`.
pub fn event(tenant: TenantId, event_type: &str) -> String {
    format!("evt.{tenant}.{event_type}")
}

/// Every command of every tenant, token by token: what somebody may publish who may give any. (`cmd.>` would also allow what is none.)
pub const ANY_COMMAND: &str = "cmd.*.*.*.*";
/// Every [`command_filter`].
pub const ANY_PARTITION: &str = "cmd.*.>";
/// Every event of every tenant, token by token.
pub const ANY_EVENT: &str = "evt.*.*.*";
/// Every filter of one tenant's events.
pub const ANY_TENANT: &str = "evt.*.>";
/// Every fence.
pub const ANY_FENCE: &str = "fence.*";

/// One command of every tenant; `command` is `<aggregate>.<command>`.
pub fn any_tenants(command: &str) -> String {
    format!("cmd.*.*.{command}")
}

/// Every dead letter of a consumer, or of `worker`.
pub fn any_dead_letter(consumer: &str) -> String {
    format!("dlq.{consumer}.*.*")
}

/// Where the owner of a partition announces itself before it publishes. Inside EVENTS, so that it has a place in the same order.
pub fn fence(partition: u16) -> String {
    format!("fence.{partition}")
}

/// Where a consumer puts an event it gave up on.
pub fn dead_letter(consumer: &str, event_type: &str) -> String {
    format!("dlq.{consumer}.{event_type}")
}

/// Where a worker puts a command it gave up on. Tokens that are unknown become `unknown`.
pub fn dead_letter_worker(aggregate: Option<&str>, command: Option<&str>) -> String {
    let token = |token: Option<&str>| token.filter(|token| is_token(token)).unwrap_or("unknown").to_owned();
    format!("dlq.worker.{}.{}", token(aggregate), token(command))
}

/// Every dead letter.
pub const ANY_DEAD_LETTER: &str = "dlq.>";

/// The dead letters of one consumer, of one type (`<topic>.<event>`), or both.
pub fn dead_letters(consumer: Option<&str>, event_type: Option<&str>) -> String {
    match (consumer, event_type) {
        (None, None) => ANY_DEAD_LETTER.to_owned(),
        (consumer, event_type) => format!("dlq.{}.{}", consumer.unwrap_or("*"), event_type.unwrap_or(">")),
    }
}

/// Where an event goes that one consumer gave up on and is to have again: `redrive.<consumer>.<tenantId>.<topic>.<event>`. Inside EVENTS, so
/// that the consumer's durable brings it; no other consumer takes it.
pub fn redrive(consumer: &str, tenant: TenantId, event_type: &str) -> String {
    format!("redrive.{consumer}.{tenant}.{event_type}")
}

/// Everything that a consumer is to have again: the one filter that each durable without order has besides its own.
pub fn redrives(consumer: &str) -> String {
    format!("redrive.{consumer}.>")
}

/// Every [`redrive`], token by token.
pub const ANY_REDRIVE: &str = "redrive.*.*.*.*";

/// Whether a filter with the wildcards of NATS (`*` for a token, `>` for one or more at the end) covers a subject.
pub fn matches(filter: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for wanted in filter.split('.') {
        match (wanted, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (wanted, Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Why a text is no subject of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a subject of the form {0}")]
pub struct SubjectError(&'static str);

/// The parts of a command's subject. The aggregate stays a text: a newer version may know more kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandSubject<'a> {
    /// The partition it was sent to.
    pub partition: u16,
    /// The tenant.
    pub tenant: TenantId,
    /// The kind of aggregate.
    pub aggregate: &'a str,
    /// The command.
    pub command: &'a str,
}

impl<'a> CommandSubject<'a> {
    /// Reads a subject.
    ///
    /// # Errors
    /// [`SubjectError`] unless it has exactly the five tokens of a command.
    pub fn parse(subject: &'a str) -> Result<Self, SubjectError> {
        let error = SubjectError("cmd.<partition>.<tenantId>.<aggregate>.<command>");
        let tokens: Vec<&str> = subject.split('.').collect();
        match tokens[..] {
            ["cmd", partition, tenant, aggregate, command] if is_token(aggregate) && is_token(command) => {
                let parsed = partition.parse().ok().zip(tenant.parse().ok());
                parsed.map(|(partition, tenant)| Self { partition, tenant, aggregate, command }).ok_or(error)
            }
            _ => Err(error),
        }
    }
}

/// The parts of an event's subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSubject<'a> {
    /// The tenant's id as text, or [`PLATFORM`].
    pub tenant: &'a str,
    /// `<topic>.<event>`.
    pub event_type: &'a str,
}

impl<'a> EventSubject<'a> {
    /// Reads a subject.
    ///
    /// # Errors
    /// [`SubjectError`] unless it has exactly the four tokens of an event.
    pub fn parse(subject: &'a str) -> Result<Self, SubjectError> {
        subject.strip_prefix("evt.").and_then(Self::of).ok_or(SubjectError("evt.<tenantId>.<topic>.<event>"))
    }

    /// The same without its first token.
    fn of(rest: &'a str) -> Option<Self> {
        let (tenant, event_type) = rest.split_once('.')?;
        let known = tenant == PLATFORM || tenant.parse::<TenantId>().is_ok();
        (known && is_type(event_type)).then_some(Self { tenant, event_type })
    }
}

/// The parts of the subject of an event that one consumer has again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedriveSubject<'a> {
    /// The consumer.
    pub consumer: &'a str,
    /// What the subject of the event says.
    pub event: EventSubject<'a>,
}

impl<'a> RedriveSubject<'a> {
    /// Reads a subject.
    ///
    /// # Errors
    /// [`SubjectError`] unless it has exactly the five tokens.
    pub fn parse(subject: &'a str) -> Result<Self, SubjectError> {
        let error = SubjectError("redrive.<consumer>.<tenantId>.<topic>.<event>");
        let (consumer, rest) = subject.strip_prefix("redrive.").and_then(|rest| rest.split_once('.')).ok_or(error.clone())?;
        let event = EventSubject::of(rest).filter(|_| is_token(consumer)).ok_or(error)?;
        Ok(Self { consumer, event })
    }
}

/// The parts of the subject of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterSubject<'a> {
    /// Who gave up.
    pub consumer: &'a str,
    /// `<topic>.<event>`, or `<aggregate>.<command>` where it was the worker.
    pub letter_type: &'a str,
}

impl<'a> DeadLetterSubject<'a> {
    /// Reads a subject.
    ///
    /// # Errors
    /// [`SubjectError`] unless it has exactly the four tokens.
    pub fn parse(subject: &'a str) -> Result<Self, SubjectError> {
        let error = SubjectError("dlq.<consumer>.<topic>.<event>");
        let (consumer, letter_type) = subject.strip_prefix("dlq.").and_then(|rest| rest.split_once('.')).ok_or(error.clone())?;
        if is_token(consumer) && is_type(letter_type) { Ok(Self { consumer, letter_type }) } else { Err(error) }
    }
}

/// Whether a text is `<topic>.<event>`: two tokens.
pub fn is_type(text: &str) -> bool {
    text.split_once('.').is_some_and(|(topic, event)| is_token(topic) && is_token(event))
}

/// Whether a text can be the name of a consumer: one token.
pub fn is_consumer(text: &str) -> bool {
    is_token(text)
}

/// Which events a consumer asks for. Empty parts match everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventFilter<'a> {
    /// One tenant only.
    pub tenant: Option<TenantId>,
    /// One topic only.
    pub topic: Option<&'a str>,
    /// One event only (as its last token).
    pub event: Option<&'a str>,
}

impl EventFilter<'_> {
    /// The filter subject.
    pub fn subject(&self) -> String {
        let tenant = self.tenant.map_or_else(|| "*".to_owned(), |tenant| tenant.to_string());
        match (self.topic, self.event) {
            (None, None) if self.tenant.is_none() => "evt.>".to_owned(),
            (None, None) => format!("evt.{tenant}.>"),
            (Some(topic), None) => format!("evt.{tenant}.{topic}.>"),
            (topic, Some(event)) => format!("evt.{tenant}.{}.{event}", topic.unwrap_or("*")),
        }
    }
}

/// The parts of a filter of events as somebody has written it; none where it takes any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterParts<'a> {
    /// The tenant's id as text, or [`PLATFORM`].
    pub tenant: Option<&'a str>,
    /// One topic only.
    pub topic: Option<&'a str>,
    /// One event only (as its last token).
    pub event: Option<&'a str>,
}

impl<'a> FilterParts<'a> {
    /// Reads a filter.
    ///
    /// # Errors
    /// [`SubjectError`] for what is no filter of events. Whether there are such events is another question.
    pub fn parse(filter: &'a str) -> Result<Self, SubjectError> {
        let error = SubjectError("evt.<tenant>.<topic>.<event>, with `*` for any token and `>` for the rest");
        let rest = filter.strip_prefix("evt.").ok_or(error.clone())?;
        let mut parts = [None; 3];
        let mut tokens = rest.split('.');
        for part in &mut parts {
            match tokens.next() {
                Some(">") => return if tokens.next().is_none() { Self::of(parts).ok_or(error) } else { Err(error) },
                Some("*") => {}
                Some(token) if is_token(token) => *part = Some(token),
                _ => return Err(error),
            }
        }
        // A `>` takes one token at least, and there is no fourth.
        if tokens.next().is_none() { Self::of(parts).ok_or(error) } else { Err(error) }
    }

    fn of([tenant, topic, event]: [Option<&'a str>; 3]) -> Option<Self> {
        let known = tenant.is_none_or(|tenant| tenant == PLATFORM || tenant.parse::<TenantId>().is_ok());
        known.then_some(Self { tenant, topic, event })
    }

    /// Whether it takes events of this type, of whichever tenant it is for.
    pub fn takes(&self, event_type: &str) -> bool {
        let (topic, event) = event_type.split_once('.').unwrap_or((event_type, ""));
        self.topic.is_none_or(|one| one == topic) && self.event.is_none_or(|one| one == event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_match_the_vectors_of_the_contract() {
        assert_eq!(partition("tenant_01890a5d-ac96-774b-bcce-b302099a8057", 64), 60);
        assert_eq!(partition("platform", 64), 50);
    }

    #[test]
    fn a_command_subject_reads_back_what_it_prints() {
        let tenant = TenantId::new(uuid::Uuid::from_u128(5));
        let subject = command(7, tenant, Kind::Invitation, "send");
        assert_eq!(CommandSubject::parse(&subject), Ok(CommandSubject { partition: 7, tenant, aggregate: "invitation", command: "send" }));
    }

    #[test]
    fn a_subject_with_a_wildcard_a_missing_or_a_further_token_is_refused() {
        for subject in ["cmd.7.tenant_x.user.create", "cmd.7.user.create", "cmd.>", "cmd.70000.a.b.c", "evt.platform.a.b", ""] {
            assert!(CommandSubject::parse(subject).is_err(), "{subject}");
        }
        for subject in ["evt.platform.user", "evt.platform.user.created.more", "evt.*.user.created", "evt.nobody.user.created", "fence.3"] {
            assert!(EventSubject::parse(subject).is_err(), "{subject}");
        }
    }

    #[test]
    fn a_written_filter_is_read_as_the_server_would_match_it() {
        let parts = |tenant, topic, event| Ok(FilterParts { tenant, topic, event });
        assert_eq!(FilterParts::parse("evt.>"), parts(None, None, None));
        assert_eq!(FilterParts::parse("evt.*.*.>"), parts(None, None, None));
        assert_eq!(FilterParts::parse("evt.platform.user.>"), parts(Some("platform"), Some("user"), None));
        assert_eq!(FilterParts::parse("evt.*.*.created"), parts(None, None, Some("created")));
        for wrong in
            ["", "evt", "evt.", "cmd.>", "evt.*", "evt.*.user", "evt.*.user.created.more", "evt.*.user.created.>", "evt.>.user", "evt.nobody.>"]
        {
            assert!(FilterParts::parse(wrong).is_err(), "{wrong}");
        }
        for (filter, event_type) in
            [("evt.>", "user.created"), ("evt.*.user.>", "user.created"), ("evt.*.*.created", "user.created"), ("evt.*.team.>", "user.created")]
        {
            let subject = event(TenantId::new(uuid::Uuid::from_u128(5)), event_type);
            assert_eq!(FilterParts::parse(filter).map(|parts| parts.takes(event_type)), Ok(matches(filter, &subject)), "{filter}");
        }
    }

    #[test]
    fn a_filter_covers_what_the_server_would_deliver() {
        for filter in ["evt.>", "evt.*.user.>", "evt.*.user.created", "evt.t.*.created", "evt.t.user.created", "evt.*.user.*", ">"] {
            assert!(matches(filter, "evt.t.user.created"), "{filter}");
        }
        for filter in ["evt.*.user", "evt.*.user.created.>", "evt.*.tenant.>", "fence.>", "evt.t.user.create", "evt.*", "*", ""] {
            assert!(!matches(filter, "evt.t.user.created"), "{filter}");
        }
        assert!(!matches("evt.>", "evt"), "`>` is one token at least");
    }

    #[test]
    fn filters_print_as_the_contract_shows() {
        let tenant = TenantId::new(uuid::Uuid::from_u128(5));
        assert_eq!(EventFilter { topic: Some("invitation"), event: Some("accepted"), tenant: None }.subject(), "evt.*.invitation.accepted");
        assert_eq!(EventFilter { topic: Some("user"), ..EventFilter::default() }.subject(), "evt.*.user.>");
        assert_eq!(EventFilter { tenant: Some(tenant), ..EventFilter::default() }.subject(), format!("evt.{tenant}.>"));
        assert_eq!(EventFilter::default().subject(), "evt.>");
    }

    #[test]
    fn a_dead_letter_of_an_unreadable_command_still_has_a_subject() {
        assert_eq!(dead_letter_worker(Some("user"), Some("create")), "dlq.worker.user.create");
        assert_eq!(dead_letter_worker(Some("a.b"), None), "dlq.worker.unknown.unknown");
    }

    #[test]
    fn what_one_consumer_has_again_reads_back_and_is_no_event() {
        let tenant = TenantId::new(uuid::Uuid::from_u128(5));
        let subject = redrive("authz-cache", tenant, "user.created");
        let event = EventSubject { tenant: &tenant.to_string(), event_type: "user.created" };
        assert_eq!(RedriveSubject::parse(&subject), Ok(RedriveSubject { consumer: "authz-cache", event }));
        assert!(EventSubject::parse(&subject).is_err());
        assert!(matches(&redrives("authz-cache"), &subject) && matches(ANY_REDRIVE, &subject));
        assert!(!matches(&redrives("audit"), &subject) && !matches("evt.>", &subject));
        for subject in ["redrive.audit.user.created", "redrive.audit.nobody.user.created", "redrive..platform.user.created", "redrive.>"] {
            assert!(RedriveSubject::parse(subject).is_err(), "{subject}");
        }
    }

    #[test]
    fn a_dead_letters_subject_reads_back_and_is_found_by_each_part() {
        let subject = dead_letter("audit", "user.created");
        assert_eq!(DeadLetterSubject::parse(&subject), Ok(DeadLetterSubject { consumer: "audit", letter_type: "user.created" }));
        assert!(DeadLetterSubject::parse("dlq.audit.user").is_err() && DeadLetterSubject::parse("evt.audit.user.created").is_err());
        for (consumer, event_type) in [(None, None), (Some("audit"), None), (None, Some("user.created")), (Some("audit"), Some("user.created"))] {
            assert!(matches(&dead_letters(consumer, event_type), &subject), "{consumer:?} {event_type:?}");
        }
        assert!(!matches(&dead_letters(Some("guests"), None), &subject) && !matches(&dead_letters(None, Some("user.deleted")), &subject));
    }

    #[test]
    fn tenants_spread_over_all_partitions() {
        let mut counts = [0_u32; 64];
        for n in 0..6400_u128 {
            counts[usize::from(partition(&TenantId::new(uuid::Uuid::from_u128(n * 77_777)).to_string(), 64))] += 1;
        }
        assert!(counts.iter().all(|count| (40..=180).contains(count)), "{counts:?}");
    }
}
