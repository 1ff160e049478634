//! What people do: register, recover, guess, repeat themselves, mix up messages, and walk away.
//!
//! They speak to the vault over the real channel. Nobody is patient: an operation that fails is over.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::{Rng, RngCore};
use rand_chacha::ChaCha20Rng;
use tokio::time::sleep;

use super::disk::ATTEMPT_MAGIC;
use super::fleet::{ClientWay, Fleet};
use super::history::{History, Ticket};
use super::linear::{Action, Seen};
use super::lock;
use super::standin::{Blinded, Guess, Opened, Password, ke1, wrong_ke3};
use super::watch::Registration;
use crate::vault::channel::ChannelService;
use crate::vault::proof;
use crate::vault::{
    AccountId, AttemptId, Failure, Refusal, RegistrationId, VaultReply, VaultRequest, VaultService,
};

/// Passwords that people choose: few, so that guesses are right now and then.
const PASSWORDS: Password = 4;
/// Attempts that are remembered to be repeated or mixed up.
const REMEMBERED_MAX: usize = 8;
/// How long people wait between two operations, at most.
const THINK_MS_MAX: u64 = 60;

/// What people know of each other.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) fleet: Arc<Fleet>,
    pub(super) history: Arc<History>,
    left: Mutex<u32>,
    passwords: Mutex<BTreeMap<AccountId, Password>>,
    attempts: Mutex<Vec<Known>>,
}

/// An attempt that was begun.
#[derive(Clone, Debug)]
struct Known {
    account: AccountId,
    attempt: AttemptId,
    guess: Guess,
    /// Its `KE2`, if it came.
    ke2: Option<Vec<u8>>,
}

impl Shared {
    pub(super) fn new(fleet: Arc<Fleet>, history: Arc<History>) -> Self {
        let left = Mutex::new(fleet.plan.operations);
        let (passwords, attempts) = (Mutex::default(), Mutex::default());
        Self { fleet, history, left, passwords, attempts }
    }

    /// Takes one of the operations that are left.
    fn take(&self) -> bool {
        let mut left = lock(&self.left);
        let is_left = *left > 0;
        *left = left.saturating_sub(1);
        is_left
    }

    /// How many operations are left.
    pub(super) fn left(&self) -> u32 {
        *lock(&self.left)
    }

    fn remember(&self, known: Known) {
        let mut attempts = lock(&self.attempts);
        if attempts.len() == REMEMBERED_MAX {
            attempts.remove(0);
        }
        attempts.push(known);
    }
}

/// One person.
#[derive(Debug)]
pub(super) struct Person {
    shared: Arc<Shared>,
    number: usize,
    chance: ChaCha20Rng,
    service: ChannelService<ClientWay>,
    /// Operations that ended as they should.
    pub(super) progress: u64,
}

#[derive(Clone, Copy)]
enum Wish {
    Register,
    Recover,
    Guess,
    Replay,
    Delete,
    Unknown,
}

impl Person {
    pub(super) fn new(shared: Arc<Shared>, number: usize) -> Self {
        let fleet = &shared.fleet;
        let way = ClientWay(Arc::clone(fleet));
        let key = fleet.channel_key.public();
        let service = ChannelService::new(way, key, fleet.clock(), fleet.fork());
        let chance = fleet.fork();
        Self { shared, number, chance, service, progress: 0 }
    }

    /// Does what is left to be done.
    pub(super) async fn live(mut self) -> Self {
        while self.shared.take() {
            self.operation().await;
            sleep(Duration::from_millis(self.chance.gen_range(0..=THINK_MS_MAX))).await;
        }
        self
    }

    /// One operation of some kind.
    pub(super) async fn operation(&mut self) {
        let people = self.shared.fleet.plan.people;
        let weights = [
            (Wish::Register, people.register),
            (Wish::Recover, people.recover),
            (Wish::Guess, people.guess),
            (Wish::Replay, people.replay),
            (Wish::Delete, people.delete),
            (Wish::Unknown, people.unknown),
        ];
        let account =
            AccountId::synthetic(self.chance.gen_range(0..self.shared.fleet.plan.accounts));
        let known = lock(&self.shared.passwords).get(&account).copied();
        let guessed = self.chance.gen_range(0..PASSWORDS);
        match super::pick(&weights, &mut self.chance) {
            Wish::Register => self.register(account, guessed).await,
            Wish::Recover => self.recover(account, known.unwrap_or(guessed)).await,
            Wish::Guess => self.recover(account, guessed).await,
            Wish::Replay => self.replay().await,
            Wish::Delete => self.delete(account).await,
            Wish::Unknown => {
                let nobody = AccountId::synthetic(self.chance.gen_range(1_000..1_010));
                self.recover(nobody, guessed).await;
            }
        }
    }

