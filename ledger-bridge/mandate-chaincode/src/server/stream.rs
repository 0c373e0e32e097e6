//! One peer's stream: carries messages between it, its [`Session`] and the threads that run the transactions' code.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use fabric::{
    message::ChaincodeMessage,
    shim::{Action, Answer, Broken, Invocation, Session, TxKey, Want},
};
use futures::stream;
use tokio::{sync::mpsc, time::MissedTickBehavior};
use tonic::{Status, Streaming};

use super::{Outgoing, Shared, now, until};
use crate::Transaction;

/// Messages that wait for the network; whoever has another one waits too.
const MAX_WAITING: usize = 64;
/// How often it is looked whether a transaction takes too long.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A transaction's code, and what it wants.
type Ran = (TxKey, Box<dyn Transaction>, Want);
type Sink = mpsc::Sender<Result<ChaincodeMessage, Status>>;

/// Starts a stream; what is sent to the peer.
pub(super) fn start(shared: Arc<Shared>, incoming: Streaming<ChaincodeMessage>) -> Outgoing {
    let (sink, out) = mpsc::channel(MAX_WAITING);
    tokio::spawn(async move {
        match Conversation::new(shared, sink.clone()).run(incoming).await {
            Ok(()) => tracing::info!("a peer's stream ended"),
            Err(status) => {
                tracing::warn!(reason = status.message(), "a peer's stream was ended");
                // It may be gone.
                drop(sink.send(Err(status)).await);
            }
        }
    });
    Box::pin(stream::unfold(out, async |mut out| out.recv().await.map(|message| (message, out))))
}

struct Conversation {
    shared: Arc<Shared>,
    sink: Sink,
    began: Instant,
    session: Session,
    register: Option<ChaincodeMessage>,
    /// Code that waits for the peer.
    code: HashMap<TxKey, Box<dyn Transaction>>,
    ran: (mpsc::UnboundedSender<Ran>, mpsc::UnboundedReceiver<Ran>),
}

impl Conversation {
    fn new(shared: Arc<Shared>, sink: Sink) -> Self {
        let (session, register) = Session::open(&shared.package_id);
        let (code, ran) = (HashMap::new(), mpsc::unbounded_channel());
        Self { shared, sink, began: Instant::now(), session, register: Some(register), code, ran }
    }

    async fn run(mut self, mut incoming: Streaming<ChaincodeMessage>) -> Result<(), Status> {
        tracing::info!("a peer has connected");
        if let Some(register) = self.register.take() {
            self.send(register).await?;
        }
        let mut stopping = std::pin::pin!(until(self.shared.stopping.clone()));
        let mut draining = false;
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !(draining && self.session.running() == 0) {
            tokio::select! {
                message = incoming.message() => match message? {
                    Some(message) => self.receive(message).await?,
                    None => return Ok(()),
                },
                Some(ran) = self.ran.1.recv() => self.ran(ran).await?,
                _ = look.tick() => {
                    for message in self.session.expire(self.began.elapsed()) {
                        tracing::warn!(tx = message.txid, "a transaction took too long");
                        self.code.remove(&TxKey { channel: message.channel_id.clone(), tx_id: message.txid.clone() });
                        self.send(message).await?;
                    }
                }
                () = &mut stopping, if !draining => {
                    self.session.drain();
                    draining = true;
                }
            }
        }
        Ok(())
    }

    async fn receive(&mut self, message: ChaincodeMessage) -> Result<(), Status> {
        let broken = |e: Broken| Status::failed_precondition(e.to_string());
        match self.session.receive(message, self.began.elapsed()).map_err(broken)? {
            Action::Nothing => {}
            Action::Send(message) => self.send(message).await?,
            Action::Begin(invocation) => self.begin(*invocation),
            Action::Resume(key, answer) => {
                if let Some(code) = self.code.remove(&key) {
                    self.resume(key, code, Some(answer));
                }
            }
        }
        Ok(())
    }

    fn begin(&self, invocation: Invocation) {
        let (shared, back) = (Arc::clone(&self.shared), self.ran.0.clone());
        self.shared.workers.run(move || {
            let key = invocation.key.clone();
            let mut code = shared.contract.begin(invocation, now());
            let want = code.resume(None);
            // The stream may have ended.
            drop(back.send((key, code, want)));
        });
    }

    fn resume(&self, key: TxKey, mut code: Box<dyn Transaction>, answer: Option<Answer>) {
        let back = self.ran.0.clone();
        self.shared.workers.run(move || {
            let want = code.resume(answer);
            drop(back.send((key, code, want)));
        });
    }

    async fn ran(&mut self, (key, code, want): Ran) -> Result<(), Status> {
        let over = matches!(want, Want::Done(_));
        let Some(message) = self.session.want(&key, want) else { return Ok(()) };
        if !over {
            self.code.insert(key, code);
        }
        self.send(message).await
    }

    async fn send(&mut self, message: ChaincodeMessage) -> Result<(), Status> {
        self.sink.send(Ok(message)).await.map_err(|_| Status::cancelled("the peer has gone"))
    }
}
