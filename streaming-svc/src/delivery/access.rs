//! Who may fetch which stream: what is not let in is answered as if there were no such stream.

use iceflix_core::api::StreamId;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

/// From where a stream may be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// From anywhere: who has the URL can watch.
    Anyone,
    /// From one address.
    Only(IpAddr),
}

impl Access {
    /// For players at this address; with `any_host` for players at any.
    pub fn to(address: IpAddr, any_host: bool) -> Self {
        match any_host {
            true => Access::Anyone,
            false => Access::Only(address),
        }
    }

    /// Whether a player at this address is let in. An IPv4 address is the same when it comes mapped
    /// into IPv6, as it does to a socket that takes both.
    pub fn allows(self, address: IpAddr) -> bool {
        match self {
            Access::Anyone => true,
            Access::Only(owner) => owner.to_canonical() == address.to_canonical(),
        }
    }
}

/// The streams that are mounted, and who is let in. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Doors(Arc<RwLock<HashMap<StreamId, Access>>>);

impl Doors {
    /// Lets those in who may.
    pub(super) fn open(&self, stream: StreamId, access: Access) {
        let mut doors = self.0.write().unwrap_or_else(PoisonError::into_inner);
        doors.insert(stream, access);
    }

    /// Lets nobody in any more.
    pub(super) fn close(&self, stream: &StreamId) {
        let mut doors = self.0.write().unwrap_or_else(PoisonError::into_inner);
        doors.remove(stream);
    }

    /// Whether there is such a stream, for a player at this address.
    pub(super) fn is_open(&self, stream: &StreamId, to: Option<IpAddr>) -> bool {
        let doors = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match (doors.get(stream), to) {
            (Some(access), Some(to)) => access.allows(to),
            // Whose address is not known is let in where everyone is.
            (Some(access), None) => *access == Access::Anyone,
            (None, _) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    proptest! {
        #[test]
        fn only_the_owners_address_opens_a_bound_stream(
            owner in any::<IpAddr>(), other in any::<IpAddr>(), same in any::<bool>()
        ) {
            let other = if same { owner } else { other };
            let bound = Access::to(owner, false);
            prop_assert_eq!(bound.allows(other), owner.to_canonical() == other.to_canonical());
            prop_assert!(Access::to(owner, true).allows(other));
        }

        #[test]
        fn a_mapped_address_is_the_one_it_stands_for(owner in any::<Ipv4Addr>(), other in any::<Ipv4Addr>()) {
            let mapped = IpAddr::V6(other.to_ipv6_mapped());
            prop_assert_eq!(Access::Only(owner.into()).allows(mapped), owner == other);
            let mapped = IpAddr::V6(owner.to_ipv6_mapped());
            prop_assert_eq!(Access::Only(mapped).allows(other.into()), owner == other);
        }
    }

    #[test]
    fn a_door_that_was_never_opened_or_closed_again_lets_nobody_in() {
        let (doors, stream) = (Doors::default(), StreamId::random());
        let somebody = Some(IpAddr::from([127, 0, 0, 1]));
        assert!(!doors.is_open(&stream, somebody));
        doors.open(stream, Access::Anyone);
        assert!(doors.is_open(&stream, somebody) && doors.is_open(&stream, None));
        doors.open(stream, Access::Only(IpAddr::from([127, 0, 0, 2])));
        assert!(!doors.is_open(&stream, somebody) && !doors.is_open(&stream, None));
        doors.close(&stream);
        assert!(!doors.is_open(&stream, Some(IpAddr::from([127, 0, 0, 2]))));
    }
}
