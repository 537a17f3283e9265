//! The one table of who may do what: at NATS by subject, in PostgreSQL by table. What is not in it is refused.
//!
//! The tests hold the real servers against it, and `docs/privileges.md` is made from it.

use chancery::{manifest::Manifest, privilege::nats::User};

/// What is done to a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verb {
    /// A request is one, too.
    Publish,
    Subscribe,
}

/// One line at NATS.
///
/// In `subject`, `{d}` stands for every durable of EVENTS, `{u}` for every user. In `who`, `own` is the user that `{d}` or `{u}` stands for,
/// `consumers` is every consumer, another team's included, and `worker@gateway` is the worker where `{u}` is the gateway.
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) verb: Verb,
    pub(crate) subject: &'static str,
    pub(crate) who: &'static [&'static str],
}

const fn publish(what: &'static str, subject: &'static str, who: &'static [&'static str]) -> Row {
    Row { what, verb: Verb::Publish, subject, who }
}

const fn subscribe(what: &'static str, subject: &'static str, who: &'static [&'static str]) -> Row {
    Row { what, verb: Verb::Subscribe, subject, who }
}

const T: &str = "tenant_01890a5d-ac96-774b-bcce-b302099a8057";
const NOBODY: &[&str] = &[];
const G: &str = "gateway";
const W: &str = "worker";
const P: &str = "provisioner";

/// What is stored by publishing it, what is sent to somebody, and what is listened to.
pub(crate) const SUBJECTS: &[Row] = &[
    publish("a command of people", "cmd.7.{t}.user.create", &[G]),
    publish("`invitation.send`", "cmd.7.{t}.invitation.send", &[G, "onboarding"]),
    publish("`invitation.remove`", "cmd.7.{t}.invitation.remove", &[G, "withdrawals"]),
    publish("`membership.suspend`", "cmd.7.{t}.membership.suspend", &[G, "guests"]),
    publish("`membership.reactivate`", "cmd.7.{t}.membership.reactivate", &[G, "guests"]),
    publish("`membership.remove`", "cmd.7.{t}.membership.remove", &[G, "guests"]),
    publish("`invitation.expire`, which time gives", "cmd.7.{t}.invitation.expire", &[G, W]),
    publish("the question whether COMMANDS answers", "cmd.0.probe", &[G]),
    publish("no command, but stored in COMMANDS", "cmd.7.{t}.user.create.more", NOBODY),
    publish("no command, but stored in COMMANDS", "cmd.7", NOBODY),
    publish("an event", "evt.{t}.user.created", &[W]),
    publish("no event, but stored in EVENTS", "evt.{t}.user.created.more", NOBODY),
    publish("no event, but stored in EVENTS", "evt.x", NOBODY),
    publish("a fence", "fence.7", &[W]),
    publish("an event that one consumer is to have again", "redrive.{d}.{t}.user.created", &[G]),
    publish("no event, but stored in EVENTS", "redrive.audit.{t}.user.created.more", NOBODY),
    publish("no event, but stored in EVENTS", "redrive.x", NOBODY),
    publish("a dead letter of the worker", "dlq.worker.user.create", &[W]),
    publish("a dead letter of each consumer", "dlq.{d}.user.created", &["own"]),
    publish("no dead letter, but stored in DEADLETTERS", "dlq.x", NOBODY),
    publish("the bucket: what a member may", "$KV.authz.{t}.user_x", &[G, "authz-cache"]),
    publish("the bucket: a tenant's drop", "$KV.authz.{t}", &["authz-cache"]),
    publish("the bucket: the beat", "$KV.authz.beat", &["authz-cache"]),
    publish("another bucket", "$KV.other.key", NOBODY),
    publish("the pace of the bucket's watch", "$JS.FC.KV_authz.r.1", &[G]),
    publish("the pace of another watch", "$JS.FC.EVENTS.r.1", NOBODY),
    publish("outcomes for who waits", "_INBOX_{u}.x", &["worker@gateway", "worker@onboarding", "worker@guests", "worker@withdrawals"]),
    publish("an answer in somebody's place", "_INBOX_{u}.x.1", NOBODY),
    publish("an answer in somebody's place", "_INBOX.x.1", NOBODY),
    subscribe("a user's inboxes", "_INBOX_{u}.>", &["own"]),
    subscribe("one of a user's inboxes", "_INBOX_{u}.x.1", &["own"]),
    subscribe("the inboxes of who has no prefix", "_INBOX.>", NOBODY),
    subscribe("everything", ">", NOBODY),
    subscribe("commands", "cmd.>", NOBODY),
    subscribe("events", "evt.>", NOBODY),
    subscribe("fences", "fence.*", NOBODY),
    subscribe("what one consumer has again", "redrive.>", NOBODY),
    subscribe("dead letters", "dlq.>", NOBODY),
    subscribe("the bucket", "$KV.authz.>", NOBODY),
    subscribe("requests to JetStream", "$JS.API.>", NOBODY),
    subscribe("acknowledgements", "$JS.ACK.>", NOBODY),
    subscribe("JetStream's own events", "$JS.EVENT.>", NOBODY),
    publish("an alarm that JetStream did not raise", "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.EVENTS.audit", NOBODY),
    subscribe("the servers' own events", "$SYS.>", NOBODY),
    publish("a question to the servers", "$SYS.REQ.SERVER.PING", NOBODY),
    publish("a question to the servers", "$SYS.REQ.SERVER.PING.JSZ", NOBODY),
    publish("a question about an account", "$SYS.REQ.ACCOUNT.PING.CONNZ", NOBODY),
    publish("anything else", "elsewhere", NOBODY),
    // JetStream as a whole, and streams that are none of ours.
    publish("JetStream's figures", "$JS.API.INFO", NOBODY),
    publish("all streams", "$JS.API.STREAM.LIST", NOBODY),
    publish("all streams", "$JS.API.STREAM.NAMES", NOBODY),
    publish("another leader of the servers", "$JS.API.META.LEADER.STEPDOWN", NOBODY),
    publish("a server less", "$JS.API.SERVER.REMOVE", NOBODY),
    publish("another stream", "$JS.API.STREAM.CREATE.OTHER", NOBODY),
    publish("another stream", "$JS.API.STREAM.INFO.OTHER", NOBODY),
    publish("another stream", "$JS.API.CONSUMER.CREATE.OTHER.r.>", NOBODY),
    publish("a stream under another name", "$JS.API.STREAM.CREATE.COMMANDS2", NOBODY),
    // The durables of EVENTS.
    publish("look at a durable", "$JS.API.CONSUMER.INFO.EVENTS.{d}", &["own", P]),
    publish("make a durable", "$JS.API.CONSUMER.CREATE.EVENTS.{d}", &[P]),
    publish("make a durable", "$JS.API.CONSUMER.CREATE.EVENTS.{d}.evt.>", &[P]),
    publish("make a durable", "$JS.API.CONSUMER.CREATE.EVENTS.{d}.evt.{t}.>", &[P]),
    publish("make a durable, as older clients do", "$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.{d}", NOBODY),
    publish("read through a durable", "$JS.API.CONSUMER.MSG.NEXT.EVENTS.{d}", &["own"]),
    publish("acknowledge", "$JS.ACK.EVENTS.{d}.1.1.1.1.0", &["own"]),
    publish("delete a durable", "$JS.API.CONSUMER.DELETE.EVENTS.{d}", NOBODY),
    publish("pause a durable", "$JS.API.CONSUMER.PAUSE.EVENTS.{d}", NOBODY),
    publish("set a durable back", "$JS.API.CONSUMER.RESET.EVENTS.{d}", NOBODY),
    publish("free a durable from its client", "$JS.API.CONSUMER.UNPIN.EVENTS.{d}", NOBODY),
    publish("another leader of a durable", "$JS.API.CONSUMER.LEADER.STEPDOWN.EVENTS.{d}", NOBODY),
];

