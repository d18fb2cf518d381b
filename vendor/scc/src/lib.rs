//! What zeromq calls of the crate of this name.
//!
//! The crate's own table hands a lock to the task that waits for it, which need not run soon: where a client of a socket
//! leaves as another comes, zeromq 0.7.0 then waits for that lock on the very thread that is to run the task next, and
//! the socket is dead. Here a lock is never handed over. Whoever holds an entry has taken the value out of the table and
//! puts it back; a task that finds none asks again when it is next run.

use std::hash::Hash;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

/// None while somebody holds it.
type Slot<V> = Arc<Mutex<Option<V>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct HashMap<K, V>(Mutex<std::collections::HashMap<K, Slot<V>>>);

impl<K, V> Default for HashMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> HashMap<K, V> {
    pub fn new() -> Self {
        Self(Mutex::new(std::collections::HashMap::new()))
    }

    pub fn len(&self) -> usize {
        lock(&self.0).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn clear_sync(&self) {
        lock(&self.0).clear();
    }
}

impl<K: Clone + Eq + Hash, V> HashMap<K, V> {
    /// Whether there was one before.
    pub async fn upsert_async(&self, key: K, value: V) -> Option<()> {
        lock(&self.0).insert(key, Arc::new(Mutex::new(Some(value)))).map(drop)
    }

    /// Whether there was one. Who holds it keeps it for so long.
    pub fn remove_sync(&self, key: &K) -> Option<()> {
        lock(&self.0).remove(key).map(drop)
    }

    pub async fn get_async(&self, key: &K) -> Option<OccupiedEntry<K, V>> {
        let slot = lock(&self.0).get(key)?.clone();
        Some(held(key.clone(), slot, Vec::new()).await)
    }

    /// Waits for who holds it. What zeromq asks for so is never held by a task that waits.
    pub fn get_sync(&self, key: &K) -> Option<OccupiedEntry<K, V>> {
        let slot = lock(&self.0).get(key)?.clone();
        loop {
            if let Some(entry) = take(key, &slot) {
                return Some(entry);
            }
            std::thread::yield_now();
        }
    }

    /// One that nobody holds.
    pub fn begin_sync(&self) -> Option<OccupiedEntry<K, V>> {
        lock(&self.0).iter().find_map(|(key, slot)| take(key, slot))
    }

    /// The first of those that are there now.
    pub async fn begin_async(&self) -> Option<OccupiedEntry<K, V>> {
        let mut all: Vec<_> = lock(&self.0).iter().map(|(key, slot)| (key.clone(), slot.clone())).collect();
        let (key, slot) = all.pop()?;
        Some(held(key, slot, all).await)
    }
}

/// The value of a key, away from the table until it is dropped.
pub struct OccupiedEntry<K, V> {
    key: K,
    value: Option<V>,
    slot: Slot<V>,
    rest: Vec<(K, Slot<V>)>,
}

fn take<K: Clone, V>(key: &K, slot: &Slot<V>) -> Option<OccupiedEntry<K, V>> {
    let value = lock(slot).take()?;
    Some(OccupiedEntry { key: key.clone(), value: Some(value), slot: slot.clone(), rest: Vec::new() })
}

async fn held<K: Clone, V>(key: K, slot: Slot<V>, rest: Vec<(K, Slot<V>)>) -> OccupiedEntry<K, V> {
    std::future::poll_fn(|context| match take(&key, &slot) {
        Some(entry) => Poll::Ready(entry),
        None => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await
    .before(rest)
}

impl<K: Clone, V> OccupiedEntry<K, V> {
    fn before(mut self, rest: Vec<(K, Slot<V>)>) -> Self {
        self.rest = rest;
        self
    }

    pub fn key(&self) -> &K {
        &self.key
    }

    pub async fn next_async(mut self) -> Option<Self> {
        let mut rest = std::mem::take(&mut self.rest);
        drop(self);
        let (key, slot) = rest.pop()?;
        Some(held(key, slot, rest).await)
    }
}

impl<K, V> Deref for OccupiedEntry<K, V> {
    type Target = V;

    fn deref(&self) -> &V {
        self.value.as_ref().expect("it is put back when this is dropped")
    }
}

impl<K, V> DerefMut for OccupiedEntry<K, V> {
    fn deref_mut(&mut self) -> &mut V {
        self.value.as_mut().expect("it is put back when this is dropped")
    }
}

impl<K, V> Drop for OccupiedEntry<K, V> {
    fn drop(&mut self) {
        *lock(&self.slot) = self.value.take();
    }
}
