//! Members over a wire that loses, delays, duplicates and reorders, from one seed and under
//! simulated time.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::super::disk::Survivors;
use super::super::packet;
use super::super::replica::mix;
use super::*;

/// What the wire does to frames: per thousand lost, per thousand sent twice, and how long they take.
#[derive(Clone, Copy)]
struct Weather {
    lost: u64,
    twice: u64,
    delay_us: (u64, u64),
}

const CALM: Weather = Weather { lost: 0, twice: 0, delay_us: (100, 100) };
const STORM: Weather = Weather { lost: 50, twice: 50, delay_us: (100, 20_000) };

/// Members, their disks, and what is between them.
struct Fleet {
    net: Arc<Net>,
    journals: Journals,
    disks: BTreeMap<u32, MemoryDisk>,
    change: fn(GroupConfig) -> GroupConfig,
    replicas: u32,
    lives: u64,
    /// Which life each member is in.
    running: BTreeMap<u32, u64>,
}

struct Net {
    weather: Mutex<Weather>,
    draws: AtomicU64,
    members: Mutex<BTreeMap<u32, Arc<Member>>>,
    /// Whether every checkpoint on its way lacks its end.
    cuts_checkpoints: AtomicBool,
    /// Lives of members that send no more.
    ended: Mutex<BTreeSet<u64>>,
    /// A fingerprint of every frame and when it was sent.
    trace: AtomicU64,
    begun: Instant,
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Net")
    }
}

#[derive(Debug)]
struct Line {
    net: Arc<Net>,
    from: u32,
    life: u64,
}

impl Net {
    fn draw(&self, below: u64) -> u64 {
        mix(self.draws.fetch_add(1, Ordering::Relaxed), 1, 1) % below
    }

    fn leader(&self) -> Option<Arc<Member>> {
        let members = self.members.lock().unwrap();
        let leads = |(number, member): &(&u32, &Arc<Member>)| member.leader() == Some(**number);
        members.iter().find(leads).map(|(_, member)| Arc::clone(member))
    }
}

impl Wire for Line {
    fn send(&self, to: u32, frame: Vec<u8>) {
        assert!(frame.len() <= FRAME_LEN_MAX);
        let (net, from) = (&self.net, self.from);
        if net.ended.lock().unwrap().contains(&self.life) {
            return;
        }
        let packet = packet::decode(&frame).expect("a frame").packet;
        let is_end = matches!(packet, packet::Packet::Piece { piece: packet::Piece::Last, .. });
        if is_end && net.cuts_checkpoints.load(Ordering::Relaxed) {
            return;
        }
        let at = u64::try_from(net.begun.elapsed().as_micros()).unwrap();
        let print = mix(net.trace.load(Ordering::Relaxed), u64::from(crc32fast::hash(&frame)), at);
        net.trace.store(print, Ordering::Relaxed);
        let weather = *net.weather.lock().unwrap();
        let copies = match net.draw(1_000) {
            luck if luck < weather.lost => 0,
            luck if luck < weather.lost + weather.twice => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let (least, most) = weather.delay_us;
            let delay = Duration::from_micros(least + net.draw(most - least + 1));
            let (net, frame) = (Arc::clone(net), frame.clone());
            drop(tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                let member = net.members.lock().unwrap().get(&to).cloned();
                if let Some(member) = member {
                    member.deliver(from, &frame);
                }
            }));
        }
    }
}

impl Fleet {
    async fn found(replicas: u32, seed: u64, change: fn(GroupConfig) -> GroupConfig) -> Self {
        let net = Arc::new(Net {
            weather: Mutex::new(CALM),
            draws: AtomicU64::new(seed << 32),
            members: Mutex::default(),
            cuts_checkpoints: AtomicBool::new(false),
            ended: Mutex::default(),
            trace: AtomicU64::new(0),
            begun: Instant::now(),
        });
        let disks = (1..=replicas).map(|number| (number, MemoryDisk::new())).collect();
        let journals = Journals::default();
        let mut fleet =
            Self { net, journals, disks, change, replicas, lives: seed, running: BTreeMap::new() };
        for number in 1..=replicas {
            fleet.start(number, Start::Found).await.unwrap();
        }
        fleet
    }

    async fn start(&mut self, number: u32, start: Start) -> Result<(), QuorumError> {
        self.lives += 1;
        let group = (self.change)(in_memory(self.replicas, &self.disks[&number]));
        let group = GroupConfig { seed: self.lives, ..group };
        let machine = self.journals.maker(&group)(number).unwrap();
        let config = MemberConfig { number, start, group };
        let (net, life) = (Arc::clone(&self.net), self.lives);
        let member = Member::start(config, machine, Arc::new(Line { net, from: number, life }));
        let member = member.await?;
        self.running.insert(number, life);
        self.net.members.lock().unwrap().insert(number, Arc::new(member));
        Ok(())
    }

