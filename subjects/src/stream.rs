//! The names of the JetStream streams.

/// Commands in flight.
pub const COMMANDS: &str = "COMMANDS";
/// Domain events, the fences of the publishers, and events that one consumer is to have again.
pub const EVENTS: &str = "EVENTS";
/// What could not be handled.
pub const DEADLETTERS: &str = "DEADLETTERS";

/// What nats-server says it gave up delivering.
pub const ADVISORIES: &str = "ADVISORIES";

/// The subjects COMMANDS stores.
pub const COMMANDS_SUBJECTS: [&str; 1] = ["cmd.>"];
/// The subjects EVENTS stores.
pub const EVENTS_SUBJECTS: [&str; 3] = ["evt.>", "fence.*", "redrive.>"];
/// The subjects DEADLETTERS stores.
pub const DEADLETTERS_SUBJECTS: [&str; 1] = ["dlq.>"];
/// The subjects ADVISORIES stores: the server's own.
pub const ADVISORIES_SUBJECTS: [&str; 2] = ["$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>", "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>"];
/// Every event, no fence, and nothing that one consumer has again.
pub const ALL_EVENTS: &str = "evt.>";
