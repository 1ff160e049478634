//! Links, and clients over them, against a real socket with a small replica behind it that answers
//! what it is told to. Whole fleets are tested as processes, in the package of the binary.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle, Runtime};
use vaultmark_hsm::{Clock, SystemClock};

use super::client::{ClientRole, ForwardError, ReplicaClient, ReplicaClientConfig};
use super::frame::{Ask, Hello, Say, Why};
use super::link::{self, FRAME_LEN_MAX, LinkError, LinkKey, Receiver, Sender, Side};
use super::network::LinkShape;
use super::outbox::Outbox;
use super::{GROUPS_MAX, group_of, within};
use crate::vault::channel::Purpose;
use crate::vault::{AccountId, AttemptId};

/// Nothing here takes long; a test that hangs is to end all the same.
const PATIENCE: Duration = Duration::from_secs(60);

fn clock() -> Arc<dyn Clock> {
    SystemClock::start().expect("a thread for the clock")
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn key(byte: u8) -> LinkKey {
    LinkKey([byte; 32])
}

/// Runs a test that may not hang.
fn run(test: impl Future<Output = ()>) {
    let clock = clock();
    runtime().block_on(async { within(&*clock, PATIENCE, test).await.expect("it does not hang") });
}

/// Two ends of a connection: who dialled with one key, who accepted with another.
async fn ends(
    dialled: Option<LinkKey>,
    accepted: Option<LinkKey>,
    hello: &[u8],
    heard: &[u8],
) -> (Result<(Sender, Receiver), LinkError>, Result<(Sender, Receiver), LinkError>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = listener.local_addr().expect("its address");
    let dial = async {
        let mut stream = TcpStream::connect(address).await?;
        link::say_hello(&mut stream, hello).await?;
        link::open(stream, Side::Dialled, hello, dialled.as_ref()).await
    };
    let accept = async {
        let (mut stream, _) = listener.accept().await?;
        assert_eq!(link::hear_hello(&mut stream).await?, hello);
        link::open(stream, Side::Accepted, heard, accepted.as_ref()).await
    };
    tokio::join!(dial, accept)
}

#[test]
fn frames_of_every_length_arrive_in_order_sealed_or_not() {
    for sealed in [Some(key(7)), None] {
        run(async {
            let (one, other) = ends(sealed.clone(), sealed.clone(), b"hello", b"hello").await;
            let ((mut sender, _reads), (_writes, mut receiver)) =
                (one.expect("dialled"), other.expect("accepted"));
            let lens = [0, 1, 5, 65_519, 65_520, 0, 200_000, FRAME_LEN_MAX];
            let bodies = lens.map(|len| vec![u8::try_from(len % 251).expect("small"); len]);
            let send = async {
                for body in &bodies {
                    sender.push(body);
                }
                sender.flush().await.expect("written");
                sender.push(b"last");
                sender.flush().await.expect("written");
                drop((sender, _reads));
            };
            let hear = async {
                for body in &bodies {
                    let heard = receiver.next().await.expect("a frame").expect("not the end");
                    assert!(heard == body, "{} bytes", body.len());
                }
                assert_eq!(receiver.next().await.expect("a frame"), Some(&b"last"[..]));
                assert_eq!(receiver.next().await.expect("the end"), None);
            };
            tokio::join!(send, hear);
        });
    }
}

#[test]
fn nobody_without_the_key_or_meant_for_another_is_heard() {
    for (dialled, accepted, heard) in [
        (Some(key(1)), Some(key(2)), &b"hello"[..]),
        // The same key, but what was said first was changed on the way.
        (Some(key(1)), Some(key(1)), b"jello"),
    ] {
        run(async {
            let (one, other) = ends(dialled, accepted, b"hello", heard).await;
            assert!(matches!(other, Err(LinkError::Malformed(_))), "the one who was dialled");
            assert!(one.is_err(), "the one who dialled gets no answer");
        });
    }
}

#[test]
fn what_was_changed_on_the_way_ends_the_connection() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let address = listener.local_addr().expect("its address");
        let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut dialled, (accepted, _)) = (dialled.expect("dialled"), accepted.expect("accepted"));
        // A frame that claims to be longer than any.
        dialled.write_all(&u32::MAX.to_be_bytes()).await.expect("written");
        let opened = link::open(accepted, Side::Accepted, b"", None).await;
        let (_sender, mut receiver) = opened.expect("in clear there is nothing to agree on");
        assert!(matches!(receiver.next().await, Err(LinkError::Malformed(_))));
    });
}

