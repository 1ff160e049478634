//! What a recovery costs the client that does every step and the lean one, with nothing around them: no
//! vault, no channel, no device. Both open the answers of one server, in turns.

use std::path::Path;
use std::time::Duration;

use opaque_ke::ksf::Identity;
use opaque_ke::{
    CipherSuite, ClientLogin, ClientLoginFinishParameters, CredentialResponse, Identifiers,
    TripleDh,
};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use vaultmark_hsm::software::SoftwareAdapter;
use vaultmark_hsm::{Element, Evaluation, FleetSecrets, HsmAdapter, HsmSession, Suite};
use zeroize::Zeroizing;

use super::keys::AccountKeys;
use super::{BackupKey, ExportKeys};
use crate::opaque::lean::LeanClient;
use crate::opaque::{CONTEXT, Login, OpaqueServer, ServerKeys, Stretcher, Stretching};
use crate::people::{KeysFile, Whose};
use crate::vault::proof;
use crate::vault::{AccountId, AttemptId};

const PASSWORD: &[u8] = b"correct horse battery staple";
const REFUSED: &str = "client and server take each other's messages";
/// Recoveries whose first steps are done before any of the second ones: as in a busy generator, and so many
/// that reading the clock is nothing beside them.
const TOGETHER: u32 = 64;
/// Accounts in the file of keys, all with the same ones: where they lie is what costs.
const ACCOUNTS: u64 = 10_000;

/// Processor time of one recovery, stretching left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCosts {
    /// opaque-ke's client, unmodified: `KE1`, and `KE3` out of `KE2`.
    pub theirs: Duration,
    /// The lean client's: the same, with the look-up of the account's keys.
    pub lean: Duration,
    /// What the lean client made before the run for it.
    pub before: Duration,
    /// What the vault asks for besides, by the client that does every step: the signature, the release opened
    /// and the key unwrapped.
    pub vault_full: Duration,
    /// The same by the lean client.
    pub vault_lean: Duration,
}

/// Measures recoveries of both kinds in turns, at least `rounds` of each. `cpu` tells the calling thread's
/// processor time; the file of keys is made in `folder`.
///
/// # Panics
/// Client and server refuse each other's messages, or the file cannot be made.
#[must_use]
pub fn costs(suite: Suite, rounds: u32, folder: &Path, cpu: impl Fn() -> Duration) -> ClientCosts {
    match suite {
        Suite::Ristretto255Sha512 => ristretto255::costs(suite, rounds, folder, cpu),
        Suite::P256Sha256 => p256::costs(suite, rounds, folder, cpu),
    }
}

/// A server with one account.
struct World {
    server: OpaqueServer,
    session: Box<dyn HsmSession>,
    lean: LeanClient,
    account: AccountId,
    upload: Vec<u8>,
    keys: KeysFile,
    backup_key: BackupKey,
    wrapped: Vec<u8>,
    chance: ChaCha20Rng,
}

impl World {
    fn new(suite: Suite, folder: &Path) -> Self {
        // A fixed seed: what it draws makes no difference to what it costs.
        let mut chance = ChaCha20Rng::seed_from_u64(1);
        let keys = ServerKeys::generate(suite, &mut chance);
        let secrets = FleetSecrets::generate(&mut chance);
        let public = keys.public_key().expect(REFUSED);
        let device = SoftwareAdapter::new(suite, &secrets);
        let whose =
            Whose { seed: 1, suite, stretching: Stretching::None, fleet: public.as_slice() };
        let kept = KeysFile::open(&folder.join(suite.name()), &whose);
        let mut world = Self {
            server: OpaqueServer::new(&keys, &mut chance).expect(REFUSED),
            session: device.open_session().expect("software opens HSM sessions"),
            lean: LeanClient::new(suite, &public).expect(REFUSED),
            account: AccountId::new(&[7; 16]).expect("16 bytes are enough for an account"),
            upload: Vec::new(),
            keys: kept.expect("the folder is there and empty"),
            backup_key: BackupKey::generate(&mut chance),
            wrapped: Vec::new(),
            chance,
        };
        world.register();
        world
    }

    fn register(&mut self) {
        let started = self.lean.start_registration(PASSWORD, &mut self.chance);
        let (request, blinded) = started.expect(REFUSED);
        let evaluated = self.evaluate(&request);
        let response = self.server.register(&request, &evaluated).expect(REFUSED);
        let (account, stretcher) = (self.account.as_bytes(), Stretcher::new(Stretching::None));
        let finished = self.lean.finish_registration(
            &blinded,
            PASSWORD,
            &response,
            account,
            &stretcher,
            &mut self.chance,
        );
        let (registered, private) = finished.expect(REFUSED);
        let keys = ExportKeys::new(&registered.export_key);
        self.upload = registered.upload;
        self.wrapped = keys.wrap(&self.account, &self.backup_key, &mut self.chance);
        let keys = keys.keep(&private);
        (0..ACCOUNTS).for_each(|account| self.keys.keep(account, &keys));
        self.keys.reached(ACCOUNTS).expect("the file can be written");
    }

