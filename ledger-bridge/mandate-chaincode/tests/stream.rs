//! The server as a peer meets it: gRPC over HTTP/2, in the clear, with TLS and with mutual TLS; transactions beside each
//! other; draining. The client is h2 alone, so that both sides of a mistake are not made by the same code.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

#[path = "../../ledger-contract/tests/common/mod.rs"]
mod common;
mod peer;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use common::*;
use fabric::message::{ChaincodeId, ChaincodeMessage, Kind, Response};
use h2::{RecvStream, SendStream, client};
use ledger_contract::transaction::{Answer, Decided};
use mandate_chaincode::{
    Contract,
    server::{Options, serve},
    tls::{TlsFiles, acceptor},
};
use peer::{Ended, Peer, TxHead, transaction, transient};
use prost::Message as _;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    version::TLS13,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use trust::{
    UnixTime,
    issue::{Issued, ca, member},
};

const ID: &str = "mandate_1:abc";
const LIMIT: Duration = Duration::from_secs(20);

struct Served {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<anyhow::Result<()>>,
}

async fn served(tls: Option<&TlsFiles>) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = Options {
        package_id: ID.into(),
        listener,
        tls: tls.map(|files| acceptor(files).unwrap()),
        contract: Contract::default(),
        threads: 2,
    };
    let (stop, stopped) = oneshot::channel();
    let ended = tokio::spawn(serve(options, async { drop(stopped.await) }));
    Served { address, stop, ended }
}

/// A stream to the chaincode.
struct Stream {
    sink: SendStream<Bytes>,
    source: RecvStream,
    waiting: BytesMut,
}

impl Stream {
    async fn open(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (client, connection) = client::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::builder()
            .method("POST")
            .uri("http://chaincode/protos.Chaincode/Connect")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (response, sink) = client.ready().await.unwrap().send_request(request, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        Self { sink, source: response.into_body(), waiting: BytesMut::new() }
    }

    /// As a peer begins: what the chaincode says first, and that it is taken.
    async fn ready(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let mut it = Self::open(io).await;
        let register = it.next().await.unwrap();
        assert_eq!(register.kind, i32::from(Kind::Register));
        assert_eq!(ChaincodeId::decode(register.payload.as_slice()).unwrap().name, ID);
        for kind in [Kind::Registered, Kind::Ready] {
            it.send(&ChaincodeMessage { kind: kind.into(), ..ChaincodeMessage::default() });
        }
        it
    }

    fn send(&mut self, message: &ChaincodeMessage) {
        let bytes = message.encode_to_vec();
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        let frame = [&[0][..], &length, &bytes].concat();
        self.sink.send_data(frame.into(), false).unwrap();
    }

    /// The next message; `None`: the stream ended.
    async fn next(&mut self) -> Option<ChaincodeMessage> {
        loop {
            if self.waiting.len() >= 5 {
                let length = (&self.waiting[1..5]).get_u32() as usize;
                if self.waiting.len() >= 5 + length {
                    let frame = self.waiting.split_to(5 + length);
                    return Some(ChaincodeMessage::decode(&frame[5..]).unwrap());
                }
            }
            let data = timeout(LIMIT, self.source.data()).await.unwrap()?.unwrap();
            self.source.flow_control().release_capacity(data.len()).unwrap();
            self.waiting.extend_from_slice(&data);
        }
    }

    async fn status(&mut self) -> String {
        let trailers = timeout(LIMIT, self.source.trailers()).await.unwrap().unwrap().unwrap();
        trailers["grpc-status"].to_str().unwrap().to_owned()
    }

    /// Plays the peer until a transaction ends.
    async fn until_ended(&mut self, peer: &mut Peer) -> (String, Ended) {
        loop {
            let asked = self.next().await.unwrap();
            match peer.answer(&asked) {
                Ok(answer) => self.send(&answer),
                Err(ended) => return (asked.txid, *ended),
            }
        }
    }
}

fn now() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixTime(since.unwrap().as_secs())
}

fn tx(n: usize) -> TxHead {
    TxHead::new(LEDGER, n, now())
}

async fn connected(address: SocketAddr) -> Stream {
    Stream::ready(TcpStream::connect(address).await.unwrap()).await
}