/// The streams, in the order of the columns of [`STREAM_REQUESTS`].
pub(crate) const STREAMS: [&str; 5] = ["COMMANDS", "EVENTS", "DEADLETTERS", "KV_authz", "ADVISORIES"];

/// What is asked of a stream: `{s}` is the stream, `{narrow}` a filter for one partition, tenant, consumer or bucket, `{wide}` one for all
/// messages.
pub(crate) const STREAM_REQUESTS: &[(&str, &str, [&[&str]; 5])] = &[
    ("look at it", "STREAM.INFO.{s}", [&[P, W], &[P, G, W, "consumers"], &[P, G], &[P, G, "authz-cache"], &[P, W]]),
    ("make it", "STREAM.CREATE.{s}", [&[P], &[P], &[P], &[P], &[P]]),
    ("change it", "STREAM.UPDATE.{s}", [&[P], &[P], &[P], &[P], &[P]]),
    ("delete it", "STREAM.DELETE.{s}", [NOBODY; 5]),
    ("empty it", "STREAM.PURGE.{s}", [&[W], NOBODY, NOBODY, &["authz-cache"], NOBODY]),
    ("copy it", "STREAM.SNAPSHOT.{s}", [NOBODY; 5]),
    ("restore it", "STREAM.RESTORE.{s}", [NOBODY; 5]),
    ("another leader", "STREAM.LEADER.STEPDOWN.{s}", [NOBODY; 5]),
    ("a replica less", "STREAM.PEER.REMOVE.{s}", [NOBODY; 5]),
    ("read a message, from the leader", "STREAM.MSG.GET.{s}", [NOBODY; 5]),
    ("delete a message", "STREAM.MSG.DELETE.{s}", [NOBODY, NOBODY, &[G], NOBODY, NOBODY]),
    ("read a message", "DIRECT.GET.{s}", [&[W], &[G], &[G], NOBODY, &[W]]),
    ("read the last message of a subject", "DIRECT.GET.{s}.{narrow}", [NOBODY; 5]),
    ("list its consumers", "CONSUMER.LIST.{s}", [NOBODY, &[P, G], NOBODY, NOBODY, NOBODY]),
    ("list its consumers' names", "CONSUMER.NAMES.{s}", [NOBODY; 5]),
    ("make a reader without a name", "CONSUMER.CREATE.{s}", [NOBODY, NOBODY, NOBODY, &[G], NOBODY]),
    ("make a reader of everything", "CONSUMER.CREATE.{s}.r", [NOBODY, &[W], NOBODY, NOBODY, NOBODY]),
    ("make a reader of everything", "CONSUMER.CREATE.{s}.r.{wide}", [NOBODY, NOBODY, NOBODY, &[G], NOBODY]),
    ("make a reader of a part", "CONSUMER.CREATE.{s}.r.{narrow}", [&[W], &[G], NOBODY, &[G], NOBODY]),
    ("make a durable reader", "CONSUMER.DURABLE.CREATE.{s}.r", [NOBODY; 5]),
    ("look at a reader", "CONSUMER.INFO.{s}.r", [&[W], &[G, W], NOBODY, NOBODY, NOBODY]),
    ("read through a reader", "CONSUMER.MSG.NEXT.{s}.r", [&[W], &[G, W], NOBODY, NOBODY, NOBODY]),
    ("delete a reader", "CONSUMER.DELETE.{s}.r", [&[W], &[G, W], NOBODY, &[G], NOBODY]),
    ("pause a reader", "CONSUMER.PAUSE.{s}.r", [NOBODY; 5]),
    ("set a reader back", "CONSUMER.RESET.{s}.r", [NOBODY; 5]),
    ("another leader of a reader", "CONSUMER.LEADER.STEPDOWN.{s}.r", [NOBODY; 5]),
];
const NARROW: [&str; 5] = ["cmd.7.>", "evt.{t}.>", "dlq.audit.>", "$KV.authz.{t}.>", "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.EVENTS.audit"];
const WIDE: [&str; 5] = ["cmd.>", "evt.>", "dlq.>", "$KV.authz.>", ">"];