    fn evaluate(&mut self, message: &[u8]) -> Element {
        let suite = self.lean.suite();
        let blinded = Element::new(suite, &message[..suite.element_len()]).expect(REFUSED);
        let mut results = Vec::with_capacity(1);
        self.session.evaluate(&[Evaluation::new(b"account".to_vec(), blinded)], &mut results);
        results.remove(0).expect(REFUSED)
    }

    fn answer(&mut self, ke1: &[u8]) -> (Vec<u8>, Login) {
        let (parsed, _) = self.server.parse_ke1(ke1).expect(REFUSED);
        let evaluated = self.evaluate(ke1);
        let (account, chance) = (self.account.as_bytes(), &mut self.chance);
        self.server.log_in(parsed, &evaluated, &self.upload, account, chance).expect(REFUSED)
    }

    /// What the vault releases to who has finished.
    fn release(&self, login: Login, ke3: &[u8], attempt: AttemptId) -> Vec<u8> {
        let session_key = login.finish(ke3, self.account.as_bytes()).expect(REFUSED);
        proof::seal_release(&session_key, &self.account, attempt, &self.wrapped)
    }

    /// Recoveries by the lean client: opening, before, and what the vault asks for besides.
    fn lean(&mut self, cpu: &impl Fn() -> Duration) -> [Duration; 3] {
        let begun = cpu();
        let mut chances: Vec<ChaCha20Rng> =
            (0..TOGETHER).map(|_| ChaCha20Rng::from_seed(seed(&mut self.chance))).collect();
        let prepared = self.lean.prepare(&mut chances);
        let before = cpu().saturating_sub(begun);
        let begun = cpu();
        let ke1s: Vec<Vec<u8>> = prepared.iter().map(|one| self.lean.ke1(one)).collect();
        let mut opening = cpu().saturating_sub(begun);
        let answers: Vec<_> = ke1s.iter().map(|ke1| self.answer(ke1)).collect();
        let places: Vec<u64> =
            (0..TOGETHER).map(|_| place(seed(&mut self.chance)) % ACCOUNTS).collect();
        let begun = cpu();
        let account = self.account.as_bytes();
        let opened: Vec<(AccountKeys, Vec<u8>, Zeroizing<Vec<u8>>)> = prepared
            .iter()
            .zip(&answers)
            .zip(&places)
            .map(|((prepared, (ke2, _)), place)| {
                let keys = self.keys.look_up(*place).expect("every account has keys");
                let opened = self.lean.open_known(prepared, &keys.private, ke2, account);
                let (ke3, session_key) = opened.expect(REFUSED);
                (keys, ke3, session_key)
            })
            .collect();
        opening += cpu().saturating_sub(begun);
        let attempt = AttemptId([3; 16]);
        let (ke2s, logins): (Vec<Vec<u8>>, Vec<Login>) = answers.into_iter().unzip();
        let released: Vec<Vec<u8>> = logins
            .into_iter()
            .zip(&opened)
            .map(|(login, (_, ke3, _))| self.release(login, ke3, attempt))
            .collect();
        let begun = cpu();
        for (n, (keys, _, session_key)) in opened.iter().enumerate() {
            let hash = proof::ke2_hash(&ke2s[n]);
            let statement = proof::finish_statement(&self.account, attempt, &ke1s[n], &hash);
            let signature = prepared[n].sign(&keys.signing, &statement);
            std::hint::black_box(signature);
            let wrapped = proof::open_release(session_key, &self.account, attempt, &released[n]);
            let key = keys.unwrap(&self.account, &wrapped.expect(REFUSED));
            assert!(key.as_ref() == Some(&self.backup_key), "{REFUSED}");
        }
        [opening, before, cpu().saturating_sub(begun)]
    }
}

fn seed(chance: &mut ChaCha20Rng) -> [u8; 32] {
    let mut seed = [0; 32];
    rand::RngCore::fill_bytes(chance, &mut seed);
    seed
}

