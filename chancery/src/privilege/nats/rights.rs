//! What each user may publish and subscribe to.
//!
//! Requests to JetStream are publishes, too: `$JS.API.…` names the stream, and the consumer where there is one. An ephemeral reader's
//! filter is part of the subject that creates it, so a permission limits what may be read. A consumer's name there can only be exact or
//! anything: where a user makes readers of its own, the durables are taken out again by name.

use std::fmt;

use aggregates::registry::{self, Least};
use runtime::consume::Order;
use subjects::{authz, stream, user as names};

use super::User;
use crate::{
    manifest::{Entry, Manifest},
    role::Consumer,
};

/// Subjects a user may use. What is in none of the lists is refused, and what is denied is refused though it is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// May be published to.
    pub publish: Vec<String>,
    /// Exceptions to that.
    pub publish_deny: Vec<String>,
    /// May be subscribed to.
    pub subscribe: Vec<String>,
}

impl fmt::Display for Permissions {
    /// As nats-server's configuration has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{ publish: {{ allow: {:?}", self.publish)?;
        if !self.publish_deny.is_empty() {
            write!(f, ", deny: {:?}", self.publish_deny)?;
        }
        write!(f, " }}, subscribe: {{ allow: {:?} }} }}", self.subscribe)
    }
}

/// What a user may do.
pub fn permissions(manifest: &Manifest, user: User) -> Permissions {
    let publish = match user {
        User::System | User::Operator => return everything(),
        User::Provisioner => provisioner(manifest),
        User::Gateway => gateway(),
        User::Worker => worker(),
        User::Consumer(consumer) => [durable(consumer.name()), emitted(consumer)].concat(),
        User::Team(name) => match in_order(manifest, name) {
            Some(entry) => reads_in_order(entry),
            None => durable(name),
        },
    };
    let makes_readers = match user {
        User::Gateway | User::Worker => true,
        User::Team(name) => in_order(manifest, name).is_some(),
        _ => false,
    };
    let publish_deny = if makes_readers { manifest.names().flat_map(of_a_durable).collect() } else { Vec::new() };
    Permissions { publish, publish_deny, subscribe: vec![format!("{}.>", names::inbox(user.name()))] }
}

fn everything() -> Permissions {
    Permissions { publish: vec![">".into()], publish_deny: Vec::new(), subscribe: vec![">".into()] }
}

/// A request to JetStream.
fn api(request: &str) -> String {
    format!("$JS.API.{request}")
}

/// Everything that is asked of a durable by its name: no user that makes readers of its own may take it for one of them.
fn of_a_durable(name: &str) -> [String; 3] {
    let events = stream::EVENTS;
    [
        api(&format!("CONSUMER.*.{events}.{name}")),
        api(&format!("CONSUMER.CREATE.{events}.{name}.>")),
        api(&format!("CONSUMER.MSG.NEXT.{events}.{name}")),
    ]
}

/// Makes what is missing, looks at what is there, and lets streams store more subjects. It reads and deletes nothing.
fn provisioner(manifest: &Manifest) -> Vec<String> {
    let streams = [stream::COMMANDS, stream::EVENTS, stream::DEADLETTERS, authz::STREAM, stream::ADVISORIES];
    let of_streams = streams.into_iter().flat_map(|stream| ["INFO", "CREATE", "UPDATE"].map(|verb| api(&format!("STREAM.{verb}.{stream}"))));
    let of_durables = manifest.names().flat_map(|name| {
        let events = stream::EVENTS;
        // With one filter it is part of the subject, with several it is not.
        [
            api(&format!("CONSUMER.INFO.{events}.{name}")),
            api(&format!("CONSUMER.CREATE.{events}.{name}")),
            api(&format!("CONSUMER.CREATE.{events}.{name}.>")),
        ]
    });
    // What is declared nowhere is named.
    of_streams.chain(of_durables).chain([api(&format!("CONSUMER.LIST.{}", stream::EVENTS))]).collect()
}

/// Stores commands; follows one tenant's events for event streams; looks events and dead letters up for timelines; redrives dead letters for
/// platform operators, and removes them; remembers what members may, together with the others.
fn gateway() -> Vec<String> {
    let (events, letters, bucket) = (stream::EVENTS, stream::DEADLETTERS, authz::STREAM);
    let mut publish = vec![subjects::ANY_COMMAND.to_owned(), subjects::PROBE.to_owned(), subjects::ANY_REDRIVE.to_owned()];
    publish.extend(reads(events, Some(subjects::ANY_TENANT)));
    publish.extend([
        // The watch of the bucket: the client library makes its reader without a name, and after a gap with one. It is pushed, and the server
        // asks for its pace.
        api(&format!("STREAM.INFO.{bucket}")),
        api(&format!("CONSUMER.CREATE.{bucket}")),
        api(&format!("CONSUMER.CREATE.{bucket}.*.{}", authz::SUBJECTS[0])),
        api(&format!("CONSUMER.DELETE.{bucket}.*")),
        format!("$JS.FC.{bucket}.>"),
        authz::MEMBERS.to_owned(),
        api(&format!("CONSUMER.LIST.{events}")),
        api(&format!("DIRECT.GET.{events}")),
        api(&format!("STREAM.INFO.{letters}")),
        api(&format!("DIRECT.GET.{letters}")),
        api(&format!("STREAM.MSG.DELETE.{letters}")),
    ]);
    publish
}

