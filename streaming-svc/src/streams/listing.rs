//! The streams as a list, for their owners and for admins.

use super::{Entry, State, Streams, lock};
use iceflix_core::api::{
    MediaId, Page, PageRequest, StreamHandle, StreamId, streaming::ListedStream,
};

impl Streams {
    /// The streams that have not ended, by handle: those of one user, or all.
    pub fn list(&self, of: Option<&str>, page: &PageRequest) -> Page<ListedStream> {
        // What is not a handle was not given out as the end of a page: it is before all others.
        let after: Option<StreamHandle> = page.after.as_ref().and_then(|end| end.parse().ok());
        let mut found: Vec<(StreamHandle, StreamId)> = self
            .inner
            .streams
            .iter()
            .filter(|stream| is_of(stream.value(), of))
            .map(|stream| (stream.key().handle(), *stream.key()))
            .filter(|(handle, _)| after.is_none_or(|after| *handle > after))
            .collect();
        found.sort_unstable();
        let size = page.size();
        let more = found.len() > size;
        found.truncate(size);
        let next = found.last().filter(|_| more);
        let next = next.map(|(handle, _)| handle.to_string());
        let listed = found.into_iter().filter_map(|(_, id)| self.listed(&id));
        Page {
            items: listed.collect(),
            next,
        }
    }

    /// The stream of that handle and its film, if it is this user's, or anyone's when none is named.
    pub fn listed_as(&self, handle: StreamHandle, of: Option<&str>) -> Option<(StreamId, MediaId)> {
        let mut streams = self.inner.streams.iter();
        let found =
            streams.find(|stream| stream.key().handle() == handle && is_of(stream.value(), of))?;
        Some((*found.key(), found.value().media))
    }

    fn listed(&self, id: &StreamId) -> Option<ListedStream> {
        let entry = self.entry(id)?;
        // Counted first: it takes the longest, and is not to be done under the lock.
        let players = self.inner.delivery.players(id);
        let held = lock(&entry.held);
        Some(ListedStream {
            handle: id.handle(),
            media: entry.media,
            user: held.identity.user.clone(),
            since: entry.since.as_secs(),
            until: entry.grant.map(|_| held.identity.expires.as_secs()),
            from: entry.asker.from.to_canonical(),
            any_host: entry.asker.any_host,
            players,
            grant: entry.grant,
        })
    }
}

fn is_of(entry: &Entry, user: Option<&str>) -> bool {
    let over = matches!(*entry.state.borrow(), State::Ended(_));
    !over && user.is_none_or(|user| lock(&entry.held).identity.user == user)
}