fn requests(w: &World) -> Vec<trust::Envelope> {
    let packages = [vnf(w, "vfw_vnf"), vnf(w, "vlb_vnf"), nsd()];
    let packages = packages.iter().map(|p| sign(ledger_contract::records::PACKAGE_PAYLOAD, p, &w.provider));
    [genesis(w, policy())].into_iter().chain(packages).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_run_beside_each_other_and_a_stop_lets_them_end() {
    let (w, served) = (world(), served(None).await);
    let (mut stream, mut peer) = (connected(served.address).await, Peer::default());
    stream.send(&transaction(&tx(0), &["submit"], transient(&requests(&w), None)));
    let (_, ended) = stream.until_ended(&mut peer).await;
    let answer: Answer = serde_json::from_slice(&ended.response.payload).unwrap();
    assert!(answer.decided.iter().all(|d| matches!(d, Decided::Entry { entry } if entry.verdict.approved)));
    assert!(peer.state.contains_key("genesis") && ended.event.is_some());

    // A keepalive comes back, and three transactions are under way at once: each asks before any is answered.
    stream.send(&ChaincodeMessage { kind: Kind::Keepalive.into(), ..ChaincodeMessage::default() });
    assert_eq!(stream.next().await.unwrap().kind, i32::from(Kind::Keepalive));
    (1..4).for_each(|n| stream.send(&transaction(&tx(n), &["state", "genesis"], BTreeMap::new())));
    let mut asked = BTreeMap::new();
    while asked.len() < 3 {
        let it = stream.next().await.unwrap();
        asked.insert(it.txid.clone(), it);
    }
    // The server is stopped, a fourth is refused, and the three come to their end.
    served.stop.send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    stream.send(&transaction(&tx(4), &["state", "genesis"], BTreeMap::new()));
    let refused = stream.next().await.unwrap();
    assert_eq!(refused.txid, tx(4).id);
    assert_eq!(Response::decode(refused.payload.as_slice()).unwrap().status, 503);
    for it in asked.values().rev() {
        let answer = peer.answer(it).ok().unwrap();
        stream.send(&answer);
        let (id, ended) = stream.until_ended(&mut peer).await;
        assert_eq!((id, ended.response.status), (it.txid.clone(), 200));
        assert_eq!(ended.response.payload, peer.state["genesis"]);
    }
    assert_eq!(stream.next().await, None);
    assert_eq!(stream.status().await, "0");
    drop(stream);
    timeout(LIMIT, served.ended).await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(served.address).await.is_err());
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_told_and_others_go_on() {
    let served = served(None).await;
    let mut good = connected(served.address).await;
    let mut bad = connected(served.address).await;
    bad.send(&ChaincodeMessage { kind: Kind::GetState.into(), ..ChaincodeMessage::default() });
    assert_eq!(bad.next().await, None);
    assert_eq!(bad.status().await, "9", "failed precondition");
    good.send(&transaction(&tx(1), &["state", "x"], BTreeMap::new()));
    assert_eq!(good.until_ended(&mut Peer::default()).await.1.response.status, 404);
}

/// PEM files of a server, and of a peer and a stranger with CAs of their own.
struct Files {
    dir: TempDir,
    server: Issued,
    peer: Issued,
    stranger: Issued,
}

impl Files {
    fn new() -> Self {
        let issue = |org: &str, seed: u8| {
            let authority = ca(org, &[seed; 32], FROM, TO).unwrap();
            let it =
                member(&authority, org, BTreeMap::new(), &[seed + 100; 32], &[seed], (FROM, TO)).unwrap();
            (authority, it)
        };
        let dir = TempDir::new().unwrap();
        let ((_, server), (authority, peer), (_, stranger)) =
            (issue("server", 1), issue("peer", 2), issue("stranger", 3));
        let files =
            [("cert", &server.certificate_pem), ("key", &server.key_pem), ("ca", &authority.certificate_pem)];
        for (name, pem) in files {
            std::fs::write(dir.path().join(name), pem).unwrap();
        }
        Self { dir, server, peer, stranger }
    }

    fn tls(&self, mutual: bool) -> TlsFiles {
        let file = |name: &str| self.dir.path().join(name);
        TlsFiles { certificate: file("cert"), key: file("key"), client_ca: mutual.then(|| file("ca")) }
    }

    /// Connects, showing a certificate or none.
    async fn connect(&self, address: SocketAddr, shown: Option<&Issued>) -> TlsStream<TcpStream> {
        let der = |it: &Issued| CertificateDer::from_pem_slice(it.certificate_pem.as_bytes()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned(der(&self.server), provider)));
        let mut config = match shown {
            None => config.with_no_client_auth(),
            Some(it) => {
                let key = PrivateKeyDer::from_pem_slice(it.key_pem.as_bytes()).unwrap();
                config.with_client_auth_cert(vec![der(it)], key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from("chaincode").unwrap();
        let socket = TcpStream::connect(address).await.unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap()
    }
}

/// Believes one certificate, whose key must sign.
#[derive(Debug)]
struct Pinned(CertificateDer<'static>, Arc<CryptoProvider>);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        assert_eq!(*end_entity, self.0);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        panic!("TLS 1.2")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.1.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.1.signature_verification_algorithms.supported_schemes()
    }
}

async fn asks(mut stream: Stream) -> i32 {
    stream.send(&transaction(&tx(1), &["state", "x"], BTreeMap::new()));
    stream.until_ended(&mut Peer::default()).await.1.response.status
}

#[tokio::test]
async fn over_tls_it_is_the_same() {
    let files = Files::new();
    let served = served(Some(&files.tls(false))).await;
    let io = files.connect(served.address, None).await;
    assert_eq!(asks(Stream::ready(io).await).await, 404);
    // Who speaks in the clear, or says nothing, is in nobody's way.
    let _silent = TcpStream::connect(served.address).await.unwrap();
    let io = files.connect(served.address, None).await;
    assert_eq!(asks(Stream::ready(io).await).await, 404);
}

#[tokio::test]
async fn mutual_tls_takes_the_peers_certificate_alone() {
    let files = Files::new();
    let served = served(Some(&files.tls(true))).await;
    let io = files.connect(served.address, Some(&files.peer)).await;
    assert_eq!(asks(Stream::ready(io).await).await, 404);
    for shown in [None, Some(&files.stranger)] {
        // In TLS 1.3 the client learns of it with the first bytes.
        let mut io = files.connect(served.address, shown).await;
        let refused = timeout(LIMIT, io.read(&mut [0; 1])).await.unwrap();
        assert!(refused.is_err(), "{refused:?}");
    }
}
