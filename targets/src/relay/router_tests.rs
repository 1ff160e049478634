//! Routing over replicas that do as they are told.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;
use tokio::runtime::Runtime;
use vaultmark_hsm::SystemClock;

use super::*;

const REPLICAS: u32 = 5;

/// Replicas of which one may lead; each frame that one took is remembered.
#[derive(Default)]
struct Script {
    leader: AtomicU32,
    /// Who cannot be reached.
    down: Mutex<Vec<u32>>,
    /// What those that do not lead say of who does.
    hints: Mutex<HashMap<u32, u32>>,
    /// Replies get lost.
    mute: AtomicBool,
    /// From this many questions on, replica 4 leads.
    elected_after: Option<usize>,
    asked: AtomicUsize,
    taken: Mutex<HashMap<Vec<u8>, u32>>,
}

impl Upstream for Arc<Script> {
    fn replicas(&self) -> u32 {
        REPLICAS
    }

    async fn forward(
        &self,
        replica: u32,
        _group: u32,
        _account: AccountId,
        _purpose: Purpose,
        frame: &[u8],
    ) -> Result<Vec<u8>, ForwardError> {
        tokio::task::yield_now().await;
        let asked = self.asked.fetch_add(1, Ordering::SeqCst);
        if self.elected_after.is_some_and(|after| asked == after) {
            self.leader.store(4, Ordering::SeqCst);
        }
        if self.down.lock().unwrap().contains(&replica) {
            return Err(ForwardError::Unreachable);
        }
        if self.leader.load(Ordering::SeqCst) != replica {
            let leader = self.hints.lock().unwrap().get(&replica).copied();
            return Err(ForwardError::NotLeader { leader });
        }
        *self.taken.lock().unwrap().entry(frame.to_vec()).or_insert(0) += 1;
        if self.mute.load(Ordering::SeqCst) {
            Err(ForwardError::Unknown)
        } else {
            Ok(frame.to_vec())
        }
    }
}

struct Fixture {
    runtime: Runtime,
    script: Arc<Script>,
    router: Arc<Router<Arc<Script>>>,
}

impl Fixture {
    fn new(script: Script, patience: Duration) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let script = Arc::new(script);
        let clock = SystemClock::start().unwrap();
        let router = Arc::new(Router::new(Arc::clone(&script), 1, clock, patience));
        Self { runtime, script, router }
    }

    fn forward(&self, frame: &[u8]) -> Result<Vec<u8>, RelayRefusal> {
        let account = AccountId::synthetic(1);
        self.runtime.block_on(self.router.forward(account, Purpose::Recover, frame))
    }

    /// How many questions a frame takes.
    fn questions(&self, frame: &[u8]) -> usize {
        let before = self.script.asked.load(Ordering::SeqCst);
        assert_eq!(self.forward(frame), Ok(frame.to_vec()));
        self.script.asked.load(Ordering::SeqCst) - before
    }

    fn lead(&self, replica: u32) {
        self.script.leader.store(replica, Ordering::SeqCst);
    }
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_leader_is_found_and_remembered_and_followed() {
    let it = Fixture::new(Script::default(), LONG);
    for leader in 1..=REPLICAS {
        it.lead(leader);
        it.questions(b"first");
        assert_eq!(it.questions(b"second"), 1, "replica {leader}");
    }
    // A hint is one question more; no hint at most all of them, and one to the old leader.
    it.lead(2);
    it.script.hints.lock().unwrap().insert(5, 2);
    assert_eq!(it.questions(b"third"), 2);
    it.script.down.lock().unwrap().push(2);
    it.lead(3);
    assert!(it.questions(b"fourth") <= 1 + REPLICAS as usize);
}

#[test]
fn hints_to_the_dead_and_in_circles_do_not_hide_the_leader() {
    for dead in [vec![], vec![1, 2]] {
        let it = Fixture::new(Script::default(), LONG);
        it.lead(1);
        it.questions(b"first");
        it.lead(5);
        *it.script.hints.lock().unwrap() = [(1, 2), (2, 3), (3, 1), (4, 1), (5, 9)].into();
        *it.script.down.lock().unwrap() = dead;
        assert!(it.questions(b"second") <= 2 + 2 * REPLICAS as usize);
        assert_eq!(it.questions(b"third"), 1);
    }
}