    async fn register(&mut self, account: AccountId, password: Password) {
        let guess = Guess::draw(Blinded::Register, password, &mut self.chance);
        let request = VaultRequest::RegisterStart { account, request: guess.element().to_vec() };
        let VaultReply::RegisterStarted { registration, response } = self.ask(request).await else {
            return;
        };
        let Some(opened) = Opened::new(&guess, &response) else { return };
        if self.walks_away() {
            return;
        }
        let mut key = [0; 32];
        self.chance.fill_bytes(&mut key);
        let watch = &self.shared.fleet.watch;
        watch.uploads(registration, Registration { password, key });
        let upload = VaultRequest::RegisterUpload {
            account,
            registration,
            upload: opened.upload(),
            verifying_key: opened.signing().verifying_key().to_bytes(),
            wrapped_key: key.to_vec(),
        };
        let ticket = self.begins(account, Action::Upload(registration));
        let VaultReply::Pending { nonce, previously_destroyed } = self.ask(upload).await else {
            return self.ends(&ticket, Seen::Nothing, "not uploaded");
        };
        self.ends(&ticket, Seen::Pending { previously_destroyed }, "uploaded");
        if self.walks_away() {
            return;
        }
        let statement = proof::confirm_statement(&account, registration, &nonce);
        let confirm = VaultRequest::RegisterConfirm {
            account,
            registration,
            signature: opened.sign(&statement),
        };
        let times = if self.chance.gen_range(0..8) == 0 { 2 } else { 1 };
        for _ in 0..times {
            self.confirm((account, registration, password), confirm.clone()).await;
        }
    }

    async fn confirm(
        &mut self,
        (account, registration, password): (AccountId, RegistrationId, Password),
        confirm: VaultRequest,
    ) {
        let ticket = self.begins(account, Action::Confirm(registration));
        match self.ask(confirm).await {
            VaultReply::Confirmed { generation, left, previously_destroyed } => {
                let seen = Seen::Confirmed { generation, left, previously_destroyed };
                self.ends(&ticket, seen, "confirmed");
                self.shared.fleet.watch.acknowledged(account, registration);
                lock(&self.shared.passwords).insert(account, password);
                self.progress += 1;
            }
            VaultReply::Refused(Refusal::LastOutstanding) => {
                self.ends(&ticket, Seen::LastOutstanding, "a last attempt is outstanding");
            }
            VaultReply::Refused(Refusal::Destroyed) => {
                self.ends(&ticket, Seen::Destroyed, "destroyed");
            }
            reply => self.unsuccessful(&ticket, &reply),
        }
    }

    /// Recovers; with the right password it gets the key.
    pub(super) async fn recover(&mut self, account: AccountId, password: Password) {
        let guess = Guess::draw(Blinded::Recover, password, &mut self.chance);
        let mut id = [0; 16];
        self.chance.fill_bytes(&mut id);
        id[..ATTEMPT_MAGIC.len()].copy_from_slice(&ATTEMPT_MAGIC);
        let known = Known { account, attempt: AttemptId(id), guess, ke2: None };
        if let Some(key) = self.attempt(known).await {
            self.progress += 1;
            self.shared.fleet.watch.released(account, AttemptId(id), &key);
        }
    }

    /// Begins an attempt, and may finish it; the key, if it was released.
    async fn attempt(&mut self, mut known: Known) -> Option<Vec<u8>> {
        let Known { account, attempt, guess, .. } = known;
        let sent = ke1(&guess);
        self.shared.fleet.watch.attempts(attempt, &guess);
        let ticket = self.begins(account, Action::Start(attempt));
        let start = VaultRequest::RecoverStart { account, attempt, ke1: sent.clone() };
        let ke2 = match self.ask(start).await {
            VaultReply::RecoverStarted { ke2 } => ke2,
            VaultReply::Refused(Refusal::Destroyed) => {
                self.ends(&ticket, Seen::Destroyed, "destroyed");
                return None;
            }
            reply => {
                self.unsuccessful(&ticket, &reply);
                self.shared.remember(known);
                return None;
            }
        };
        self.ends(&ticket, Seen::Started, "answered");
        known.ke2 = Some(ke2.clone());
        self.shared.remember(known);
        let opened = Opened::new(&guess, &ke2)?;
        if self.walks_away() {
            return None;
        }
        if !opened.opens(&ke2) {
            // Who guessed wrong can do no better than to make something up.
            if self.chance.gen_range(0..2) == 0 {
                let ke3 = wrong_ke3(&mut self.chance);
                self.finish((account, attempt), (ke3, [0; 64]), false).await;
            }
            return None;
        }
        let (ke3, session_key) = opened.finish(&sent, &ke2);
        let statement = proof::finish_statement(&account, attempt, &sent, &proof::ke2_hash(&ke2));
        let signature = opened.sign(&statement);
        self.shared.fleet.watch.proves(attempt);
        let sealed = self.finish((account, attempt), (ke3, signature), true).await?;
        let key = proof::open_release(&session_key, &account, attempt, &sealed);
        if key.is_none() {
            let what = format_args!("what was released for {attempt:?} does not open");
            self.shared.fleet.watch.violated(Some(account), what);
        }
        key.map(|key| key.to_vec())
    }

