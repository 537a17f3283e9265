//! The names of the JetStream streams.

/// Commands in flight.
pub const COMMANDS: &str = "COMMANDS";
/// Domain events, and the fences of the publishers.
pub const EVENTS: &str = "EVENTS";
/// What could not be handled.
pub const DEADLETTERS: &str = "DEADLETTERS";

/// The subjects COMMANDS stores.
pub const COMMANDS_SUBJECTS: [&str; 1] = ["cmd.>"];
/// The subjects EVENTS stores.
pub const EVENTS_SUBJECTS: [&str; 2] = ["evt.>", "fence.*"];
/// The subjects DEADLETTERS stores.
pub const DEADLETTERS_SUBJECTS: [&str; 1] = ["dlq.>"];
/// Every event and no fence.
pub const ALL_EVENTS: &str = "evt.>";
