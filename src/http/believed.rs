//! What the database said a moment ago, so that not every call asks it.
//!
//! One call asks for all that want the same: those that come as a crowd while nothing is known wait for it, those that come
//! while something is still believed do not even wait. Otherwise, at each end of a belief, hundreds of calls would ask the
//! same and stand in line for its connections.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use tokio::sync::watch;

use crate::clock::{Clock, seconds};
use crate::store::{Cause, StoreError};

/// How long a row is believed without asking the database, in microseconds: a change made by another process is seen
/// within two seconds.
const BELIEVED: i64 = seconds(2);

/// A row that is believed is asked for anew after so long, by one of the calls that need it, in microseconds.
const RENEWED: i64 = seconds(1);

/// Rows at most; beyond that all are forgotten.
const MOST: usize = 10_000;

/// Rows by the names under which calls ask for them.
pub struct Believed<V>(Mutex<Rows<V>>);

struct Rows<V> {
    /// With the instants at which they were asked for. Only rows that exist are kept, so a flood of wrong names cannot
    /// push them out.
    known: HashMap<String, (V, i64)>,
    /// What is asked for at this moment.
    asked: HashMap<String, watch::Receiver<Said<V>>>,
}

/// What came of a question: nothing yet, an error that others share, or the row, if there is one.
type Said<V> = Option<Result<Option<V>, NoAnswer>>;

#[derive(Clone, Copy)]
struct NoAnswer;

/// What a call has to do.
enum Role<V> {
    Take(V),
    Wait(watch::Receiver<Said<V>>),
    Ask(watch::Sender<Said<V>>),
}

impl<V> Default for Believed<V> {
    fn default() -> Self {
        Believed(Mutex::new(Rows { known: HashMap::new(), asked: HashMap::new() }))
    }
}

impl<V: Clone> Believed<V> {
    /// The row of a name: the one that is believed, or what `ask` finds.
    ///
    /// # Errors
    /// Those of `ask`; who waited for somebody else's question hears that the database did not answer.
    pub async fn find<E: From<StoreError>>(
        &self,
        clock: &Clock,
        name: &str,
        ask: impl Future<Output = Result<Option<V>, E>>,
    ) -> Result<Option<V>, E> {
        loop {
            let mut said = match self.role(name, clock.micros()) {
                Role::Take(row) => return Ok(Some(row)),
                Role::Wait(said) => said,
                Role::Ask(say) => return self.ask(clock, name, say, ask).await,
            };
            // Who asked may have gone away: then somebody else does.
            let Ok(said) = said.wait_for(Option::is_some).await.map(|said| said.clone()) else { continue };
            return match said {
                Some(Ok(row)) => Ok(row),
                Some(Err(NoAnswer)) | None => Err(StoreError::Unavailable(Cause::AskedInVain).into()),
            };
        }
    }

    /// After a change in this process, which is seen at once: by those too that ask at this moment.
    pub fn forget(&self, name: &str) {
        let mut rows = self.rows();
        rows.known.remove(name);
        rows.asked.remove(name);
    }

    fn role(&self, name: &str, now: i64) -> Role<V> {
        let mut rows = self.rows();
        let asked = rows.asked.get(name);
        if let Some((row, at)) = rows.known.get(name) {
            // A clock that was set back ends the belief too.
            let is_believed = (0..BELIEVED).contains(&(now - at));
            if is_believed && (now - at < RENEWED || asked.is_some()) {
                return Role::Take(row.clone());
            }
        }
        if let Some(asked) = asked {
            return Role::Wait(asked.clone());
        }
        let (say, said) = watch::channel(None);
        rows.asked.insert(name.to_owned(), said);
        Role::Ask(say)
    }

    async fn ask<E>(
        &self,
        clock: &Clock,
        name: &str,
        say: watch::Sender<Said<V>>,
        ask: impl Future<Output = Result<Option<V>, E>>,
    ) -> Result<Option<V>, E> {
        let question = Question { all: self, name, say };
        let at = clock.micros();
        let answer = ask.await;
        question.end(answer.as_ref().map_err(|_| NoAnswer).cloned(), at);
        answer
    }

    fn rows(&self) -> MutexGuard<'_, Rows<V>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A question under way. A caller that leaves takes it back.
struct Question<'a, V: Clone> {
    all: &'a Believed<V>,
    name: &'a str,
    say: watch::Sender<Said<V>>,
}

impl<V: Clone> Question<'_, V> {
    fn end(self, answer: Result<Option<V>, NoAnswer>, at: i64) {
        if let Some(rows) = &mut self.is_wanted() {
            match &answer {
                Ok(Some(row)) => {
                    if rows.known.len() >= MOST {
                        rows.known.clear();
                    }
                    rows.known.insert(self.name.to_owned(), (row.clone(), at));
                }
                Ok(None) => drop(rows.known.remove(self.name)),
                Err(NoAnswer) => {}
            }
        }
        self.say.send_replace(Some(answer));
    }

    /// The rows, unless what is asked for was changed meanwhile.
    fn is_wanted(&self) -> Option<MutexGuard<'_, Rows<V>>> {
        let rows = self.all.rows();
        let is_ours = rows.asked.get(self.name).is_some_and(|asked| asked.same_channel(&self.say.subscribe()));
        is_ours.then_some(rows)
    }
}