/// Reads the partitions of COMMANDS, and EVENTS behind its fences; purges what is decided; publishes events, fences, dead letters, the
/// commands of time, and outcomes to those who wait; tells what the server gave up delivering.
fn worker() -> Vec<String> {
    let (commands, events) = (stream::COMMANDS, stream::EVENTS);
    let mut publish = vec![subjects::ANY_EVENT.to_owned(), subjects::ANY_FENCE.to_owned(), subjects::any_dead_letter(names::WORKER)];
    publish.extend(of_time().map(|command| subjects::any_tenants(&command)));
    // Two tokens: an inbox for outcomes. Those for the answers to requests have three.
    let reactors = Consumer::ALL.into_iter().filter(|consumer| !consumer.commands().is_empty());
    publish.extend([names::GATEWAY].into_iter().chain(reactors.map(Consumer::name)).map(|name| format!("{}.*", names::inbox(name))));
    publish.extend(reads(commands, Some(subjects::ANY_PARTITION)));
    publish.extend(reads(events, None));
    publish.extend([api(&format!("STREAM.PURGE.{commands}")), api(&format!("DIRECT.GET.{commands}"))]);
    publish.extend(["STREAM.INFO", "DIRECT.GET"].map(|verb| api(&format!("{verb}.{}", stream::ADVISORIES))));
    publish
}

/// The commands that nobody gives but time: those of the system that are no reactor's.
fn of_time() -> impl Iterator<Item = String> {
    let of_the_system = registry::COMMANDS.iter().filter(|entry| entry.least == Least::System);
    of_the_system
        .map(|entry| format!("{}.{}", entry.kind, entry.name))
        .filter(|command| !Consumer::ALL.into_iter().any(|consumer| consumer.commands().contains(&command.as_str())))
}

/// Reads a stream through readers of its own. With a filter, they take no more than that.
fn reads(stream: &str, filter: Option<&str>) -> [String; 5] {
    let within = filter.map(|filter| format!(".{filter}")).unwrap_or_default();
    [
        api(&format!("STREAM.INFO.{stream}")),
        api(&format!("CONSUMER.CREATE.{stream}.*{within}")),
        api(&format!("CONSUMER.INFO.{stream}.*")),
        api(&format!("CONSUMER.MSG.NEXT.{stream}.*")),
        api(&format!("CONSUMER.DELETE.{stream}.*")),
    ]
}

/// Follows one durable that is there, and puts aside what it gave up on.
fn durable(name: &str) -> Vec<String> {
    let events = stream::EVENTS;
    vec![
        api(&format!("STREAM.INFO.{events}")),
        api(&format!("CONSUMER.INFO.{events}.{name}")),
        api(&format!("CONSUMER.MSG.NEXT.{events}.{name}")),
        format!("$JS.ACK.{events}.{name}.>"),
        subjects::any_dead_letter(name),
    ]
}

/// The entry of a team's consumer that asks for order.
fn in_order<'a>(manifest: &'a Manifest, name: &str) -> Option<&'a Entry> {
    manifest.entry(name).filter(|entry| entry.order == Order::Aggregate)
}

/// Reads its one filter through readers of its own, as its position is in its database, and puts aside what it gave up on.
fn reads_in_order(entry: &Entry) -> Vec<String> {
    let readers = entry.filters.first().map(|filter| reads(stream::EVENTS, Some(filter)));
    readers.into_iter().flatten().chain([subjects::any_dead_letter(entry.name)]).collect()
}

/// What a consumer sends besides: commands, or what it drops of the bucket.
fn emitted(consumer: Consumer) -> Vec<String> {
    let mut publish: Vec<String> = consumer.commands().iter().map(|command| subjects::any_tenants(command)).collect();
    if consumer == Consumer::AuthzCache {
        publish.extend(authz::SUBJECTS.map(str::to_owned));
        publish.extend([api(&format!("STREAM.INFO.{}", authz::STREAM)), api(&format!("STREAM.PURGE.{}", authz::STREAM))]);
    }
    publish
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_gives_the_commands_that_a_state_names_as_its_deadline() {
        assert_eq!(of_time().collect::<Vec<_>>(), ["invitation.expire"]);
    }

    #[test]
    fn a_reactor_gives_commands_of_the_registry() {
        for command in Consumer::ALL.into_iter().flat_map(Consumer::commands) {
            assert!(registry::COMMANDS.iter().any(|entry| format!("{}.{}", entry.kind, entry.name) == *command), "{command}");
        }
    }

    #[test]
    fn no_role_may_do_everything() {
        let manifest = Manifest::with_examples();
        for user in User::all(manifest).into_iter().filter(|user| !matches!(user, User::System | User::Operator)) {
            let Permissions { publish, subscribe, .. } = permissions(manifest, user);
            for subject in publish.iter().chain(&subscribe) {
                assert!(!["$JS.API.>", "$JS.>", "$SYS.>", ">", "*", "cmd.>", "evt.>", "_INBOX.>"].contains(&subject.as_str()), "{subject}");
            }
        }
    }
}
