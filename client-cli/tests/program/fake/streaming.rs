//! The streaming node's methods, as shortly as they can be told.

use super::Fake;
use client_cli::session::TOKEN_LIFE;
use iceflix_core::api::auth::{Grant, Token};
use iceflix_core::api::streaming::{
    EndReason, ListedStream, Stream, StreamError, StreamEvent, StreamStatus, Streaming,
};
use iceflix_core::api::{
    MediaId, Page, PageRequest, SessionId, StreamHandle, StreamId, TokenError,
};
use std::time::Duration;
use tarpc::context::Context;

impl Streaming for Fake {
    async fn is_available(self, _: Context, id: MediaId) -> bool {
        self.known(id).is_ok()
    }
    async fn get_stream(
        self,
        _: Context,
        token: Token,
        stream: StreamId,
        id: MediaId,
        any_host: bool,
    ) -> Result<Stream, StreamError> {
        self.user(&token)?;
        self.known(id).map_err(|_| StreamError::UnknownMedia)?;
        let late = {
            let mut state = self.state.lock().unwrap();
            state.streams.insert(stream, id);
            state.any_host = any_host;
            state.asked_for += 1;
            let late = state.late > 0;
            state.late = state.late.saturating_sub(1);
            late
        };
        if late {
            std::future::pending::<()>().await;
        }
        Ok(Stream {
            stream,
            url: format!("rtsp://127.0.0.1:1/{stream}"),
            expires_s: u32::try_from(TOKEN_LIFE.as_secs()).unwrap(),
        })
    }
    async fn reannounce_media(self, _: Context, _: Option<Token>) -> Result<(), StreamError> {
        Ok(())
    }
    async fn sdp(self, _: Context, token: Token, stream: StreamId) -> Result<String, StreamError> {
        self.user(&token)?;
        match self.state.lock().unwrap().streams.contains_key(&stream) {
            true => Ok("v=0\r\ns=film\r\n".into()),
            false => Err(StreamError::UnknownStream),
        }
    }
    async fn refresh_authentication(
        self,
        _: Context,
        token: Token,
        stream: StreamId,
    ) -> Result<(), StreamError> {
        self.user(&token)?;
        let mut state = self.state.lock().unwrap();
        if !state.streams.contains_key(&stream) {
            return Err(StreamError::UnknownStream);
        }
        state.renewals += 1;
        Ok(())
    }
    async fn stop(self, _: Context, token: Token, stream: StreamId) -> Result<(), StreamError> {
        self.user(&token)?;
        let mut state = self.state.lock().unwrap();
        state.streams.remove(&stream);
        state.stopped += 1;
        Ok(())
    }
    async fn status(
        self,
        _: Context,
        token: Token,
        stream: StreamId,
    ) -> Result<StreamStatus, StreamError> {
        self.user(&token)?;
        let state = self.state.lock().unwrap();
        let media = state.streams.get(&stream);
        Ok(StreamStatus {
            media: *media.ok_or(StreamError::UnknownStream)?,
            expires_s: 30,
            players: 0,
            position_ms: None,
        })
    }
    async fn next_event(
        self,
        context: Context,
        stream: StreamId,
    ) -> Result<StreamEvent, StreamError> {
        let until = tokio::time::Instant::now() + iceflix_core::rpc::patience(&context);
        while tokio::time::Instant::now() < until {
            {
                let mut state = self.state.lock().unwrap();
                if !state.streams.contains_key(&stream) {
                    return Ok(StreamEvent::Ended(EndReason::Stopped));
                }
                if let Some(event) = state.news.pop() {
                    return Ok(event);
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(StreamEvent::None)
    }
    async fn get_granted_stream(
        self,
        _: Context,
        grant: Grant,
        id: MediaId,
        any_host: bool,
    ) -> Result<Stream, StreamError> {
        let mut state = self.state.lock().unwrap();
        let granted: SessionId = grant.0.parse().map_err(|_| TokenError::Invalid)?;
        if !state.grants.contains_key(&granted) {
            return Err(TokenError::Revoked.into());
        }
        let stream = StreamId::random();
        state.streams.insert(stream, id);
        state.taken_up.insert(stream, granted);
        state.any_host = any_host;
        Ok(Stream {
            stream,
            url: format!("rtsp://127.0.0.1:1/{stream}"),
            expires_s: 3600,
        })
    }
    async fn streams(
        self,
        _: Context,
        token: Token,
        page: PageRequest,
    ) -> Result<Page<ListedStream>, StreamError> {
        let (user, _) = self.user(&token)?;
        let state = self.state.lock().unwrap();
        let mut listed: Vec<ListedStream> = state
            .streams
            .iter()
            .map(|(stream, media)| ListedStream {
                handle: stream.handle(),
                media: *media,
                user: user.clone(),
                since: 1,
                until: state.taken_up.contains_key(stream).then_some(2),
                from: [127, 0, 0, 1].into(),
                any_host: state.any_host,
                players: 0,
                grant: state.taken_up.get(stream).copied(),
            })
            .collect();
        listed.sort_by_key(|stream| stream.handle);
        let after = page.after.unwrap_or_default();
        let mut rest = listed
            .into_iter()
            .filter(|stream| stream.handle.to_string() > after);
        let items: Vec<ListedStream> = rest.by_ref().take(1).collect();
        let next = items.last().map(|stream| stream.handle.to_string());
        Ok(Page { items, next })
    }
    async fn stop_listed(
        self,
        _: Context,
        token: Token,
        handle: StreamHandle,
    ) -> Result<(), StreamError> {
        self.user(&token)?;
        let mut state = self.state.lock().unwrap();
        state.streams.retain(|stream, _| stream.handle() != handle);
        Ok(())
    }
}