    async fn finish(
        &mut self,
        (account, attempt): (AccountId, AttemptId),
        (ke3, signature): (Vec<u8>, [u8; 64]),
        is_genuine: bool,
    ) -> Option<Vec<u8>> {
        let ticket = self.begins(account, Action::Finish(attempt, is_genuine));
        let finish = VaultRequest::RecoverFinish { account, attempt, ke3, signature };
        match self.ask(finish).await {
            VaultReply::Released { sealed } => {
                self.ends(&ticket, Seen::Released, "released");
                return Some(sealed);
            }
            VaultReply::Refused(Refusal::Destroyed) => {
                self.ends(&ticket, Seen::Destroyed, "destroyed");
            }
            reply => self.unsuccessful(&ticket, &reply),
        }
        None
    }

    /// Repeats an attempt, or sends one attempt's KE3 as another's.
    async fn replay(&mut self) {
        let attempts = lock(&self.shared.attempts).clone();
        if attempts.is_empty() {
            return;
        }
        let one = attempts[self.chance.gen_range(0..attempts.len())].clone();
        if self.chance.gen_range(0..2) == 0 {
            drop(self.attempt(one).await);
            return;
        }
        // It needs a channel for the account, which any beginning opens.
        let other = &attempts[self.chance.gen_range(0..attempts.len())];
        let Some(ke2) = &one.ke2 else { return };
        let Some(opened) = Opened::new(&one.guess, ke2) else { return };
        let (ke3, _) = opened.finish(&ke1(&one.guess), ke2);
        let (account, attempt) = (other.account, other.attempt);
        let start = VaultRequest::RecoverStart { account, attempt, ke1: ke1(&other.guess) };
        let ticket = self.begins(account, Action::Start(attempt));
        match self.ask(start).await {
            VaultReply::RecoverStarted { .. } => self.ends(&ticket, Seen::Started, "answered"),
            VaultReply::Refused(Refusal::Destroyed) => {
                return self.ends(&ticket, Seen::Destroyed, "destroyed");
            }
            reply => self.unsuccessful(&ticket, &reply),
        }
        drop(self.finish((account, attempt), (ke3, [0; 64]), false).await);
    }

    async fn delete(&mut self, account: AccountId) {
        let ticket = self.begins(account, Action::Delete);
        match self.ask(VaultRequest::Delete { account }).await {
            VaultReply::Deleted => self.ends(&ticket, Seen::Deleted, "deleted"),
            VaultReply::Refused(Refusal::Destroyed) => {
                self.ends(&ticket, Seen::Destroyed, "destroyed");
            }
            reply => self.unsuccessful(&ticket, &reply),
        }
    }

    async fn ask(&self, request: VaultRequest) -> VaultReply {
        self.service.call(request).await.reply
    }

    fn walks_away(&mut self) -> bool {
        self.chance.gen_range(0..16) == 0
    }

    fn begins(&self, account: AccountId, action: Action) -> Ticket {
        let Shared { fleet, history, .. } = &*self.shared;
        fleet.trace.note(format_args!("client {} asks {action:?} of {account:?}", self.number));
        let at = (fleet.watch.event(), fleet.trace.at());
        history.begins((account, self.number), action, at)
    }

    fn ends(&self, ticket: &Ticket, seen: Seen, words: &'static str) {
        let Shared { fleet, history, .. } = &*self.shared;
        fleet.trace.note(format_args!("client {} is told: {words}", self.number));
        history.ends(ticket, (seen, words), (fleet.watch.event(), fleet.trace.at()));
    }

    /// Ends a call that was refused: surely without effect, or nobody knows.
    fn unsuccessful(&self, ticket: &Ticket, reply: &VaultReply) {
        let (seen, words) = match reply {
            VaultReply::Refused(refusal) => match refusal {
                Refusal::Busy
                | Refusal::Malformed
                | Refusal::Rejected
                | Refusal::Replayed
                | Refusal::NoSuchRegistration
                | Refusal::Superseded
                | Refusal::Failed(Failure::NoLeader | Failure::LogFull | Failure::TooLong) => {
                    (Seen::Refused, refusal.describe())
                }
                _ => (Seen::Nothing, refusal.describe()),
            },
            _ => (Seen::Nothing, "a reply to something else"),
        };
        self.ends(ticket, seen, words);
    }
}
