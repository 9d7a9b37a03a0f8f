//! Follows each upstream: asks its peers whether they are well, and notes whose time out is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::header;
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::conversation::{Conversation, Event};
use crate::standing::Probe;
use crate::upstream::{Peer, Upstream};

/// How often edge looks who has come and gone, and whose time out is over.
const LOOK: Duration = Duration::from_millis(100);

/// The upstreams that are watched, each by where it lies in memory: it stays there while it is
/// held.
#[derive(Default)]
pub(crate) struct Watches(HashMap<usize, Watched>);

/// One of them; the watching ends with it.
struct Watched {
    upstream: Arc<Upstream>,
    task: AbortHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watches {
    /// From now on these upstreams are watched and no others. Who was watched before and still is
    /// notices nothing.
    pub(crate) fn follow(&mut self, upstreams: &[Arc<Upstream>]) {
        let place = |upstream: &Arc<Upstream>| Arc::as_ptr(upstream).addr();
        self.0.retain(|_, watched| {
            let stays = upstreams
                .iter()
                .any(|new| place(new) == place(&watched.upstream));
            if !stays {
                let new = upstreams
                    .iter()
                    .find(|new| new.name == watched.upstream.name);
                watched.upstream.leave(new);
            }
            stays
        });
        for upstream in upstreams {
            self.0.entry(place(upstream)).or_insert_with(|| Watched {
                upstream: upstream.clone(),
                task: tokio::spawn(watch(upstream.clone())).abort_handle(),
            });
        }
    }
}

/// Finds the peers of all upstreams that are names nobody has looked up yet.
pub(crate) async fn find_peers(upstreams: &[Arc<Upstream>]) {
    let mut finding = JoinSet::new();
    for upstream in upstreams {
        let upstream = upstream.clone();
        finding.spawn(async move { upstream.find_peers().await });
    }
    while finding.join_next().await.is_some() {}
}

/// Watches one upstream for as long as it is there.
async fn watch(upstream: Arc<Upstream>) {
    tokio::select! {
        () = upstream.follow_names() => {}
        () = look_after(&upstream) => {}
    }
}

async fn look_after(upstream: &Arc<Upstream>) {
    let mut asking = Asking::new();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        upstream.tick();
        if upstream.config.health.is_some() {
            asking.follow(upstream);
        }
    }
}

/// The peers that are asked.
struct Asking {
    /// Gives nothing back to its pool: each question has a connection of its own.
    connector: Arc<Connector>,
    tasks: JoinSet<()>,
    peers: Vec<(Arc<Peer>, AbortHandle)>,
}

impl Asking {
    fn new() -> Self {
        Self {
            connector: Arc::new(Connector::new(None)),
            tasks: JoinSet::new(),
            peers: Vec::new(),
        }
    }

    /// From now on the upstream's peers are asked and no others.
    fn follow(&mut self, upstream: &Arc<Upstream>) {
        let members = upstream.members();
        let stays = |peer: &Arc<Peer>| members.peers.iter().any(|new| Arc::ptr_eq(new, peer));
        self.peers.retain(|(peer, task)| {
            let stays = stays(peer);
            if !stays {
                task.abort();
            }
            stays
        });
        for peer in &members.peers {
            if !self.peers.iter().any(|(known, _)| Arc::ptr_eq(known, peer)) {
                let asking = ask_for_ever(upstream.clone(), peer.clone(), self.connector.clone());
                self.peers.push((peer.clone(), self.tasks.spawn(asking)));
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

async fn ask_for_ever(upstream: Arc<Upstream>, peer: Arc<Peer>, connector: Arc<Connector>) {
    let Some(probe) = &upstream.config.health else {
        return;
    };
    let mut tick = interval(probe.every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let answer = timeout(probe.timeout, ask(&connector, &peer, probe)).await;
        let why = answer.unwrap_or(Err("no answer in time")).err();
        if let Some(news) = peer.probed(why.is_none(), probe) {
            upstream.tell(&peer, &news, why);
        }
    }
}

/// A peer is well if it answers with a status that is expected.
async fn ask(connector: &Connector, peer: &Peer, probe: &Probe) -> Result<(), &'static str> {
    let connected = connector.get_http_session(&peer.http).await;
    let (session, _) = connected.map_err(|_| "no connection")?;
    let wrong = |_| "the question cannot be written";
    let path = probe.path.as_bytes();
    let mut request = Box::new(RequestHeader::build("GET", path, Some(3)).map_err(wrong)?);
    for (name, value) in [
        (header::HOST, peer.host.as_str()),
        (header::USER_AGENT, "edge-health"),
    ] {
        request.insert_header(name, value).map_err(wrong)?;
    }
    let secure = peer.http.is_tls();
    let begun = Conversation::begin(session, request, secure, true).await;
    let mut conversation = begun.map_err(|_| "the connection broke")?;
    loop {
        match conversation.hear().await {
            Ok(Event::Head(head)) => {
                let status = head.status.as_u16();
                let expected = probe.expect.iter().any(|range| range.contains(&status));
                return expected.then_some(()).ok_or("the status is not expected");
            }
            Ok(Event::Interim(_)) => {}
            _ => return Err("no valid answer"),
        }
    }
}