fn place(seed: [u8; 32]) -> u64 {
    seed.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

// One macro, since opaque-ke's length arithmetic is checked for concrete suites only.
macro_rules! clients {
    ($module:ident, $oprf:ty, $group:ty, $hash:ty) => {
        mod $module {
            use super::*;

            /// As anybody would call it: opaque-ke's own group, not the vault's faster one.
            #[derive(Debug)]
            struct Plain;

            impl CipherSuite for Plain {
                type OprfCs = $oprf;
                type KeyExchange = TripleDh<$group, $hash>;
                type Ksf = Identity;
            }

            pub(super) fn costs(
                suite: Suite,
                rounds: u32,
                folder: &Path,
                cpu: impl Fn() -> Duration,
            ) -> ClientCosts {
                let mut world = World::new(suite, folder);
                let mut sum = ClientCosts::default();
                let turns = rounds.div_ceil(TOGETHER).max(1);
                for _ in 0..turns {
                    let [theirs, vault_full] = full(&mut world, &cpu);
                    let [lean, before, vault_lean] = world.lean(&cpu);
                    sum.theirs += theirs;
                    sum.vault_full += vault_full;
                    sum.lean += lean;
                    sum.before += before;
                    sum.vault_lean += vault_lean;
                }
                let done = turns * TOGETHER;
                ClientCosts {
                    theirs: sum.theirs / done,
                    lean: sum.lean / done,
                    before: sum.before / done,
                    vault_full: sum.vault_full / done,
                    vault_lean: sum.vault_lean / done,
                }
            }

            fn full(world: &mut World, cpu: &impl Fn() -> Duration) -> [Duration; 2] {
                let begun = cpu();
                let started: Vec<(Vec<u8>, ClientLogin<Plain>)> = (0..TOGETHER)
                    .map(|_| {
                        let started = ClientLogin::<Plain>::start(&mut world.chance, PASSWORD);
                        let started = started.expect(REFUSED);
                        (started.message.serialize().to_vec(), started.state)
                    })
                    .collect();
                let mut opening = cpu().saturating_sub(begun);
                let (ke1s, states): (Vec<Vec<u8>>, Vec<ClientLogin<Plain>>) =
                    started.into_iter().unzip();
                let (ke2s, logins): (Vec<Vec<u8>>, Vec<Login>) =
                    ke1s.iter().map(|ke1| world.answer(ke1)).unzip();
                let account = world.account;
                let begun = cpu();
                let opened: Vec<(Vec<u8>, Zeroizing<Vec<u8>>, Zeroizing<Vec<u8>>)> = states
                    .into_iter()
                    .zip(&ke2s)
                    .map(|(state, ke2)| {
                        let identifiers =
                            Identifiers { client: Some(account.as_bytes()), server: None };
                        let parameters =
                            ClientLoginFinishParameters::new(Some(CONTEXT), identifiers, None);
                        let ke2 = CredentialResponse::<Plain>::deserialize(ke2).expect(REFUSED);
                        let finished = state.finish(&mut world.chance, PASSWORD, ke2, parameters);
                        let finished = finished.expect(REFUSED);
                        let ke3 = finished.message.serialize().to_vec();
                        let session_key = Zeroizing::new(finished.session_key.to_vec());
                        (ke3, session_key, Zeroizing::new(finished.export_key.to_vec()))
                    })
                    .collect();
                opening += cpu().saturating_sub(begun);
                let attempt = AttemptId([3; 16]);
                let released: Vec<Vec<u8>> = logins
                    .into_iter()
                    .zip(&opened)
                    .map(|(login, (ke3, ..))| world.release(login, ke3, attempt))
                    .collect();
                let begun = cpu();
                for (n, (_, session_key, export_key)) in opened.iter().enumerate() {
                    let keys = ExportKeys::new(export_key);
                    let hash = proof::ke2_hash(&ke2s[n]);
                    let statement = proof::finish_statement(&account, attempt, &ke1s[n], &hash);
                    std::hint::black_box(keys.sign(&statement));
                    let wrapped = proof::open_release(session_key, &account, attempt, &released[n]);
                    let key = keys.unwrap(&account, &wrapped.expect(REFUSED));
                    assert!(key.as_ref() == Some(&world.backup_key), "{REFUSED}");
                }
                [opening, cpu().saturating_sub(begun)]
            }
        }
    };
}

clients!(ristretto255, opaque_ke::Ristretto255, opaque_ke::Ristretto255, sha2::Sha512);
clients!(p256, ::p256::NistP256, ::p256::NistP256, sha2::Sha256);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_has_its_costs() {
        let ticks = std::cell::Cell::new(0);
        let clock = || {
            ticks.set(ticks.get() + 1);
            Duration::from_millis(ticks.get())
        };
        let folder = tempfile::tempdir().unwrap();
        for suite in Suite::ALL {
            let costs = costs(suite, 1, folder.path(), clock);
            let ticks = |count: u32| Duration::from_millis(count.into()) / TOGETHER;
            assert_eq!((costs.theirs, costs.lean, costs.before), (ticks(2), ticks(2), ticks(1)));
            assert_eq!((costs.vault_full, costs.vault_lean), (ticks(1), ticks(1)));
        }
    }
}
