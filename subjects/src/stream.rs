//! The names of the JetStream streams.

/// Commands in flight.
pub const COMMANDS: &str = "COMMANDS";
/// Domain events, the fences of the publishers, and events that one consumer is to have again.
pub const EVENTS: &str = "EVENTS";
/// What could not be handled.
pub const DEADLETTERS: &str = "DEADLETTERS";

/// The subjects COMMANDS stores.
pub const COMMANDS_SUBJECTS: [&str; 1] = ["cmd.>"];
/// The subjects EVENTS stores.
pub const EVENTS_SUBJECTS: [&str; 3] = ["evt.>", "fence.*", "redrive.>"];
/// The subjects DEADLETTERS stores.
pub const DEADLETTERS_SUBJECTS: [&str; 1] = ["dlq.>"];
/// Every event, no fence, and nothing that one consumer has again.
pub const ALL_EVENTS: &str = "evt.>";
