//! Doing something about a dead letter: first that, then the row that says who did it, then the letter goes. Whoever ends in between does all
//! of it again, which is harmless, and no letter goes without a row.

use tokio::time::timeout;

use super::{Action, Letter, LetterError, Letters, Standing};
use crate::{failpoint, nats, store::letters as sql};

/// What was done about a letter.
#[derive(Debug, Clone)]
pub struct Done {
    /// The letter, which is gone.
    pub letter: Letter,
    /// What became of its event, in words.
    pub what: String,
}

impl Letters {
    /// Lets the event of a letter be tried anew.
    ///
    /// # Errors
    /// See [`LetterError`]; the letter stands then.
    pub async fn redrive(&self, number: u64, actor: &str) -> Result<Done, LetterError> {
        let letter = self.get(number).await?;
        let what = match self.redriving(&letter).await? {
            Redriving::Publish(subject) => {
                let stored = nats::store(&self.context, subject, letter.redrive_headers(), letter.payload.clone());
                let stored = timeout(self.timeout, stored).await.unwrap_or_else(|_| Err("no PubAck in time".into()));
                stored.map_err(LetterError::Unavailable)?;
                format!("{} has it again", letter.consumer)
            }
            Redriving::Queue(parked, behind) => {
                if !sql::redrive(&self.database, &letter.consumer, &parked).await? {
                    return Err(changed(&letter));
                }
                format!("{} tries it again, and then the {behind} behind it", letter.consumer)
            }
            Redriving::Nothing(what) => what.to_owned(),
        };
        self.finish(letter, "redrive", actor, None, what).await
    }

    /// What a redrive would do, in words; nothing is done.
    ///
    /// # Errors
    /// See [`LetterError`].
    pub async fn would_redrive(&self, letter: &Letter) -> Result<String, LetterError> {
        Ok(match self.redriving(letter).await? {
            Redriving::Publish(_) => format!("{} would have it again", letter.consumer),
            Redriving::Queue(_, behind) => format!("{} would try it again, and then the {behind} behind it", letter.consumer),
            Redriving::Nothing(what) => what.to_owned(),
        })
    }

    async fn redriving(&self, letter: &Letter) -> Result<Redriving, LetterError> {
        let refused = |why: &str| Err(LetterError::Refused(format!("dead letter {} cannot be redriven: {why}", letter.number)));
        match self.standing(letter).await? {
            Standing::Command => {
                refused("a command has exactly one outcome, and this one has failed; give it again under a new key, then discard the letter")
            }
            Standing::Unreadable => refused("its consumer asks for order, could not read it, and has gone on behind it; discard it"),
            Standing::Nobody => {
                refused("no consumer of that name takes anything again (its durable needs the filter `redrive.<name>.>`: `chancery provision`)")
            }
            Standing::Gone => Ok(Redriving::Nothing("it does not wait any more: it was handled, or discarded")),
            Standing::Unordered => match letter.redrive_subject() {
                Ok(subject) => Ok(Redriving::Publish(subject)),
                Err(why) => refused(&why),
            },
            Standing::Waiting(parked, behind, _) => match parked.redrives.cmp(&letter.redrives) {
                // Somebody ended between the queue and the row.
                std::cmp::Ordering::Greater => Ok(Redriving::Nothing("it was redriven already")),
                // The letter is stored first.
                _ if !parked.dead => Err(changed(letter)),
                _ => Ok(Redriving::Queue(parked, behind)),
            },
        }
    }

    /// Gives the event of a letter up for good: its consumer never has it, and what waits behind it goes on.
    ///
    /// # Errors
    /// See [`LetterError`]; the letter stands then.
    pub async fn discard(&self, number: u64, actor: &str, reason: &str) -> Result<Done, LetterError> {
        if reason.trim().is_empty() {
            return Err(LetterError::Refused("a reason is needed".into()));
        }
        let letter = self.get(number).await?;
        let what = match self.standing(&letter).await? {
            // A later letter is about the event that was redriven since.
            Standing::Waiting(parked, ..) if parked.redrives > letter.redrives => "the letter is gone; its event was redriven before".to_owned(),
            Standing::Waiting(parked, behind, _) => {
                if !sql::discard(&self.database, &letter.consumer, &parked).await? {
                    return Err(changed(&letter));
                }
                format!("{} goes on with the {behind} behind it", letter.consumer)
            }
            _ => "the letter is gone".to_owned(),
        };
        self.finish(letter, "discard", actor, Some(reason), what).await
    }

    async fn finish(&self, letter: Letter, action: &str, actor: &str, reason: Option<&str>, what: String) -> Result<Done, LetterError> {
        failpoint::hit("letter_acted");
        let row = Action {
            at: letter.at,
            actor: actor.to_owned(),
            action: action.to_owned(),
            reason: reason.map(str::to_owned),
            consumer: letter.consumer.clone(),
            letter: letter.number,
            event: letter.event,
            letter_type: letter.letter_type.clone(),
            tenant: letter.tenant,
            redrives: letter.redrives,
        };
        sql::note(&self.database, &row).await?;
        failpoint::hit("letter_noted");
        let deleted = nats::ask_api("STREAM.MSG.DELETE.DEADLETTERS", self.stream.delete_message(letter.number)).await;
        if let Err(error) = deleted {
            // Somebody else has done the same at the same time, or it could not be deleted.
            match self.get(letter.number).await {
                Err(LetterError::NotFound(_)) => {}
                _ => return Err(LetterError::Unavailable(error)),
            }
        }
        failpoint::hit("letter_deleted");
        tracing::info!(actor, action, consumer.name = letter.consumer, letter = letter.number, event.r#type = letter.letter_type, "{what}");
        Ok(Done { letter, what })
    }
}

/// What a redrive does.
enum Redriving {
    /// Publishes it for its consumer.
    Publish(String),
    /// Lets its queue go on.
    Queue(sql::Parked, u64),
    /// It was done already.
    Nothing(&'static str),
}

fn changed(letter: &Letter) -> LetterError {
    LetterError::Refused(format!("{} is at work on the event of dead letter {} now; look again", letter.consumer, letter.number))
}