#[test]
fn without_a_leader_patience_ends() {
    let it = Fixture::new(Script::default(), Duration::from_millis(20));
    assert_eq!(it.forward(b"one"), Err(RelayRefusal::NoLeader));
    *it.script.down.lock().unwrap() = (1..=REPLICAS).collect();
    assert_eq!(it.forward(b"two"), Err(RelayRefusal::NoLeader));
    it.script.down.lock().unwrap().clear();
    it.lead(2);
    assert_eq!(it.forward(b"three"), Ok(b"three".to_vec()));
}

#[test]
fn what_may_have_happened_is_not_sent_again_and_the_next_asks_elsewhere() {
    let it = Fixture::new(Script::default(), LONG);
    it.lead(3);
    it.questions(b"first");
    it.script.mute.store(true, Ordering::SeqCst);
    assert_eq!(it.forward(b"lost"), Err(RelayRefusal::Unknown));
    assert_eq!(it.script.taken.lock().unwrap().get(&b"lost"[..]), Some(&1));
    it.script.mute.store(false, Ordering::SeqCst);
    it.lead(4);
    assert_eq!(it.questions(b"next"), 1, "the one after the suspect is asked first");
}

#[test]
fn during_an_election_one_looks_and_all_get_through() {
    const WAITING: usize = 300;
    const UNTIL: usize = 60;
    let it = Fixture::new(Script { elected_after: Some(UNTIL), ..Script::default() }, LONG);
    it.runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..WAITING {
            let router = Arc::clone(&it.router);
            tasks.spawn(async move {
                let frame = number.to_le_bytes();
                let account = AccountId::synthetic(number as u64);
                let replied = router.forward(account, Purpose::Recover, &frame).await;
                assert_eq!(replied, Ok(frame.to_vec()));
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
    });
    let asked = it.script.asked.load(Ordering::SeqCst);
    assert!(asked <= UNTIL + REPLICAS as usize + WAITING, "{asked} questions");
    assert!(it.script.taken.lock().unwrap().values().all(|times| *times == 1));
}

#[test]
fn who_gives_up_looking_leaves_it_to_another() {
    let it = Fixture::new(Script::default(), LONG);
    it.runtime.block_on(async {
        let account = AccountId::synthetic(1);
        let looking = Arc::clone(&it.router);
        let first =
            tokio::spawn(async move { looking.forward(account, Purpose::Recover, b"first").await });
        while it.script.asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let waiting = Arc::clone(&it.router);
        let second =
            tokio::spawn(async move { waiting.forward(account, Purpose::Recover, b"2nd").await });
        tokio::task::yield_now().await;
        first.abort();
        it.script.leader.store(1, Ordering::SeqCst);
        assert_eq!(second.await.unwrap(), Ok(b"2nd".to_vec()));
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_happens_no_frame_is_taken_twice(
        steps in proptest::collection::vec((0..=REPLICAS, 0..=REPLICAS, any::<bool>(), 0..=REPLICAS), 1..20)
    ) {
        let it = Fixture::new(Script::default(), Duration::from_millis(1));
        for (number, (leader, down, mute, hint)) in steps.into_iter().enumerate() {
            it.lead(leader);
            *it.script.down.lock().unwrap() = vec![down];
            *it.script.hints.lock().unwrap() = (1..=REPLICAS).map(|it| (it, hint)).collect();
            it.script.mute.store(mute, Ordering::SeqCst);
            let frame = number.to_le_bytes();
            let ended = it.forward(&frame);
            let times = it.script.taken.lock().unwrap().get(&frame[..]).copied().unwrap_or(0);
            let leads = leader != 0 && leader != down;
            prop_assert_eq!(times, u32::from(leads));
            let expected = match (leads, mute) {
                (true, false) => Ok(frame.to_vec()),
                (true, true) => Err(RelayRefusal::Unknown),
                (false, _) => Err(RelayRefusal::NoLeader),
            };
            prop_assert_eq!(ended, expected);
        }
    }
}
