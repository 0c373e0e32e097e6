//! The channel as a ledger: the port, on the mirror, the gateways and the peers.
//!
//! Reading is the mirror's, so it goes on when nobody answers. A request is kept in the mirror, goes with others of its lane
//! ([`crate::lanes`]) into a transaction, and is answered when the mirror has taken the transaction's block. What is not
//! known is tried again by the phase that it is in; the identical request again is always safe, for the contract answers
//! where it was decided. An entry's proof is made when it is asked for: the block from a peer, and a word on its validity
//! from a peer of each organisation that the trust roots name. Tests: `tests/port.rs`, `tests/fabric.rs`.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fabric::{
    gateway::{Call, EndorseError, Endorsed, Retry},
    proof::{TransactionProof, Validity},
};
use futures::future::{join_all, select_ok};
use ledger::{Committed, Extension, Ledger, LedgerError, MAX_PAGE};
use ledger_contract::{
    channel::ChannelProof,
    contract::Request,
    evidence::{InclusionProof, ProvenEntry},
    records::Entry,
    state::{IntentRecord, decode, intent_key},
    transaction::{Answer, COLLECTION, Decided, REQUESTS},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
    time::timeout,
};
use trust::{Digest, Envelope, identity::ChannelRoot, note::NoteSigner};

use crate::{
    follow::{FollowError, Follower},
    gateway::{Member, Options},
    lanes::{Lanes, Weighs},
    mirror::{Kept, Mirror, MirrorError},
    peer::Peer,
    pool::{Limits, Pool, TransactError},
    tls::OpenError,
};

/// Most requests that wait for their transaction; the next submitter waits for a place.
const MAX_QUEUE: usize = 1024;
/// How long a request is tried: through a Raft election and a peer's restart.
const LIMITS: Limits =
    Limits { total: Duration::from_secs(60), resend: Duration::from_secs(10), proposals: 50 };
/// Longest that the mirror may be behind a gateway.
const COMMIT: Duration = Duration::from_secs(30);
/// Pause after no peer gave blocks.
const PAUSE: Duration = Duration::from_millis(500);
/// A peer that gives no block for so long is held against the others: it may have lost the orderers.
const IDLE: Duration = Duration::from_secs(10);
/// Status with which the contract refuses a transaction whose time is not its own.
const CLOCKS_DIFFER: i32 = 409;
/// Lane of what is of no tenant.
const COMMON: &str = "";

/// A peer of the channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its organisation.
    pub msp_id: String,
    /// Where it is.
    pub options: Options,
}

/// How a channel is reached, and who we are on it.
pub struct ChannelOptions<'a> {
    /// Where the trust in it begins.
    pub root: ChannelRoot,
    /// Our organisation.
    pub msp_id: String,
    /// Us.
    pub member: Member,
    /// Peers: of our organisation to transact through and to read from, and one of each other organisation whose word on
    /// validity the trust roots ask for.
    pub nodes: Vec<Node>,
    /// The private data collection that keeps requests for the other organisations; absent: they see digests.
    pub collection: Option<String>,
    /// Key of the mirror's checkpoints.
    pub log: NoteSigner,
    /// Where the mirror is.
    pub dir: &'a Path,
}

/// Why a channel cannot be used as a ledger.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// A peer's options.
    #[error("peer {address}: {source}")]
    Node {
        /// Which.
        address: String,
        /// Why.
        source: OpenError,
    },
    /// Nobody to transact through.
    #[error("no peer is of our organisation `{0}`: name one")]
    NoGateway(String),
    /// The mirror.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// The trust roots or what the mirror has of the channel.
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// The mirror's key is another ledger's.
    #[error(
        "the log key is of `{found}`, the channel is `{channel}`: a ledger on a channel has the channel's name"
    )]
    Name {
        /// The key's name.
        found: String,
        /// The channel.
        channel: String,
    },
}

/// How far the mirror is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Progress {
    next: u64,
    last_event: Option<u64>,
    /// Why no peer gives blocks, when none does.
    down: Option<String>,
}

