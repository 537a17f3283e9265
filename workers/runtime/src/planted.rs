//! Planted defects: properties this program keeps, given up on purpose, one in a process, so that the chaos harness can be seen to catch
//! each of them. They exist only in builds with the cargo feature `planted`, which no image and no release has. Everywhere else
//! [`planted!`](crate::planted) is the word `false`, its blocks are not compiled, and this module is empty.
//!
//! `CHANCERY_PLANTED=<name>` chooses the defect, `CHANCERY_PLANTED=none` runs such a build without one. A role of such a build does not
//! start without the variable: nobody runs one by accident.

/// Whether a defect is planted in this process; with a block, what it does instead. Each use marks the one place where the property is kept.
#[cfg(feature = "planted")]
#[macro_export]
macro_rules! planted {
    ($defect:ident) => {
        $crate::planted::is($crate::planted::Defect::$defect)
    };
    ($defect:ident => $body:block) => {
        if $crate::planted::is($crate::planted::Defect::$defect) $body
    };
}

/// No defect is planted in this build: `false`, and nothing at all in place of a block.
#[cfg(not(feature = "planted"))]
#[macro_export]
macro_rules! planted {
    ($defect:ident) => {
        false
    };
    ($defect:ident => $body:block) => {};
}

#[cfg(feature = "planted")]
pub use armed::{Defect, NotArmed, VARIABLE, arm_as_told, is};

#[cfg(feature = "planted")]
mod armed {
    use std::{
        str::FromStr,
        sync::{
            OnceLock,
            atomic::{AtomicBool, Ordering},
        },
    };

    /// Names the defect of a process.
    pub const VARIABLE: &str = "CHANCERY_PLANTED";
    /// The value for a build that can have defects and shall have none: the control.
    const NONE: &str = "none";

    /// What a process can be made to get wrong.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Defect {
        /// The worker publishes a batch's events before it has committed them.
        PublishBeforeCommit,
        /// The outbox has many publishes in flight, each repeated by itself.
        PipelinedOutbox,
        /// Publishes expect no fence.
        NoFence,
        /// The batch's first statement does not compare the cursor.
        NoCursorCheck,
        /// The durables acknowledge everything before a message with it.
        AckAll,
        /// Nobody asks whether a command was decided before.
        NoInbox,
        /// One relay polls the table of events by their ids.
        OutboxById,
        /// What cannot be decoded is passed over.
        SkipUndecodable,
        /// The audit neither looks known events up nor has a key that refuses them.
        AuditWithoutKey,
        /// nats-server acknowledges before it has called `fsync`: a setting of the server, nothing in this program.
        LazyFsync,
    }

    impl Defect {
        /// All of them.
        pub const ALL: [Self; 10] = [
            Self::PublishBeforeCommit,
            Self::PipelinedOutbox,
            Self::NoFence,
            Self::NoCursorCheck,
            Self::AckAll,
            Self::NoInbox,
            Self::OutboxById,
            Self::SkipUndecodable,
            Self::AuditWithoutKey,
            Self::LazyFsync,
        ];

        /// Its name in `CHANCERY_PLANTED` and on the command line.
        pub const fn name(self) -> &'static str {
            match self {
                Self::PublishBeforeCommit => "publish_before_commit",
                Self::PipelinedOutbox => "pipelined_outbox",
                Self::NoFence => "no_fence",
                Self::NoCursorCheck => "no_cursor_check",
                Self::AckAll => "ack_all",
                Self::NoInbox => "no_inbox",
                Self::OutboxById => "outbox_by_id",
                Self::SkipUndecodable => "skip_undecodable",
                Self::AuditWithoutKey => "audit_without_key",
                Self::LazyFsync => "lazy_fsync",
            }
        }
    }

    impl FromStr for Defect {
        type Err = NotArmed;

        fn from_str(text: &str) -> Result<Self, NotArmed> {
            Self::ALL.into_iter().find(|defect| defect.name() == text).ok_or_else(|| NotArmed::Unknown(text.to_owned()))
        }
    }

    /// Why a role of a build with planted defects does not start.
    #[derive(Debug, PartialEq, Eq, thiserror::Error)]
    pub enum NotArmed {
        /// The variable is missing.
        #[error("this build is made to be wrong (cargo feature `planted`): it runs with {VARIABLE}=<defect>, or {NONE}, and never without")]
        Missing,
        /// The variable names no defect.
        #[error("{VARIABLE}: there is no defect {0:?}; known are {NONE}, {known}", known = Defect::ALL.map(Defect::name).join(", "))]
        Unknown(String),
    }

    static CHOSEN: OnceLock<Option<Defect>> = OnceLock::new();
    static TOLD: AtomicBool = AtomicBool::new(false);

    /// Arms the defect that `CHANCERY_PLANTED` names. The first call counts.
    ///
    /// # Errors
    /// The variable is missing or names no defect.
    pub fn arm_as_told() -> Result<(), NotArmed> {
        arm(std::env::var(VARIABLE).ok().as_deref())
    }

    fn arm(value: Option<&str>) -> Result<(), NotArmed> {
        let chosen = match value {
            None | Some("") => return Err(NotArmed::Missing),
            Some(NONE) => None,
            Some(name) => Some(name.parse()?),
        };
        CHOSEN.get_or_init(|| chosen);
        let name = chosen.map_or(NONE, Defect::name);
        tracing::warn!(defect = name, "THIS BUILD HAS PLANTED DEFECTS: it is made to be caught, and good for nothing else");
        Ok(())
    }

    /// Whether this process has the defect.
    pub fn is(defect: Defect) -> bool {
        let planted = CHOSEN.get().is_some_and(|chosen| *chosen == Some(defect));
        if planted && !TOLD.swap(true, Ordering::Relaxed) {
            tracing::warn!(defect = defect.name(), "the planted defect is at work");
        }
        planted
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn every_defect_is_found_by_its_name_and_no_other() {
            for defect in Defect::ALL {
                assert_eq!(defect.name().parse(), Ok(defect));
            }
            assert_eq!("no_fences".parse::<Defect>(), Err(NotArmed::Unknown("no_fences".into())));
        }

        #[test]
        fn a_build_with_defects_runs_only_when_told_which_one() {
            assert_eq!(arm(None), Err(NotArmed::Missing));
            assert_eq!(arm(Some("")), Err(NotArmed::Missing));
            assert!(matches!(arm(Some("anything")), Err(NotArmed::Unknown(_))));
        }
    }
}