impl<V: Clone> Drop for Question<'_, V> {
    fn drop(&mut self) {
        if let Some(rows) = &mut self.is_wanted() {
            rows.asked.remove(self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use futures_util::FutureExt;
    use jiff::Timestamp;
    use tokio::sync::oneshot;

    use super::*;

    type Answer = Result<Option<u8>, StoreError>;

    fn clock() -> Clock {
        Clock::manual(Timestamp::UNIX_EPOCH)
    }

    /// A question that must not be asked.
    async fn unasked() -> Answer {
        panic!("somebody asks already, or nobody has to")
    }

    /// A question, and the way to answer it.
    fn question() -> (oneshot::Sender<Answer>, impl Future<Output = Answer>) {
        let (answer, answered) = oneshot::channel();
        (answer, async { answered.await.expect("it is answered") })
    }

    fn now<T>(done: impl Future<Output = Result<T, StoreError>>) -> T {
        done.now_or_never().expect("nobody has to wait").expect("an answer")
    }

    #[test]
    fn a_crowd_asks_once() {
        let (all, clock) = (Believed::default(), clock());
        let (answer, asked) = question();
        let mut first = pin!(all.find(&clock, "a", asked));
        let mut second = pin!(all.find(&clock, "a", unasked()));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        assert_eq!(now(all.find(&clock, "b", async { Ok::<_, StoreError>(Some(2)) })), Some(2), "others do not wait");
        answer.send(Ok(Some(1))).unwrap();
        assert_eq!((now(first), now(second)), (Some(1), Some(1)));
        assert_eq!(now(all.find(&clock, "a", unasked())), Some(1));
    }

    #[test]
    fn a_belief_is_renewed_by_one_while_the_others_keep_it() {
        let (all, clock) = (Believed::default(), clock());
        assert_eq!(now(all.find(&clock, "a", async { Ok::<_, StoreError>(Some(1)) })), Some(1));
        clock.advance(Duration::from_millis(1000));
        let (answer, asked) = question();
        let mut renewing = pin!(all.find(&clock, "a", asked));
        assert!(renewing.as_mut().now_or_never().is_none());
        clock.advance(Duration::from_millis(999));
        assert_eq!(now(all.find(&clock, "a", unasked())), Some(1));
        clock.advance(Duration::from_millis(1));
        let mut late = pin!(all.find(&clock, "a", unasked()));
        assert!(late.as_mut().now_or_never().is_none(), "two seconds are over");
        answer.send(Ok(Some(2))).unwrap();
        assert_eq!((now(renewing), now(late)), (Some(2), Some(2)));
        // It is as old as its question, not as its answer.
        let (_answer, asked) = question();
        assert!(all.find(&clock, "a", asked).now_or_never().is_none());
    }

    #[test]
    fn what_was_changed_meanwhile_is_not_believed() {
        let (all, clock) = (Believed::default(), clock());
        let (answer, asked) = question();
        let mut before = pin!(all.find(&clock, "a", asked));
        assert!(before.as_mut().now_or_never().is_none());
        all.forget("a");
        let (newer, asked) = question();
        let mut after = pin!(all.find(&clock, "a", asked));
        assert!(after.as_mut().now_or_never().is_none(), "who comes after the change asks for himself");
        answer.send(Ok(Some(1))).unwrap();
        assert_eq!(now(before), Some(1));
        let mut third = pin!(all.find(&clock, "a", unasked()));
        assert!(third.as_mut().now_or_never().is_none(), "the newer question stands");
        newer.send(Ok(None)).unwrap();
        assert_eq!((now(after), now(third)), (None, None));
        assert_eq!(now(all.find(&clock, "a", async { Ok::<_, StoreError>(Some(3)) })), Some(3), "nothing is not kept");
    }

    #[test]
    fn a_caller_that_leaves_is_replaced_and_a_failure_is_shared() {
        let (all, clock) = (Believed::default(), clock());
        let mut leaving = Box::pin(all.find(&clock, "a", std::future::pending::<Answer>()));
        assert!(leaving.as_mut().now_or_never().is_none());
        let (answer, asked) = question();
        let mut second = pin!(all.find(&clock, "a", asked));
        let mut third = pin!(all.find(&clock, "a", unasked()));
        assert!(second.as_mut().now_or_never().is_none());
        drop(leaving);
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        answer.send(Err(StoreError::Conflict)).unwrap();
        assert!(matches!(second.now_or_never(), Some(Err(StoreError::Conflict))));
        assert!(matches!(third.now_or_never(), Some(Err(StoreError::Unavailable(Cause::AskedInVain)))));
        assert_eq!(now(all.find(&clock, "a", async { Ok::<_, StoreError>(Some(1)) })), Some(1));
    }
}