/// A channel as a ledger. Dropping it ends what it follows.
pub struct FabricLedger {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
    tasks: [AbortHandle; 2],
}

impl Drop for FabricLedger {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

struct Shared {
    name: String,
    root: ChannelRoot,
    /// Number of the pinned configuration block.
    pinned: u64,
    collection: Option<String>,
    log: NoteSigner,
    mirror: Arc<Mirror>,
    follower: Follower,
    pool: Pool,
    nodes: Vec<Known>,
    progress: watch::Sender<Progress>,
}

/// A peer that is asked for blocks and for its word.
struct Known {
    of: String,
    address: String,
    peer: Peer,
}

/// A request that waits.
struct Job {
    lane: String,
    bytes: usize,
    request: Envelope,
    reply: oneshot::Sender<Result<Decided, LedgerError>>,
}

impl Weighs for Job {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl FabricLedger {
    /// Opens the mirror and begins to follow the channel; nobody has to answer yet. Within a Tokio runtime.
    pub fn open(options: ChannelOptions<'_>) -> Result<Self, ChannelError> {
        let ChannelOptions { root, msp_id, member, nodes, collection, log, dir } = options;
        let channel = Follower::pinned(&root)?;
        let (name, pinned) = (channel.name().to_owned(), channel.number());
        if !nodes.iter().any(|node| node.msp_id == msp_id) {
            return Err(ChannelError::NoGateway(msp_id));
        }
        let mut peers = Vec::new();
        for node in &nodes {
            let (address, of) = (node.options.address.clone(), node.msp_id.clone());
            let opened = Peer::open(&node.options, &name, member.clone());
            let peer = opened.map_err(|source| ChannelError::Node { address: address.clone(), source })?;
            peers.push(Known { of, address, peer });
        }
        // Blocks are read from our own organisation's peers first.
        peers.sort_by_key(|known| known.of != msp_id);
        let ours = nodes.iter().filter(|node| node.msp_id == msp_id);
        let ours: Vec<Options> = ours.map(|node| node.options.clone()).collect();
        let address = ours.iter().map(|o| o.address.as_str()).collect::<Vec<_>>().join(", ");
        let pool =
            Pool::open(&ours, &member, LIMITS).map_err(|source| ChannelError::Node { address, source })?;
        let key = log.verifier().name().to_owned();
        if key != name {
            return Err(ChannelError::Name { found: key, channel: name });
        }
        let mirror = Arc::new(Mirror::open(dir, &name)?);
        let follower = Follower::open(root.clone(), Arc::clone(&mirror))?;
        let progress = Progress { next: mirror.at().next, last_event: mirror.last_event()?, down: None };
        let shared = Arc::new(Shared {
            name,
            root,
            pinned,
            collection,
            log,
            mirror,
            follower,
            pool,
            nodes: peers,
            progress: watch::Sender::new(progress),
        });
        let (jobs, queue) = mpsc::channel(MAX_QUEUE);
        let following = tokio::spawn(Arc::clone(&shared).follow());
        let transacting = tokio::spawn(transact(Arc::clone(&shared), queue));
        let tasks = [following.abort_handle(), transacting.abort_handle()];
        Ok(Self { shared, jobs, tasks })
    }

    /// Waits until the mirror has taken the block that the channel ends with now.
    pub async fn caught_up(&self) -> Result<(), LedgerError> {
        let height = self.shared.height().await?;
        let mut progress = self.shared.progress.subscribe();
        let reached = progress.wait_for(|p| p.next >= height || p.down.is_some()).await;
        let down = reached.ok().and_then(|p| p.down.clone());
        down.map_or(Ok(()), |problem| Err(self.shared.unavailable(problem)))
    }
}

impl Shared {
    fn unavailable(&self, problem: impl Into<String>) -> LedgerError {
        LedgerError::Unavailable { ledger: self.name.clone(), problem: problem.into() }
    }

