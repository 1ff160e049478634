//! A bounded table whose entries expire: what a core remembers between two messages of a client.
//!
//! Expiry is looked at when the table is used; nothing runs in the background.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use vaultmark_hsm::Moment;

/// A table of at most `entries_max` entries, each of which lives for `ttl`.
#[derive(Debug)]
pub(super) struct Expiring<K, V> {
    entries: HashMap<K, (Moment, V)>,
    /// By expiry. Entries taken out stay here until they expire or are weeded out.
    order: VecDeque<(Moment, K)>,
    ttl: Duration,
    entries_max: usize,
}

/// Why an entry was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotInserted {
    /// As many entries as there may be.
    Full,
    /// The key is there.
    Taken,
}

impl<K: Copy + Eq + Hash, V> Expiring<K, V> {
    pub(super) fn new(entries_max: usize, ttl: Duration) -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), ttl, entries_max }
    }

    pub(super) fn insert(&mut self, key: K, value: V, now: Moment) -> Result<(), NotInserted> {
        self.expire(now);
        if self.entries.len() >= self.entries_max {
            return Err(NotInserted::Full);
        }
        match self.entries.entry(key) {
            Entry::Occupied(_) => return Err(NotInserted::Taken),
            Entry::Vacant(vacant) => vacant.insert((now.after(self.ttl), value)),
        };
        self.order.push_back((now.after(self.ttl), key));
        // Fewer than half are alive: each entry pays for one weeding at most.
        if self.order.len() > 64 && self.order.len() > 2 * self.entries.len() {
            let entries = &self.entries;
            self.order.retain(|(at, key)| entries.get(key).is_some_and(|(own, _)| own == at));
        }
        Ok(())
    }

    /// Changes what is kept under a key, if it is there and has not expired.
    pub(super) fn get_mut(&mut self, key: &K, now: Moment) -> Option<&mut V> {
        self.entries.get_mut(key).filter(|(at, _)| *at > now).map(|(_, value)| value)
    }

    /// Takes an entry out, if it has not expired.
    pub(super) fn take(&mut self, key: &K, now: Moment) -> Option<V> {
        self.entries.remove(key).filter(|(at, _)| *at > now).map(|(_, value)| value)
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }

    fn expire(&mut self, now: Moment) {
        while let Some(&(at, key)) = self.order.front()
            && at <= now
        {
            self.order.pop_front();
            // The key may have been taken out and put in again since.
            if let Entry::Occupied(entry) = self.entries.entry(key)
                && entry.get().0 == at
            {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn entries_expire_and_make_room() {
        let mut table = Expiring::new(2, Duration::from_secs(60));
        assert_eq!(table.insert(1, "one", at(0)), Ok(()));
        assert_eq!(table.insert(1, "again", at(0)), Err(NotInserted::Taken));
        assert_eq!(table.insert(2, "two", at(10)), Ok(()));
        assert_eq!(table.insert(3, "three", at(59)), Err(NotInserted::Full));
        assert_eq!(table.insert(3, "three", at(60)), Ok(()));
        assert_eq!(table.take(&1, at(60)), None);
        assert_eq!(table.get_mut(&2, at(69)), Some(&mut "two"));
        assert_eq!(table.get_mut(&2, at(70)), None);
        assert_eq!(table.take(&3, at(61)), Some("three"));
        assert_eq!(table.take(&3, at(61)), None);
    }

    #[test]
    fn a_key_put_in_again_does_not_expire_with_its_first_life() {
        let mut table = Expiring::new(2, Duration::from_secs(60));
        assert_eq!(table.insert(1, "first", at(0)), Ok(()));
        assert_eq!(table.take(&1, at(1)), Some("first"));
        assert_eq!(table.insert(1, "second", at(30)), Ok(()));
        assert_eq!(table.insert(2, "other", at(61)), Ok(()));
        assert_eq!(table.take(&1, at(61)), Some("second"));
    }

    #[test]
    fn what_was_taken_out_does_not_pile_up() {
        let mut table = Expiring::new(4, Duration::from_secs(60));
        for key in 0..10_000 {
            assert_eq!(table.insert(key, (), at(0)), Ok(()));
            assert_eq!(table.take(&key, at(0)), Some(()));
        }
        assert!(table.order.len() <= 65, "{}", table.order.len());
    }
}