/// A subject that is tried, and who may do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) what: String,
    pub(crate) verb: Verb,
    pub(crate) subject: String,
    pub(crate) who: Vec<&'static str>,
}

/// The users whose rights are exact; [`User::Operator`] and [`User::System`] have all of theirs.
pub(crate) fn users() -> Vec<User> {
    User::all(Manifest::with_examples()).into_iter().filter(|user| !matches!(user, User::System | User::Operator)).collect()
}

fn durables() -> Vec<&'static str> {
    Manifest::with_examples().names().collect()
}

/// Every case, in the order of the table.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for row in SUBJECTS {
        let targets: Vec<&'static str> = if row.subject.contains("{d}") {
            durables()
        } else if row.subject.contains("{u}") {
            User::all(Manifest::with_examples()).into_iter().map(User::name).collect()
        } else {
            vec![""]
        };
        for target in targets {
            let subject = row.subject.replace("{d}", target).replace("{u}", target).replace("{t}", T);
            let what = if target.is_empty() { row.what.to_owned() } else { format!("{} ({target})", row.what) };
            cases.push(Case { what, verb: row.verb, subject, who: who(row.who, target) });
        }
    }
    for (what, request, of_streams) in STREAM_REQUESTS {
        for (place, stream) in STREAMS.iter().enumerate() {
            let subject = request.replace("{s}", stream).replace("{narrow}", NARROW[place]).replace("{wide}", WIDE[place]).replace("{t}", T);
            let what = format!("{stream}: {what}");
            cases.push(Case { what, verb: Verb::Publish, subject: format!("$JS.API.{subject}"), who: who(of_streams[place], "") });
        }
    }
    cases
}

fn who(names: &[&'static str], target: &'static str) -> Vec<&'static str> {
    let mut who = Vec::new();
    for name in names {
        match name.split_once('@') {
            Some((user, of)) => who.extend((of == target).then_some(user)),
            None if *name == "own" => who.push(target),
            None if *name == "consumers" => who.extend(durables()),
            None => who.push(name),
        }
    }
    who
}