    /// Follows the channel for ever, from one peer or the next.
    async fn follow(self: Arc<Self>) {
        loop {
            let mut problems = Vec::new();
            for Known { address, peer, .. } in &self.nodes {
                problems.push(format!("{address}: {}", self.stream(peer).await));
                tracing::warn!(ledger = self.name, problem = problems.last(), "the stream of blocks ended");
            }
            self.progress.send_modify(|p| p.down = Some(problems.join("; ")));
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Takes a peer's blocks until it gives no more; why.
    async fn stream(&self, peer: &Peer) -> String {
        let mut blocks = match peer.blocks(self.mirror.at().next).await {
            Ok(blocks) => blocks,
            Err(e) => return e.to_string(),
        };
        loop {
            let block = match timeout(IDLE, blocks.next()).await {
                Ok(Ok(block)) => block,
                Ok(Err(e)) => return e.to_string(),
                Err(_) => match self.height().await {
                    Ok(height) if height <= self.mirror.at().next => continue,
                    Ok(height) => return format!("it gives no blocks, and the channel has {height}"),
                    Err(e) => return e.to_string(),
                },
            };
            match self.follower.take(&block) {
                Ok(()) => self.taken(),
                Err(e) => return e.to_string(),
            }
        }
    }

    /// Tells who waits.
    fn taken(&self) {
        let last_event = self.mirror.last_event();
        self.progress.send_modify(|p| {
            p.next = self.mirror.at().next;
            p.down = None;
            if let Ok(last) = last_event {
                p.last_event = last;
            }
        });
    }

    /// How many blocks the channel has, by the first peer that answers.
    async fn height(&self) -> Result<u64, LedgerError> {
        let asked = self.nodes.iter().map(|known| Box::pin(known.peer.newest()));
        let newest = select_ok(asked).await.map_err(|e| self.unavailable(e.to_string()))?.0;
        Ok(newest.header.map_or(0, |h| h.number.saturating_add(1)))
    }

    /// A transaction with what proves it.
    async fn transaction(&self, block: u64, tx_id: &str) -> Result<TransactionProof, LedgerError> {
        let asked = self.nodes.iter().map(|known| Box::pin(known.peer.block(block)));
        let (found, validity) = tokio::join!(select_ok(asked), self.validity(tx_id));
        let (found, _) = found.map_err(|e| self.unavailable(format!("block {block}: {e}")))?;
        TransactionProof::of(&found, tx_id, validity?)
            .map_err(|e| self.unavailable(format!("block {block} has another transaction {tx_id}: {e}")))
    }

    /// Organisations that must have endorsed, and say that it is valid.
    fn endorsers(&self) -> Vec<String> {
        match self.root.endorsers.is_empty() {
            true => self.follower.channel().organisations().map(str::to_owned).collect(),
            false => self.root.endorsers.iter().cloned().collect(),
        }
    }

    /// The word of a peer of each organisation.
    async fn validity(&self, tx_id: &str) -> Result<Vec<Validity>, LedgerError> {
        let asked = self.endorsers().into_iter().map(|org| async move {
            let peers = self.nodes.iter().filter(|known| known.of == org);
            let asked: Vec<_> = peers.map(|known| Box::pin(known.peer.validity(tx_id))).collect();
            if asked.is_empty() {
                let problem =
                    format!("no peer of organisation `{org}` is named, whose word the trust roots ask for");
                return Err(self.unavailable(problem));
            }
            let answered = select_ok(asked).await;
            answered.map(|(v, _)| v).map_err(|e| self.unavailable(format!("organisation `{org}`: {e}")))
        });
        join_all(asked).await.into_iter().collect()
    }

    /// An entry with its proof.
    fn prove(&self, kept: &Kept, transaction: TransactionProof) -> Result<(Entry, ProvenEntry), LedgerError> {
        let entry = kept.open().ok_or(LedgerError::Elsewhere { position: kept.number })?;
        let (path, checkpoint) = self.mirror.tree(|tree| {
            let size = tree.size();
            (tree.inclusion(kept.number, size), self.log.sign_checkpoint(size, tree.root()))
        });
        let path = path.ok_or(LedgerError::Range { asked: kept.number, size: self.mirror.size() })?;
        let checkpoint = checkpoint.map_err(LedgerError::Key)?;
        let since = self.mirror.configuration(self.pinned, kept.block).map_err(|e| mirror(&e))?;
        let channel = ChannelProof {
            decided: kept.decided,
            configuration: since.iter().map(|block| STANDARD.encode(block)).collect(),
            transaction,
        };
        // JSON is UTF-8.
        let text = String::from_utf8(entry.to_bytes()).unwrap_or_default();
        let proof = InclusionProof { index: kept.number, path, checkpoint };
        Ok((entry, ProvenEntry { entry: text, proof, channel: Some(Box::new(channel)) }))
    }

    async fn proven(&self, kept: &Kept) -> Result<(Entry, ProvenEntry), LedgerError> {
        self.prove(kept, self.transaction(kept.block, &kept.tx_id).await?)
    }

    /// The entry that decided a request, once the mirror has it.
    async fn committed(&self, digest: &Digest) -> Result<Committed, LedgerError> {
        let mut progress = self.progress.subscribe();
        let found = timeout(COMMIT, async {
            loop {
                progress.mark_unchanged();
                if let Some(kept) = self.mirror.decided(digest).map_err(|e| mirror(&e))? {
                    return Ok(kept);
                }
                if progress.changed().await.is_err() {
                    return Err(self.unavailable("it is closed"));
                }
            }
        });
        let kept = found.await.unwrap_or_else(|_| {
            Err(self.unavailable("the request was decided, and its block has not come; submit it again"))
        })?;
        let (entry, proven) = self.proven(&kept).await?;
        Ok(Committed { entry, proven })
    }

    /// The lane of a request: its tenant's.
    fn lane(&self, request: &Request) -> String {
        let of_intent = |id: &str| {
            let key = intent_key(id);
            let value = self.mirror.state(&key).ok().flatten()?;
            decode::<IntentRecord>(&key, &value).ok().map(|record| record.tenant)
        };
        match request {
            Request::Intent(intent) => intent.tenant.clone(),
            Request::Standing(grant) => grant.tenant.clone(),
            Request::Anchor(anchor) => of_intent(&anchor.intent_id).unwrap_or_else(|| COMMON.to_owned()),
            _ => COMMON.to_owned(),
        }
    }

    /// Has a batch decided; what became of each.
    async fn decide(&self, requests: &[&Envelope]) -> Result<Vec<Decided>, LedgerError> {
        // Records always encode.
        let json = serde_json::to_vec(requests).unwrap_or_default();
        let kept = self.collection.iter().map(|name| (COLLECTION.to_owned(), name.clone().into_bytes()));
        let call = Call {
            channel: self.name.clone(),
            chaincode: self.root.chaincode.clone(),
            args: vec![b"submit".to_vec()],
            transient: std::iter::once((REQUESTS.to_owned(), json)).chain(kept).collect(),
            organizations: self.endorsers(),
        };
        let refused = |problem: String| LedgerError::Refused { ledger: self.name.clone(), problem };
        // What made no entry wrote nothing: a stranger must not make the channel grow.
        let transacted = self.pool.transact_if(&call, &|endorsed| made_entry(&answer(endorsed))).await;
        let endorsed = match transacted {
            Ok(transacted) => transacted.endorsed,
            Err(TransactError::Unwanted { endorsed }) => *endorsed,
            Err(e) if e.retry() == Retry::Never && !clocks_differ(&e) => return Err(refused(e.to_string())),
            // Proposed again, it is decided once all the same: the contract has a record of each request.
            Err(e) => return Err(self.unavailable(format!("{e}; submit it again"))),
        };
        let answer =
            answer(&endorsed).map_err(|e| refused(format!("the chaincode answers something else: {e}")))?;
        match answer.decided.len() == requests.len() {
            true => Ok(answer.decided),
            false => {
                Err(refused(format!("of {} requests it decided {}", requests.len(), answer.decided.len())))
            }
        }
    }
}

/// Does the contract refuse for the time alone, which may be right soon?
fn clocks_differ(error: &TransactError) -> bool {
    match error {
        TransactError::NotEndorsed { source: EndorseError::Refused(refusal), .. } => {
            refusal.chaincode_status() == Some(CLOCKS_DIFFER)
        }
        _ => false,
    }
}

fn answer(endorsed: &Endorsed) -> Result<Answer, serde_json::Error> {
    serde_json::from_slice(&endorsed.response().payload)
}

fn made_entry(answer: &Result<Answer, serde_json::Error>) -> bool {
    let decided = answer.iter().flat_map(|a| &a.decided);
    decided.into_iter().any(|d| matches!(d, Decided::Entry { .. }))
}

fn mirror(error: &MirrorError) -> LedgerError {
    LedgerError::State { problem: error.to_string() }
}

/// Has requests decided until nobody submits any more.
async fn transact(shared: Arc<Shared>, mut queue: mpsc::Receiver<Job>) {
    let mut lanes = Lanes::default();
    let (over, mut overs) = mpsc::unbounded_channel::<String>();
    loop {
        tokio::select! {
            job = queue.recv() => match job {
                Some(job) => lanes.push(job.lane.clone(), job),
                None => return,
            },
            // The sender is ours.
            Some(lane) = overs.recv() => lanes.done(&lane),
        }
        while let Ok(job) = queue.try_recv() {
            lanes.push(job.lane.clone(), job);
        }
        while let Some((lane, jobs)) = lanes.next() {
            let (shared, over) = (Arc::clone(&shared), over.clone());
            tokio::spawn(async move {
                shared.answer(jobs).await;
                // Who is gone asks no more.
                let _ = over.send(lane);
            });
        }
    }
}

impl Shared {
    async fn answer(&self, jobs: Vec<Job>) {
        let requests: Vec<&Envelope> = jobs.iter().map(|job| &job.request).collect();
        match self.decide(&requests).await {
            Ok(decided) => {
                for (job, decided) in jobs.into_iter().zip(decided) {
                    let _ = job.reply.send(Ok(decided));
                }
            }
            Err(error) => {
                // Each is told the same.
                for job in jobs {
                    let told = match &error {
                        LedgerError::Refused { ledger, problem } => {
                            LedgerError::Refused { ledger: ledger.clone(), problem: problem.clone() }
                        }
                        other => self.unavailable(other.to_string()),
                    };
                    let _ = job.reply.send(Err(told));
                }
            }
        }
    }
}

#[async_trait]
impl Ledger for FabricLedger {
    fn name(&self) -> &str {
        &self.shared.name
    }

    async fn submit(&self, request: Envelope) -> Result<Committed, LedgerError> {
        let it = &self.shared;
        let parsed = Request::parse(&request).map_err(LedgerError::Malformed)?;
        let digest = request.digest();
        if let Some(kept) = it.mirror.decided(&digest).map_err(|e| mirror(&e))? {
            if kept.request.is_none() {
                it.mirror.keep(&digest, &request).map_err(|e| mirror(&e))?;
            }
            return it.committed(&digest).await;
        }
        // Whatever were decided, nobody could tell.
        if let Some(problem) = it.progress.borrow().down.clone() {
            return Err(it.unavailable(problem));
        }
        let closed = || it.unavailable("it is closed");
        let place = self.jobs.reserve().await.map_err(|_| closed())?;
        // Before it is submitted: who knows the digest alone cannot read what was decided.
        it.mirror.keep(&digest, &request).map_err(|e| mirror(&e))?;
        let (reply, answer) = oneshot::channel();
        let bytes = request.payload.len().saturating_mul(2);
        place.send(Job { lane: it.lane(&parsed), bytes, request, reply });
        match answer.await.map_err(|_| closed())?? {
            Decided::Entry { .. } | Decided::Before { .. } => it.committed(&digest).await,
            Decided::Malformed { problem } => {
                it.mirror.forget(&digest).map_err(|e| mirror(&e))?;
                Err(LedgerError::Refused { ledger: it.name.clone(), problem })
            }
            Decided::Unauthenticated { verdict } => {
                it.mirror.forget(&digest).map_err(|e| mirror(&e))?;
                Err(LedgerError::Unauthenticated { verdict: Box::new(verdict) })
            }
        }
    }

    async fn events(&self, after: Option<u64>, limit: usize) -> Result<Vec<ProvenEntry>, LedgerError> {
        let from = after.map_or(0, |a| a.saturating_add(1));
        let found = self.shared.mirror.entries(from, limit.min(MAX_PAGE), true).map_err(|e| mirror(&e))?;
        let mut proofs: HashMap<&str, TransactionProof> = HashMap::new();
        let mut out = Vec::with_capacity(found.len());
        for kept in &found {
            let known = proofs.get(kept.tx_id.as_str()).cloned();
            let transaction = match known {
                Some(transaction) => transaction,
                None => {
                    let made = self.shared.transaction(kept.block, &kept.tx_id).await?;
                    proofs.entry(&kept.tx_id).or_insert(made).clone()
                }
            };
            out.push(self.shared.prove(kept, transaction)?.1);
        }
        Ok(out)
    }

    async fn wait(&self, after: Option<u64>) -> Result<(), LedgerError> {
        let mut progress = self.shared.progress.subscribe();
        let reached = progress.wait_for(|p| p.down.is_some() || p.last_event > after).await;
        match reached.ok().map(|p| p.down.clone()) {
            Some(None) => Ok(()),
            Some(Some(problem)) => Err(self.shared.unavailable(problem)),
            None => Err(self.shared.unavailable("it is closed")),
        }
    }

    async fn entry(&self, position: u64) -> Result<Option<ProvenEntry>, LedgerError> {
        match self.shared.mirror.entry(position).map_err(|e| mirror(&e))? {
            Some(kept) => Ok(Some(self.shared.proven(&kept).await?.1)),
            None => Ok(None),
        }
    }

    async fn range(&self, from: u64, limit: usize) -> Result<Vec<String>, LedgerError> {
        let found = self.shared.mirror.entries(from, limit.min(MAX_PAGE), false).map_err(|e| mirror(&e))?;
        // JSON is UTF-8. What cannot be opened is shown as it is in the channel.
        let text = |kept: &Kept| kept.open().map_or_else(|| kept.sealed.to_bytes(), |entry| entry.to_bytes());
        Ok(found.iter().map(|kept| String::from_utf8(text(kept)).unwrap_or_default()).collect())
    }

    async fn head(&self) -> Result<String, LedgerError> {
        let it = &self.shared;
        it.mirror.tree(|tree| it.log.sign_checkpoint(tree.size(), tree.root())).map_err(LedgerError::Key)
    }

    async fn extension(&self, old_size: u64) -> Result<Extension, LedgerError> {
        let it = &self.shared;
        // A mirror that is made again is behind, which is not to be shorter.
        if old_size > it.mirror.size() {
            self.caught_up().await?;
        }
        let (checkpoint, proof, size) = it.mirror.tree(|tree| {
            let size = tree.size();
            (it.log.sign_checkpoint(size, tree.root()), tree.consistency(old_size, size), size)
        });
        let proof = proof.ok_or(LedgerError::Range { asked: old_size, size })?;
        Ok(Extension { checkpoint: checkpoint.map_err(LedgerError::Key)?, proof })
    }

    async fn consistency(&self, old_size: u64) -> Result<Vec<Digest>, LedgerError> {
        let proof = self.shared.mirror.tree(|tree| (tree.consistency(old_size, tree.size()), tree.size()));
        proof.0.ok_or(LedgerError::Range { asked: old_size, size: proof.1 })
    }

    async fn state(&self, key: &str) -> Result<Option<Vec<u8>>, LedgerError> {
        self.shared.mirror.state(key).map_err(|e| mirror(&e))
    }

    async fn state_prefix(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, LedgerError> {
        self.shared.mirror.state_prefix(prefix).map_err(|e| mirror(&e))
    }
}