    /// Kills a member, and its disk loses power.
    async fn kill(&self, number: u32, survivors: Survivors) {
        let member = self.net.members.lock().unwrap().remove(&number).unwrap();
        self.disks[&number].crash(survivors);
        self.net.ended.lock().unwrap().insert(self.running[&number]);
        let mut member = member;
        // A client that waits for an answer still holds it.
        let member = loop {
            match Arc::try_unwrap(member) {
                Ok(member) => break member,
                Err(held) => member = held,
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        member.kill().await;
    }

    fn weather(&self, weather: Weather) {
        *self.net.weather.lock().unwrap() = weather;
    }

    /// Commits at whoever leads; whether that was answered.
    async fn commit(net: &Arc<Net>, command: Vec<u8>) -> bool {
        for _ in 0..500 {
            if let Some(member) = net.leader() {
                match member.commit(command.clone()).await {
                    Ok(_) => return true,
                    Err(error) if error.surely_not_proposed() => {}
                    Err(_) => return false,
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("nobody led for ten seconds");
    }

    /// Commits of so many clients at once; the commands that were answered.
    fn load(&self, clients: usize, each: usize, label: &str) -> Load {
        let answered = Arc::new(Mutex::new(BTreeSet::new()));
        let tasks = (0..clients).map(|client| {
            let (net, answered) = (Arc::clone(&self.net), Arc::clone(&answered));
            let label = label.to_owned();
            tokio::spawn(async move {
                for n in 0..each {
                    let command = format!("{label} {client} {n}").into_bytes();
                    if Self::commit(&net, command.clone()).await {
                        answered.lock().unwrap().insert(command);
                    }
                }
            })
        });
        Load { tasks: tasks.collect(), answered }
    }

    /// Waits until every running member has applied the same, and checks that it holds everything
    /// that was answered, and nothing twice.
    async fn check(&self, answered: &BTreeSet<Vec<u8>>) {
        self.weather(CALM);
        let mut last = Vec::new();
        for n in 0..9 {
            last = format!("the last, {n}").into_bytes();
            if Self::commit(&self.net, last.clone()).await {
                break;
            }
        }
        let numbers: Vec<u32> = self.net.members.lock().unwrap().keys().copied().collect();
        let mut journals = Vec::new();
        for number in numbers {
            let journal = self.journals.0.lock().unwrap()[&number].clone();
            let mut commands = journal.0.subscribe();
            let all = |all: &Vec<Vec<u8>>| all.last() == Some(&last);
            let waited = tokio::time::timeout(Duration::from_secs(60), commands.wait_for(all));
            journals.push(waited.await.expect("it catches up").unwrap().clone());
        }
        for journal in &journals {
            assert_eq!(journal, &journals[0], "replicas differ");
        }
        let applied: BTreeSet<&Vec<u8>> = journals[0].iter().collect();
        assert_eq!(applied.len(), journals[0].len(), "a command was applied twice");
        for command in answered {
            assert!(applied.contains(command), "lost: {}", String::from_utf8_lossy(command));
        }
    }

    async fn close(self) {
        let members = std::mem::take(&mut *self.net.members.lock().unwrap());
        for member in members.into_values() {
            Arc::into_inner(member).unwrap().close().await;
        }
    }
}

struct Load {
    tasks: Vec<tokio::task::JoinHandle<()>>,
    answered: Arc<Mutex<BTreeSet<Vec<u8>>>>,
}

impl Load {
    async fn end(self) -> BTreeSet<Vec<u8>> {
        for task in self.tasks {
            task.await.unwrap();
        }
        self.answered.lock().unwrap().clone()
    }
}

fn plain(config: GroupConfig) -> GroupConfig {
    config
}

fn often(config: GroupConfig) -> GroupConfig {
    GroupConfig { snapshot_every: 50, segment_bytes: 2_048, ..config }
}

#[tokio::test(start_paused = true)]
async fn whatever_the_wire_does_answered_commits_are_there_and_replicas_agree() {
    for (replicas, seed) in [(3, 1), (3, 2), (5, 3), (7, 4)] {
        let fleet = Fleet::found(replicas, seed, plain).await;
        fleet.weather(STORM);
        let answered = fleet.load(16, 20, "storm").end().await;
        assert!(answered.len() > 200, "{} answered", answered.len());
        fleet.check(&answered).await;
        fleet.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn members_that_crash_under_load_come_back_with_everything() {
    for seed in 1..=3 {
        let mut fleet = Fleet::found(3, seed, often).await;
        fleet.weather(Weather { lost: 10, twice: 10, ..STORM });
        let load = fleet.load(8, 60, "crash");
        for round in 0..6_u32 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            let number = round % 3 + 1;
            fleet.kill(number, Survivors::Sectors(seed * 10 + u64::from(round))).await;
            tokio::time::sleep(Duration::from_millis(900)).await;
            fleet.start(number, Start::Resume).await.unwrap();
        }
        let answered = load.end().await;
        assert!(answered.len() > 100, "{} answered", answered.len());
        fleet.check(&answered).await;
        fleet.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_was_down_catches_up_while_others_commit() {
    let mut fleet = Fleet::found(3, 5, often).await;
    let mut answered = fleet.load(4, 10, "before").end().await;
    fleet.kill(2, Survivors::Nothing).await;
    answered.append(&mut fleet.load(16, 50, "while").end().await);
    fleet.weather(Weather { lost: 20, twice: 20, ..STORM });
    fleet.start(2, Start::Resume).await.unwrap();
    answered.append(&mut fleet.load(16, 20, "after").end().await);
    fleet.check(&answered).await;
    let status = fleet.net.members.lock().unwrap()[&2].status();
    assert!(status.counters.checkpoints_taken > 0, "{status:?}");
    assert!(status.log_bytes < 100 * 2_048, "{status:?}");
    fleet.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_whose_sender_died_is_not_waited_for() {
    let mut fleet = Fleet::found(3, 6, often).await;
    let behind = (1..=3).find(|number| Some(*number) != fleet.net.leader().map(|it| it.number()));
    let behind = behind.unwrap();
    fleet.kill(behind, Survivors::Nothing).await;
    let answered = fleet.load(16, 50, "while").end().await;
    fleet.net.cuts_checkpoints.store(true, Ordering::Relaxed);
    fleet.start(behind, Start::Resume).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let leader = fleet.net.leader().unwrap().number();
    fleet.kill(leader, Survivors::Everything).await;
    fleet.net.cuts_checkpoints.store(false, Ordering::Relaxed);
    // Only with the one that is behind is there a majority, and it needs a checkpoint of another leader.
    fleet.check(&answered).await;
    let status = fleet.net.members.lock().unwrap()[&behind].status();
    assert!(status.counters.checkpoints_taken > 0, "{status:?}");
    fleet.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_member_takes_the_place_of_a_lost_one() {
    for (replicas, lost, leader_dies) in [(3, 2, false), (3, 1, true), (5, 4, true)] {
        let mut fleet = Fleet::found(replicas, 6, often).await;
        let mut answered = fleet.load(8, 30, "before").end().await;
        fleet.kill(lost, Survivors::Nothing).await;
        fleet.disks.insert(lost, MemoryDisk::new());
        let refused = fleet.start(lost, Start::Resume).await.unwrap_err().to_string();
        assert!(refused.contains(&format!("/group/replica-{lost}: the log is gone")), "{refused}");
        let again = fleet.start(lost, Start::Resume).await.unwrap_err().to_string();
        assert_eq!(refused, again);
        fleet.start(lost, Start::Replace).await.unwrap();
        let load = fleet.load(8, 30, "while");
        if leader_dies && replicas > 3 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            let leader = fleet.net.leader().map_or(1, |leader| leader.number());
            fleet.kill(leader, Survivors::Nothing).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            fleet.start(leader, Start::Resume).await.unwrap();
        }
        answered.append(&mut load.end().await);
        let waits = async {
            while fleet.net.members.lock().unwrap()[&lost].status().role == Role::Learner {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waits).await.expect("it gets its vote");
        // Its vote counts: of three, one of the old ones may go now.
        let other = lost % replicas + 1;
        fleet.kill(other, Survivors::Nothing).await;
        answered.append(&mut fleet.load(8, 10, "with it").end().await);
        // Restarted, it is still the one that it became.
        fleet.start(other, Start::Resume).await.unwrap();
        fleet.kill(lost, Survivors::Nothing).await;
        fleet.start(lost, Start::Replace).await.unwrap();
        fleet.check(&answered).await;
        fleet.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn commits_under_way_share_a_long_round_trip() {
    let change = |config: GroupConfig| config.for_round_trips(Duration::from_millis(40));
    let fleet = Fleet::found(5, 7, change).await;
    fleet.weather(Weather { delay_us: (20_000, 20_000), ..CALM });
    drop(fleet.load(1, 2, "elects").end().await);
    let before = Instant::now();
    let answered = fleet.load(64, 10, "long").end().await;
    let took = before.elapsed();
    assert_eq!(answered.len(), 640);
    // Ten commits one after the other, each a round trip and little more.
    assert!(took < Duration::from_millis(10 * 50), "{took:?}");
    fleet.close().await;
}

#[test]
fn a_seed_has_one_course() {
    let run = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut fleet = Fleet::found(3, 8, often).await;
            fleet.weather(STORM);
            let load = fleet.load(8, 20, "same");
            tokio::time::sleep(Duration::from_millis(400)).await;
            fleet.kill(1, Survivors::FirstBytes(50)).await;
            tokio::time::sleep(Duration::from_millis(900)).await;
            fleet.start(1, Start::Resume).await.unwrap();
            let answered = load.end().await;
            let trace = fleet.net.trace.load(Ordering::Relaxed);
            fleet.close().await;
            (answered, trace)
        })
    };
    assert_eq!(run(), run());
}
