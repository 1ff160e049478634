//! The operations in flight of one worker: a fixed number of places, each with room for one future
//! and a waker of its own, all made before the run. Sending and finishing an operation allocates
//! nothing.
//!
//! Places are also linked in the order they were taken. Every operation of a run has the same
//! timeout, so the oldest place is always the next one to time out.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crossbeam_queue::ArrayQueue;

/// A place's number.
pub type Place = usize;

/// Room for a fixed number of futures, each with a note `N` that comes back with its output.
#[derive(Debug)]
pub struct Slab<F, N> {
    places: Vec<Slot<F, N>>,
    free: Vec<Place>,
    ready: Arc<Ready>,
    oldest: Option<Place>,
    newest: Option<Place>,
    taken: usize,
}

#[derive(Debug)]
struct Slot<F, N> {
    future: Pin<Box<Option<F>>>,
    note: Option<N>,
    wake: Arc<PlaceWaker>,
    waker: Waker,
    before: Link,
    after: Link,
}

/// A place, or none, in four bytes: there are as many of these as operations in flight, twice.
#[derive(Clone, Copy, Debug)]
struct Link(u32);

impl Link {
    const NONE: Self = Self(u32::MAX);

    fn to(place: Option<Place>) -> Self {
        let number = |place| u32::try_from(place).expect("fewer places than four bytes number");
        place.map_or(Self::NONE, |place| Self(number(place)))
    }

    fn place(self) -> Option<Place> {
        (self.0 != u32::MAX).then_some(self.0 as usize)
    }
}

/// Places whose futures want to be polled; shared with whatever wakes them.
#[derive(Debug)]
struct Ready {
    places: ArrayQueue<Place>,
    alarm: Waker,
}

#[derive(Debug)]
struct PlaceWaker {
    place: Place,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for PlaceWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            // Never full: there is room for every place, and each is queued at most once.
            let pushed = self.ready.places.push(self.place);
            debug_assert!(pushed.is_ok(), "a place is queued once");
            self.ready.alarm.wake_by_ref();
        }
    }
}

impl<F: Future, N> Slab<F, N> {
    /// `places` places, for the calling thread to poll; `alarm` wakes it.
    #[must_use]
    pub fn new(places: usize, alarm: Waker) -> Self {
        let queue = ArrayQueue::new(places.max(1));
        let ready = Arc::new(Ready { places: queue, alarm });
        let slot = |place| {
            let queued = AtomicBool::new(false);
            let wake = Arc::new(PlaceWaker { place, queued, ready: Arc::clone(&ready) });
            let waker = Waker::from(Arc::clone(&wake));
            let future = Box::pin(None);
            let (before, after) = (Link::NONE, Link::NONE);
            Slot { future, note: None, wake, waker, before, after }
        };
        let slots = (0..places).map(slot).collect();
        let free = (0..places).rev().collect();
        Self { places: slots, free, ready, oldest: None, newest: None, taken: 0 }
    }

    /// How many places are taken.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.taken
    }

    /// Whether no place is taken.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.taken == 0
    }

    /// Whether every place is taken.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Takes a place for a future, which the caller then polls; the future back if none is free.
    ///
    /// # Errors
    /// Every place is taken.
    pub fn insert(&mut self, future: F, note: N) -> Result<Place, F> {
        let Some(place) = self.free.pop() else { return Err(future) };
        let slot = &mut self.places[place];
        slot.future.as_mut().set(Some(future));
        slot.note = Some(note);
        slot.before = Link::to(self.newest);
        slot.after = Link::NONE;
        match self.newest {
            Some(newest) => self.places[newest].after = Link::to(Some(place)),
            None => self.oldest = Some(place),
        }
        self.newest = Some(place);
        self.taken += 1;
        Ok(place)
    }

    /// Polls the future in a place; when it is done the place is free again. An empty place, woken
    /// by what was in it before, is no news.
    pub fn poll(&mut self, place: Place) -> Option<(F::Output, N)> {
        let slot = &mut self.places[place];
        // Before polling: a wake during the poll must queue the place again.
        slot.wake.queued.store(false, Ordering::Release);
        let future = slot.future.as_mut().as_pin_mut()?;
        match future.poll(&mut Context::from_waker(&slot.waker)) {
            Poll::Pending => None,
            Poll::Ready(output) => self.remove(place).map(|note| (output, note)),
        }
    }

    /// A place whose future wants to be polled.
    #[must_use]
    pub fn next_ready(&self) -> Option<Place> {
        self.ready.places.pop()
    }

    /// Whether any future wants to be polled.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.places.is_empty()
    }

    /// The place that was taken first of those taken now, and its note.
    #[must_use]
    pub fn oldest(&self) -> Option<(Place, &N)> {
        let place = self.oldest?;
        self.places[place].note.as_ref().map(|note| (place, note))
    }

    /// Drops the future in a place and frees it.
    pub fn remove(&mut self, place: Place) -> Option<N> {
        let slot = &mut self.places[place];
        let note = slot.note.take()?;
        slot.future.as_mut().set(None);
        let (before, after) = (slot.before, slot.after);
        (slot.before, slot.after) = (Link::NONE, Link::NONE);
        match before.place() {
            Some(before) => self.places[before].after = after,
            None => self.oldest = after.place(),
        }
        match after.place() {
            Some(after) => self.places[after].before = before,
            None => self.newest = before.place(),
        }
        self.free.push(place);
        self.taken -= 1;
        Some(note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_freed_and_kept_in_order() {
        let mut slab = Slab::new(3, Waker::noop().clone());
        let senders = [(); 3].map(|()| tokio::sync::oneshot::channel::<u32>());
        let mut ends = Vec::new();
        for (n, (sender, receiver)) in senders.into_iter().enumerate() {
            let place = slab.insert(receiver, n).expect("there is room");
            assert!(slab.poll(place).is_none());
            ends.push((place, sender));
        }
        assert!(slab.is_full());
        let (_sender, receiver) = tokio::sync::oneshot::channel();
        assert!(slab.insert(receiver, 9).is_err());
        assert_eq!(slab.next_ready(), None);
        assert_eq!(slab.oldest().map(|(_, note)| *note), Some(0));

        let (middle, sender) = ends.remove(1);
        sender.send(11).expect("the receiver waits in its place");
        assert_eq!(slab.next_ready(), Some(middle));
        assert!(matches!(slab.poll(middle), Some((Ok(11), 1))));
        assert!(slab.poll(middle).is_none(), "an empty place is no news");

        let (first, sender) = ends.remove(0);
        assert_eq!(slab.remove(first), Some(0));
        assert!(sender.send(10).is_err(), "the future is gone");
        assert_eq!(slab.oldest().map(|(_, note)| *note), Some(2));
        assert_eq!(slab.len(), 1);
        assert_eq!(slab.remove(slab.oldest().expect("one is left").0), Some(2));
        assert!(slab.is_empty() && slab.oldest().is_none() && slab.newest.is_none());
    }
}
