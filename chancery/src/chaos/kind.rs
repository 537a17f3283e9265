//! The kinds of faults by name.

use std::fmt;

/// What kinds have in common; a period of a plan mixes two families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Processes end.
    Crash,
    /// Processes stand still or are restarted in order.
    Pause,
    /// Nodes and leaders of NATS.
    Transport,
    /// Networks.
    Network,
    /// Messages, and points between two steps.
    Inside,
    /// Disks.
    Disk,
}

/// How much a fault stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// A part of the work, briefly.
    Light,
    /// Everything while it lasts, or recovery takes an election or a lease: such a fault gets more time for itself.
    Heavy,
}

/// One line for each kind: what it does, its name, its family, its weight.
macro_rules! kinds {
    ($($(#[$about:meta])+ $kind:ident = $name:literal, $family:ident, $weight:ident;)+) => {
        /// A kind of fault: one word in plans, histories and reports.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[$about])+ $kind,)+
        }

        impl Kind {
            /// All of them, in the order in which they are listed.
            pub const ALL: &[Self] = &[$(Self::$kind),+];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)+
                }
            }

            /// What it has in common with others.
            pub const fn family(self) -> Family {
                match self {
                    $(Self::$kind => Family::$family,)+
                }
            }

            /// How much it stops.
            pub const fn weight(self) -> Weight {
                match self {
                    $(Self::$kind => Weight::$weight,)+
                }
            }
        }
    };
}

kinds! {
    /// kill -9 of a gateway.
    KillGateway = "kill_gateway", Crash, Light;
    /// kill -9 of a worker.
    KillWorker = "kill_worker", Crash, Light;
    /// kill -9 of a consumer.
    KillConsumer = "kill_consumer", Crash, Light;
    /// kill -9 of any node of NATS.
    KillNats = "kill_nats", Transport, Heavy;
    /// kill -9 of the node that leads a stream.
    KillStreamLeader = "kill_stream_leader", Transport, Heavy;
    /// kill -9 of the node that leads all nodes.
    KillMetaLeader = "kill_meta_leader", Transport, Heavy;
    /// kill -9 of one session's process: PostgreSQL ends all sessions and recovers.
    KillBackend = "kill_backend", Crash, Light;
    /// kill -9 of the postmaster.
    KillPostgres = "kill_postgres", Crash, Heavy;
    /// A fast shutdown of PostgreSQL and a start.
    RestartPostgres = "restart_postgres", Crash, Light;
    /// A gateway stopped (SIGSTOP) and continued.
    FreezeGateway = "freeze_gateway", Pause, Light;
    /// A worker stopped for less than its lease.
    FreezeWorker = "freeze_worker", Pause, Light;
    /// A worker stopped for longer than its lease: others take over, and it comes back as a zombie.
    FreezeWorkerPastLease = "freeze_worker_past_lease", Pause, Heavy;
    /// A consumer stopped and continued.
    FreezeConsumer = "freeze_consumer", Pause, Light;
    /// A node of NATS stopped and continued.
    FreezeNats = "freeze_nats", Pause, Heavy;
    /// SIGTERM and a start, one worker after the other.
    RollWorkers = "roll_workers", Pause, Light;
    /// The same for gateways.
    RollGateways = "roll_gateways", Pause, Light;
    /// The same for the nodes of NATS.
    RollNats = "roll_nats", Pause, Heavy;
    /// A node of NATS ends as a lame duck: it sends its clients and leaderships away first.
    LameDuck = "lame_duck", Transport, Heavy;
    /// A stream's leader steps down.
    StepDownStream = "step_down_stream", Transport, Light;
    /// A durable consumer's leader steps down.
    StepDownConsumer = "step_down_consumer", Transport, Light;
    /// The leader of all nodes steps down.
    StepDownMeta = "step_down_meta", Transport, Light;
    /// One node is cut off from the others.
    PartitionOne = "partition_one", Network, Heavy;
    /// Every node is cut off from every other: no majority.
    PartitionMajority = "partition_majority", Network, Heavy;
    /// One node hears the others and is not heard, or the other way round.
    PartitionAsymmetric = "partition_asymmetric", Network, Heavy;
    /// A role is cut off from NATS, one way or both.
    PartitionClient = "partition_client", Network, Light;
    /// A role is cut off from PostgreSQL, one way or both.
    PartitionPostgres = "partition_postgres", Network, Light;
    /// The load is cut off from a gateway.
    PartitionGateway = "partition_gateway", Network, Light;
    /// All connections of a part are reset at once, several times.
    Reset = "reset", Network, Light;
    /// Every message of a part waits.
    Delay = "delay", Network, Light;
    /// A worker's connection is cut after it sent COMMIT and before the answer.
    CutCommit = "cut_commit", Network, Light;
    /// A connection is cut in the middle of a message, after any byte.
    CutBytes = "cut_bytes", Network, Light;
    /// A consumer's messages wait so long that it falls behind.
    SlowConsumer = "slow_consumer", Network, Light;
    /// Stored events are published again, shuffled, without an id.
    RepeatEvents = "repeat_events", Inside, Light;
    /// Stored commands are published again, shuffled, without an id.
    RepeatCommands = "repeat_commands", Inside, Light;
    /// Messages that are no commands, in COMMANDS.
    PoisonCommands = "poison_commands", Inside, Light;
    /// Messages that are no events, in EVENTS.
    PoisonEvents = "poison_events", Inside, Light;
    /// A worker dies at a point between two steps.
    CrashWorker = "crash_worker", Inside, Light;
    /// A worker freezes at such a point for longer than its lease.
    FreezeAtPoint = "freeze_at_point", Inside, Heavy;
    /// A consumer dies at a point between two steps.
    CrashConsumer = "crash_consumer", Inside, Light;
    /// The disk of a node of NATS is full.
    DiskFullNats = "disk_full_nats", Disk, Heavy;
    /// The disk of PostgreSQL is full.
    DiskFullPostgres = "disk_full_postgres", Disk, Heavy;
}

impl Kind {
    /// Whether it needs root where everything is a process of this machine.
    pub const fn needs_root(self) -> bool {
        matches!(self, Self::DiskFullNats | Self::DiskFullPostgres)
    }

    /// Whether the parts must be built with debug assertions.
    pub const fn needs_debug(self) -> bool {
        matches!(self, Self::CrashWorker | Self::FreezeAtPoint | Self::CrashConsumer)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
