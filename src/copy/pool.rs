//! Work on all cores with results in the order of the asking.
//!
//! One thread produces jobs and events, several do the jobs, the caller consumes results and
//! events in exactly the order in which they were produced: nothing that comes out depends on the
//! number of threads. Both queues are bounded.

use std::mem;
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Scope};

use crate::error::Error;

/// Jobs and events under way at most: enough for the other cores to go on while one works at a
/// large file, few enough to bound open directories.
const QUEUE: usize = 64;

/// What the consumer gets.
#[derive(Debug)]
pub enum Item<R, E> {
    /// The result of a job.
    Done(R),
    /// An event, passed through in its place.
    Event(E),
}

enum Slot<R, E> {
    Pending(Receiver<R>),
    Event(E),
}

/// The consumer has stopped: produce no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

/// Why a producer stops early.
#[derive(Debug)]
pub enum Stopped {
    /// The consumer has stopped.
    Closed,
    /// Its own failure, to be passed on in its place.
    Failed(Error),
}

impl From<Closed> for Stopped {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The producer's end.
#[derive(Debug)]
pub struct Feed<J, R, E> {
    jobs: SyncSender<(J, SyncSender<R>)>,
    slots: SyncSender<Slot<R, E>>,
}

impl<J, R, E> Feed<J, R, E> {
    /// Adds a job; waits while the queue is full.
    pub fn job(&self, job: J) -> Result<(), Closed> {
        let (give, take) = sync_channel(1);
        self.slots.send(Slot::Pending(take)).map_err(|_| Closed)?;
        self.jobs.send((job, give)).map_err(|_| Closed)
    }

    /// Adds an event in its place between the jobs.
    pub fn event(&self, event: E) -> Result<(), Closed> {
        self.slots.send(Slot::Event(event)).map_err(|_| Closed)
    }
}

/// As many workers as there are cores.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// As many workers as read well from a medium: flash answers several requests at a time.
pub fn readers() -> usize {
    cores().max(8)
}

/// What the workers share.
struct Crew<J, R, N, W> {
    jobs: Mutex<Receiver<(J, SyncSender<R>)>>,
    state: N,
    work: W,
}

impl<J: Send, R: Send, N, W> Crew<J, R, N, W> {
    /// Starts a worker, which starts the next one of `more` when it has something to do itself: a
    /// small tree has fewer jobs than a medium takes requests.
    fn hire<'scope, 'env, S>(&'env self, scope: &'scope Scope<'scope, 'env>, mut more: usize)
    where
        N: Fn() -> S + Sync,
        W: Fn(&mut S, J) -> R + Sync,
    {
        scope.spawn(move || {
            let mut state = None;
            loop {
                let next = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok((job, give)) = next else { break };
                if more > 0 {
                    self.hire(scope, mem::take(&mut more) - 1);
                }
                let state = state.get_or_insert_with(&self.state);
                // Nobody waits for it any more where the consumer has failed.
                let _ = give.send((self.work)(state, job));
            }
        });
    }
}

/// Runs until the producer has returned and everything is consumed, or the consumer fails; the
/// others then stop at their next job.
pub fn run<J, R, E, S, X>(
    workers: usize,
    produce: impl FnOnce(&Feed<J, R, E>) -> Result<(), Closed> + Send,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, J) -> R + Sync,
    mut consume: impl FnMut(Item<R, E>) -> Result<(), X>,
) -> Result<(), X>
where
    J: Send,
    R: Send,
    E: Send,
{
    let (give_job, take_job) = sync_channel(QUEUE);
    let (give_slot, take_slot) = sync_channel(QUEUE);
    let crew = Crew { jobs: Mutex::new(take_job), state, work };
    thread::scope(|scope| {
        scope.spawn(move || {
            let feed = Feed { jobs: give_job, slots: give_slot };
            // Closed: the consumer knows why, since it closed.
            let _ = produce(&feed);
        });
        crew.hire(scope, workers.max(1) - 1);
        let mut result = Ok(());
        for slot in &take_slot {
            result = match slot {
                Slot::Event(event) => consume(Item::Event(event)),
                Slot::Pending(take) => match take.recv() {
                    Ok(done) => consume(Item::Done(done)),
                    Err(_) => break, // its worker panicked: the scope passes that on
                },
            };
            if result.is_err() {
                break;
            }
        }
        drop(take_slot);
        result
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn order_does_not_depend_on_threads() {
        for workers in [1, 2, 7] {
            let mut seen = Vec::new();
            let result: Result<(), ()> = run(
                workers,
                |feed| {
                    for n in 0..500u64 {
                        feed.job(n)?;
                        if n % 10 == 0 {
                            feed.event(n)?;
                        }
                    }
                    Ok(())
                },
                || (),
                |(), n| {
                    thread::sleep(std::time::Duration::from_micros(n * 7 % 50));
                    n
                },
                |item| {
                    seen.push(match item {
                        Item::Done(n) => (n, false),
                        Item::Event(n) => (n, true),
                    });
                    Ok(())
                },
            );
            assert_eq!(result, Ok(()));
            let expected: Vec<_> = (0..500)
                .flat_map(|n| [(n, false), (n, true)])
                .filter(|&(n, event)| !event || n % 10 == 0)
                .collect();
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn there_are_no_more_workers_than_jobs() {
        let made = AtomicUsize::new(0);
        let result: Result<(), ()> = run(
            8,
            |feed: &Feed<u64, u64, ()>| (0..2).try_for_each(|n| feed.job(n)),
            || made.fetch_add(1, Ordering::Relaxed),
            |_, n| n,
            |_| Ok(()),
        );
        assert_eq!(result, Ok(()));
        assert!((1..=2).contains(&made.into_inner()));
    }

    #[test]
    fn a_failing_consumer_ends_an_endless_producer() {
        let result: Result<(), u64> = run(
            3,
            |feed: &Feed<u64, u64, ()>| (0..).try_for_each(|n| feed.job(n)),
            || (),
            |(), n| n,
            |item| match item {
                Item::Done(100) => Err(100),
                _ => Ok(()),
            },
        );
        assert_eq!(result, Err(100));
    }
}
