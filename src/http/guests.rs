//! Who is connected. When all places are taken, a newcomer gets that of the connection which has kept us waiting for the
//! longest time: half-open heads and bodies, however many, keep nobody out (F44).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Instant;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::sync::Notify;

/// We are at work for this guest, or it was told to leave.
const NOT_WAITING: u64 = u64::MAX;

/// All connections.
pub struct Guests {
    most: usize,
    most_of_one: usize,
    born: Instant,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    next: u64,
    here: HashMap<u64, Arc<Guest>>,
    by_address: HashMap<IpAddr, usize>,
}

/// One connection.
pub struct Guest {
    number: u64,
    address: IpAddr,
    born: Instant,
    /// Since when the peer keeps us waiting for a head or a body, in milliseconds after `born` of all guests.
    waiting_since_ms: AtomicU64,
    leave: Notify,
}

impl Guests {
    /// Places for `most` connections, `most_of_one` from one address (0: no limit).
    pub fn new(most: usize, most_of_one: usize) -> Self {
        Guests { most, most_of_one, born: Instant::now(), list: Mutex::default() }
    }

    /// Lets a connection in; `None` when its address has too many, or when every place is at work.
    pub fn admit(&self, peer: SocketAddr) -> Option<Arc<Guest>> {
        let address = household(peer.ip());
        let mut list = self.lock();
        if self.most_of_one > 0 && list.by_address.get(&address).is_some_and(|n| *n >= self.most_of_one) {
            return None;
        }
        if list.here.len() >= self.most {
            let waiting = |g: &Guest| g.waiting_since_ms.load(Ordering::Relaxed);
            let longest = list.here.values().filter(|g| waiting(g) != NOT_WAITING).min_by_key(|g| waiting(g));
            let longest = Arc::clone(longest?);
            longest.leave.notify_one();
            list.remove(&longest);
        }
        let guest = Arc::new(Guest {
            number: list.next,
            address,
            born: self.born,
            waiting_since_ms: AtomicU64::new(0),
            leave: Notify::new(),
        });
        guest.is_waiting();
        list.next += 1;
        *list.by_address.entry(address).or_insert(0) += 1;
        list.here.insert(guest.number, Arc::clone(&guest));
        Some(guest)
    }

    /// Gives a guest's place back when the guard is dropped, however the connection ends.
    pub fn seat(self: &Arc<Self>, guest: &Arc<Guest>) -> Seat {
        Seat { guests: Arc::clone(self), guest: Arc::clone(guest) }
    }

    /// A connection ended.
    fn gone(&self, guest: &Guest) {
        self.lock().remove(guest);
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A guest's place.
pub struct Seat {
    guests: Arc<Guests>,
    guest: Arc<Guest>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.guests.gone(&self.guest);
    }
}

impl List {
    fn remove(&mut self, guest: &Guest) {
        if self.here.remove(&guest.number).is_none() {
            return;
        }
        if let Some(count) = self.by_address.get_mut(&guest.address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&guest.address);
            }
        }
    }
}

impl Guest {
    /// The peer is to send something.
    pub fn is_waiting(&self) {
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(NOT_WAITING - 1);
        self.waiting_since_ms.store(now, Ordering::Relaxed);
    }

    /// The peer has sent all of its request.
    pub fn is_served(&self) {
        self.waiting_since_ms.store(NOT_WAITING, Ordering::Relaxed);
    }

    /// Comes back when the place is wanted.
    pub async fn told_to_leave(&self) {
        self.leave.notified().await;
    }
}

/// A request's body that tells when it is all there.
pub struct Arriving {
    /// The body.
    pub body: Incoming,
    /// Who sends it.
    pub guest: Arc<Guest>,
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.guest.is_served();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whoever has one address of IPv6 has a whole network of 64 bits.
fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> SocketAddr {
        ([127, 0, 0, n], 1).into()
    }

    // F44
    #[test]
    fn a_newcomer_takes_the_place_of_who_keeps_us_waiting() {
        let guests = Guests::new(2, 0);
        let served = guests.admit(peer(1)).unwrap();
        served.is_served();
        let slow = guests.admit(peer(2)).unwrap();
        let third = guests.admit(peer(3)).unwrap();
        third.is_served();
        assert!(guests.admit(peer(4)).is_none(), "all are at work");
        guests.gone(&slow);
        guests.gone(&served);
        assert!(guests.admit(peer(4)).is_some());
        assert_eq!(guests.lock().here.len(), 2);
    }

    #[test]
    fn one_address_has_so_many_places() {
        let guests = Guests::new(10, 1);
        let one = guests.admit(peer(1)).unwrap();
        assert!(guests.admit(peer(1)).is_none());
        assert!(guests.admit(peer(2)).is_some());
        guests.gone(&one);
        assert!(guests.admit(peer(1)).is_some());
        let (a, b): (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "2001:db8::ffff:2".parse().unwrap());
        assert_eq!(household(a), household(b));
        assert_eq!(household("::ffff:127.0.0.1".parse().unwrap()), peer(1).ip());
    }
}