/// The kinds of statements, in the order of [`rights`].
pub(crate) const STATEMENTS: [&str; 5] = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"];

/// What a role may do to a table: `SIUD` by their first letters, `s` for some columns only. `consumers` is every consumer's role; its own line
/// goes before that.
pub(crate) const TABLES: &[(&str, &[(&str, &str)])] = &[
    ("notifications.fanouts", &[("notifications", "SIU")]),
    ("notifications.ledger", &[("notifications", "SIU"), ("gateway", "s")]),
    ("notifications.members", &[("notifications", "SIU")]),
    ("notifications.people", &[("notifications", "SIU")]),
    ("notifications.switches", &[("notifications", "SIU")]),
    ("notifications.tenants", &[("notifications", "SIU")]),
    ("public.aggregates", &[("worker", "SIU"), ("gateway", "S"), ("guests", "s"), ("withdrawals", "s")]),
    ("public.all_tenant_views", &[("gateway", "S")]),
    ("public.audit_log", &[("audit", "SI"), ("gateway", "s")]),
    ("public.audit_views", &[("gateway", "S")]),
    ("public.claims", &[("worker", "SIUD"), ("guests", "s")]),
    ("public.commands", &[("worker", "SID"), ("gateway", "S"), ("onboarding", "s"), ("guests", "s"), ("withdrawals", "s")]),
    ("public.consumer_actions", &[]),
    ("public.consumer_begins", &[("logging", "SI"), ("audit", "SI"), ("notifications", "SI"), ("onboarding", "SI")]),
    ("public.consumer_feeds", &[("consumers", "SIUD")]),
    ("public.consumer_late", &[("consumers", "SIUD")]),
    ("public.consumer_leases", &[("consumers", "SIU")]),
    ("public.consumer_marks", &[("consumers", "SIUD")]),
    ("public.consumer_notes", &[("consumers", "I"), ("worker", "SD"), ("gateway", "S")]),
    ("public.consumer_parked", &[("consumers", "SIUD"), ("gateway", "s")]),
    ("public.consumer_pauses", &[("consumers", "S"), ("gateway", "S")]),
    ("public.consumer_positions", &[("consumers", "SIU"), ("gateway", "S")]),
    ("public.consumer_suspects", &[("consumers", "SIUD")]),
    ("public.deadletter_actions", &[("gateway", "SI")]),
    ("public.deadletters", &[("worker", "SIUD")]),
    ("public.events", &[("worker", "SI"), ("gateway", "S"), ("consumers", "S")]),
    ("public.history_checks", &[("worker", "SID")]),
    ("public.invitation_terms", &[("worker", "SID"), ("gateway", "S")]),
    ("public.invitation_views", &[("gateway", "S")]),
    ("public.member_views", &[("gateway", "S")]),
    ("public.notification_views", &[("gateway", "S")]),
    ("public.partitions", &[("worker", "SIU"), ("authz_cache", "s")]),
    ("public.refinery_audit", &[]),
    ("public.refinery_authz_cache", &[]),
    ("public.refinery_core", &[]),
    ("public.refinery_gateway", &[]),
    ("public.refinery_guests", &[]),
    ("public.refinery_notifications", &[]),
    ("public.refinery_onboarding", &[]),
    ("public.refinery_withdrawals", &[]),
    ("public.schema_versions", &[("worker", "S"), ("gateway", "S"), ("consumers", "S")]),
    ("public.sso_views", &[("gateway", "S")]),
    ("public.standings", &[("gateway", "S")]),
    ("public.team_names", &[("worker", "SID"), ("gateway", "S")]),
    ("public.team_views", &[("gateway", "S")]),
    ("public.tenant_views", &[("gateway", "S")]),
    ("public.tenants", &[("worker", "SIU")]),
    ("public.user_views", &[("gateway", "S")]),
    ("public.workers", &[("worker", "SIUD")]),
];

/// `*`, `some` or `-` for each kind of statement.
pub(crate) fn rights(table: &str, role: &str) -> [&'static str; 5] {
    let name = role.trim_start_matches("chancery_");
    let grants = TABLES.iter().find(|(known, _)| *known == table).map_or(&[][..], |(_, grants)| grants);
    let own = grants.iter().find(|(who, _)| *who == name);
    let all = grants.iter().find(|(who, _)| *who == "consumers" && !["gateway", "worker"].contains(&name));
    let letters = own.or(all).map_or("", |(_, letters)| letters);
    ["S", "I", "U", "D", "T"].map(|kind| match letters {
        letters if letters.contains(kind) => "*",
        letters if kind == "S" && letters.contains('s') => "some",
        _ => "-",
    })
}