/// Takes one connection and answers each request with what `answer` says; nothing is no answer.
async fn replica(
    listener: TcpListener,
    key: Option<LinkKey>,
    clock: Arc<dyn Clock>,
    answer: impl Fn(u64, &Ask<'_>) -> Option<Vec<u8>> + Send + Sync + 'static,
) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { return };
        let Ok(bytes) = link::hear_hello(&mut stream).await else { continue };
        let hello = Hello::decode(&bytes).expect("a hello of this version");
        let key = key.as_ref().filter(|_| hello.role.is_sealed());
        let Ok((mut sender, mut receiver)) = link::open(stream, Side::Accepted, &bytes, key).await
        else {
            continue;
        };
        let outbox = Outbox::new(1 << 20);
        let hear = async {
            while let Ok(Some(body)) = receiver.next().await {
                let ask = Ask::decode(body).expect("a request");
                let id = match ask {
                    Ask::Forward { id, .. } | Ask::Charge { id, .. } | Ask::Enroll { id, .. } => id,
                    Ask::Status { id } | Ask::Fault { id, .. } => id,
                    Ask::Ping { id } => {
                        let pong = Say::Done { id, bytes: &[] }.encode();
                        assert!(outbox.push(clock.now(), pong), "there is room");
                        continue;
                    }
                    Ask::Consensus { .. } => continue,
                };
                match answer(id, &ask) {
                    Some(said) => assert!(outbox.push(clock.now(), said), "there is room"),
                    None => return,
                }
            }
        };
        tokio::select! {
            () = hear => {}
            _ended = outbox.drain(&mut sender, &*clock) => {}
        }
    }
}

fn client(
    address: SocketAddr,
    clock: &Arc<dyn Clock>,
    role: ClientRole,
    network: Option<LinkShape>,
) -> ReplicaClient {
    let (replica, timeout, seed) = (1, Duration::from_secs(20), 5);
    let clock = Arc::clone(clock);
    let config = ReplicaClientConfig { address, replica, role, clock, timeout, network, seed };
    ReplicaClient::new(config, &Handle::current())
}

/// A replica that answers so, and a client of it.
async fn pair(
    role: ClientRole,
    replicas: Option<LinkKey>,
    network: Option<LinkShape>,
    answer: impl Fn(u64, &Ask<'_>) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> ReplicaClient {
    let clock = clock();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = listener.local_addr().expect("its address");
    drop(tokio::spawn(replica(listener, replicas, Arc::clone(&clock), answer)));
    client(address, &clock, role, network)
}

#[test]
fn requests_are_told_apart() {
    let delay = Duration::from_millis(2);
    for network in [None, Some(LinkShape { delay, ..LinkShape::default() })] {
        run(async {
            let answer = |id, ask: &Ask<'_>| {
                let Ask::Charge { account, .. } = ask else { panic!("{ask:?}") };
                let odd = account.as_bytes().last().is_some_and(|byte| byte % 2 == 1);
                let not = Say::Not { id, why: Why::NotLeader(Some(3)) };
                Some(if odd { not } else { Say::Done { id, bytes: &[] } }.encode())
            };
            let client = pair(ClientRole::Bench(key(1)), Some(key(1)), network, answer).await;
            let asks = (0..200).map(|number| {
                let account = AccountId::synthetic(number);
                let asked = client.charge(1, account, AttemptId([1; 16]));
                async move { (number, asked.await) }
            });
            for (number, answer) in futures_util::future::join_all(asks).await {
                let not = Err(ForwardError::NotLeader { leader: Some(3) });
                assert_eq!(answer, if number % 2 == 1 { not } else { Ok(()) });
            }
        });
    }
}

#[test]
fn a_frame_is_forwarded_whole() {
    run(async {
        let answer = |id, ask: &Ask<'_>| {
            let Ask::Forward { frame, group: 2, purpose: 2, .. } = ask else { panic!("{ask:?}") };
            Some(Say::Done { id, bytes: frame }.encode())
        };
        let client = pair(ClientRole::Relay, None, None, answer).await;
        let (account, frame) = (AccountId::synthetic(1), vec![9; 700]);
        let answered = client.forward(2, account, Purpose::Recover, frame.clone()).await;
        assert_eq!(answered, Ok(frame));
    });
}

#[test]
fn a_connection_that_breaks_leaves_what_was_asked_unknown() {
    run(async {
        let client = pair(ClientRole::Relay, None, None, |_, _| None).await;
        let account = AccountId::synthetic(1);
        let answered = client.forward(1, account, Purpose::Recover, vec![1]).await;
        assert_eq!(answered, Err(ForwardError::Unknown));
        assert!(!ForwardError::Unknown.surely_not_processed());
    });
}

#[test]
fn who_cannot_be_reached_did_nothing() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let address = listener.local_addr().expect("its address");
        // Nobody listens there any more.
        drop(listener);
        let clock = clock();
        let client = client(address, &clock, ClientRole::Relay, None);
        let account = AccountId::synthetic(1);
        let answered = client.forward(1, account, Purpose::Recover, vec![1]).await;
        assert_eq!(answered, Err(ForwardError::Unreachable));
        assert!(ForwardError::Unreachable.surely_not_processed());
    });
}

#[test]
fn accounts_are_dealt_out_evenly_and_always_alike() {
    for groups in [1, 2, 7, GROUPS_MAX] {
        let mut counts = vec![0_u32; groups as usize];
        for number in 0..10_000 {
            let group = group_of(&AccountId::synthetic(number), groups);
            counts[group as usize - 1] += 1;
        }
        let mean = 10_000 / groups;
        assert!(counts.iter().all(|count| *count > mean / 2 && *count < 2 * mean), "{counts:?}");
    }
    // What a fleet put where it is must be found there by every later version.
    let found = [0, 1, 2, 3].map(|number| group_of(&AccountId::synthetic(number), 4));
    assert_eq!(found, [4, 2, 4, 4]);
}
