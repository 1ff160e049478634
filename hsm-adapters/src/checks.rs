//! Whether a device answers rightly: questions whose answers the host knows, asked when an HSM session
//! opens and now and then between the others.
//!
//! A device that shows one coordinate proves every answer with a second one (`x_only.rs`). One that
//! gives the whole point, or works from a seed, could answer anything. A question is a random multiple
//! r·G for one of a few accounts that nobody has, and its answer r·K from their public keys: made as
//! clients' elements are, so that the device cannot tell it from theirs. With one in N evaluations
//! checked, a device that errs in every answer gives N wrong ones on average before it is caught, and
//! one that errs with probability p needs N / p evaluations to be caught, in which the same N are wrong.
//!
//! An HSM session that gave a wrong answer is quarantined: closed, counted, and not used again before
//! a new one in its place has passed the question at its opening.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::{RngCore, SeedableRng};
use zeroize::Zeroizing;

use crate::device::{
    DeviceError, Element, Evaluation, FleetSecrets, HsmAdapter, HsmSession, KeyProvision, Suite,
};
use crate::group::{Group, P256, Ristretto255};
use crate::key::{self, OprfSeed};
use crate::software::evaluate_with_key;

/// One in so many evaluations is checked unless the pool was told otherwise: 0.4 % of a device's
/// capacity, and on average 256 wrong answers given out before a device that errs in all of them is
/// caught.
pub const CHECKED_DEFAULT: NonZeroU32 = NonZeroU32::new(256).expect("not zero");

/// Accounts that questions are asked for. More than one, so that a device that always gives the same
/// answer is found out; few, since each costs a multiplication when the adapter opens.
const ACCOUNTS: u8 = 4;

/// Their credential identifiers, before a number: longer than an account's can be in this vault.
const IDENTIFIER: &[u8] = b"vaultmark checks its device with accounts that nobody has, number ";

/// What a quarantined HSM session is told by.
const QUARANTINED: &str = "quarantined: the device gave a wrong answer";

/// Questions to a device, and their answers.
pub struct KnownAnswers {
    suite: Suite,
    accounts: Vec<(Arc<[u8]>, Element)>,
    /// What r follows from; secret, so that a device cannot foretell a question.
    seed: Zeroizing<[u8; 32]>,
}

impl KnownAnswers {
    /// Questions for a device of this provision that holds these secrets; `None` where the host does not
    /// know the keys (`KeyInside`).
    #[must_use]
    pub fn of(provision: KeyProvision, suite: Suite, secrets: &FleetSecrets) -> Option<Self> {
        match suite {
            Suite::Ristretto255Sha512 => Self::for_group::<Ristretto255>(provision, secrets),
            Suite::P256Sha256 => Self::for_group::<P256>(provision, secrets),
        }
    }

    /// Questions for a device that recovers signs, and so proves every other answer by itself: only where
    /// it works from the seed is there anything to ask.
    #[must_use]
    pub fn of_seed(provision: KeyProvision, suite: Suite, secrets: &FleetSecrets) -> Option<Self> {
        if provision == KeyProvision::SeedInside {
            Self::of(provision, suite, secrets)
        } else {
            None
        }
    }

    fn for_group<G: Group>(provision: KeyProvision, secrets: &FleetSecrets) -> Option<Self> {
        let keys = OprfSeed::of(G::SUITE, secrets);
        let device_key = match provision {
            KeyProvision::Firmware | KeyProvision::SeedInside => None,
            KeyProvision::KeyInsideTweaked => Some(key::device_key::<G>(secrets)),
            KeyProvision::KeyInside => return None,
        };
        let generator = G::decode(generator(G::SUITE).as_bytes()).expect("the generator");
        let account = |number: u8| {
            let identifier: Arc<[u8]> = [IDENTIFIER, &[number]].concat().into();
            let mut public = G::multiply(&generator, &keys.account_key::<G>(&identifier));
            if let Some(device_key) = &device_key {
                public = G::multiply(&public, device_key);
            }
            (identifier, G::encode(&public))
        };
        let accounts = (0..ACCOUNTS).map(account).collect();
        let seed = keys.expand::<G>(IDENTIFIER);
        Some(Self { suite: G::SUITE, accounts, seed })
    }

    /// Question `number`, and its answer.
    #[must_use]
    pub fn question(&self, number: u64) -> (Evaluation, Element) {
        let mut chance = rand_chacha::ChaCha12Rng::from_seed(*self.seed);
        chance.set_stream(number);
        let mut r = Zeroizing::new([0; 32]);
        chance.fill_bytes(&mut *r);
        // Below the group's order, whichever byte is the highest.
        match self.suite {
            Suite::Ristretto255Sha512 => r[31] &= 0x0f,
            Suite::P256Sha256 => r[0] &= 0x7f,
        }
        let place = usize::try_from(number % u64::from(ACCOUNTS)).expect("four at most");
        let (identifier, public) = &self.accounts[place];
        let times_r = |element: &Element| {
            evaluate_with_key(self.suite, &*r, element)
                .expect("r is zero with probability 2⁻²⁵², and both are elements")
        };
        let blinded = times_r(&generator(self.suite));
        let evaluation = Evaluation::new(Arc::clone(identifier), blinded);
        (evaluation, times_r(public))
    }
}

impl std::fmt::Debug for KnownAnswers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KnownAnswers").field("suite", &self.suite).finish_non_exhaustive()
    }
}

/// What the HSM sessions of a pool are checked with, and what came of it.
#[derive(Debug)]
pub(crate) struct Checks {
    /// One in so many evaluations; `None`: only when HSM sessions open.
    every: Option<NonZeroU32>,
    asked: AtomicU64,
    evaluated: AtomicU64,
    wrong: AtomicU64,
}

/// What a batch of answers tells by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    answered: usize,
    refuted: usize,
}

impl Seen {
    /// Whether one of them is known to be wrong.
    pub(crate) fn any_wrong(self) -> bool {
        self.refuted > 0
    }

    pub(crate) fn of(answers: &[Result<Element, DeviceError>]) -> Self {
        let refuted =
            |answer: &&Result<_, DeviceError>| answer.as_ref().is_err_and(DeviceError::is_refuted);
        Self {
            answered: answers.iter().filter(|answer| answer.is_ok()).count(),
            refuted: answers.iter().filter(refuted).count(),
        }
    }
}

impl Checks {
    pub(crate) fn new(every: Option<NonZeroU32>) -> Self {
        Self {
            every,
            asked: AtomicU64::new(0),
            evaluated: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
        }
    }

    /// Questions asked.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Wrong answers: to questions, and such as their own second coordinate refuted.
    pub(crate) fn wrong(&self) -> u64 {
        self.wrong.load(Ordering::Relaxed)
    }

    /// Opens an HSM session that gives the right answer to a question.
    pub(crate) fn open(
        &self,
        adapter: &dyn HsmAdapter,
    ) -> Result<Box<dyn HsmSession>, DeviceError> {
        let mut session = adapter.open_session()?;
        if let Some(known) = adapter.known_answers() {
            self.ask(known, &mut *session)?;
        }
        Ok(session)
    }

    /// After answers were given out: whether the HSM session is to be trusted further, for which it may
    /// have to answer a question.
    ///
    /// # Errors
    /// [`DeviceError::SessionLost`]: it is not.
    pub(crate) fn after(
        &self,
        adapter: &dyn HsmAdapter,
        session: &mut dyn HsmSession,
        seen: Seen,
    ) -> Result<(), DeviceError> {
        if seen.any_wrong() {
            let refuted = u64::try_from(seen.refuted).unwrap_or(u64::MAX);
            self.wrong.fetch_add(refuted, Ordering::Relaxed);
            return Err(DeviceError::SessionLost(QUARANTINED.to_owned()));
        }
        let (Some(known), Some(every)) = (adapter.known_answers(), self.every) else {
            return Ok(());
        };
        if !self.is_due(known, every, seen.answered) {
            return Ok(());
        }
        match self.ask(known, session) {
            // What the device refuses is no wrong answer; the next evaluation will be refused as well.
            Err(DeviceError::Failed(_) | DeviceError::BadElement) => Ok(()),
            asked => asked,
        }
    }

    /// Throws a die for each of `answered` evaluations.
    fn is_due(&self, known: &KnownAnswers, every: NonZeroU32, answered: usize) -> bool {
        let answered = u64::try_from(answered).unwrap_or(u64::MAX);
        let first = self.evaluated.fetch_add(answered, Ordering::Relaxed);
        let [a, b, c, d, e, f, g, h, ..] = *known.seed;
        let seed = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        (first..first.saturating_add(answered))
            .any(|number| mix(seed ^ mix(number)).is_multiple_of(u64::from(every.get())))
    }

    fn ask(&self, known: &KnownAnswers, session: &mut dyn HsmSession) -> Result<(), DeviceError> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let (question, right) = known.question(number);
        let mut answers = Vec::with_capacity(1);
        session.evaluate(std::slice::from_ref(&question), &mut answers);
        match answers.pop() {
            Some(Ok(answer)) if answer == right => Ok(()),
            Some(Err(error)) if !error.is_refuted() => Err(error),
            _ => {
                self.wrong.fetch_add(1, Ordering::Relaxed);
                Err(DeviceError::SessionLost(QUARANTINED.to_owned()))
            }
        }
    }
}

/// SplitMix64's mixer: a die for each number, which nobody foretells who does not know the seed.
const fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The generator (RFC 9496 §A.1, SEC 2 §2.4.2).
fn generator(suite: Suite) -> Element {
    let bytes: &[u8] = match suite {
        Suite::Ristretto255Sha512 => &[
            0xe2, 0xf2, 0xae, 0x0a, 0x6a, 0xbc, 0x4e, 0x71, 0xa8, 0x84, 0xa9, 0x61, 0xc5, 0x00,
            0x51, 0x5f, 0x58, 0xe3, 0x0b, 0x6a, 0xa5, 0x82, 0xdd, 0x8d, 0xb6, 0xa6, 0x59, 0x45,
            0xe0, 0x8d, 0x2d, 0x76,
        ],
        Suite::P256Sha256 => &[
            0x03, 0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63,
            0xa4, 0x40, 0xf2, 0x77, 0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39,
            0x45, 0xd8, 0x98, 0xc2, 0x96,
        ],
    };
    Element::new(suite, bytes).expect("as long as the suite's elements")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::software::SoftwareAdapter;

    /// Failed sign recovery: the device's own answers tell.
    #[test]
    fn answers_that_refute_each_other_put_the_hsm_session_into_quarantine() {
        let secrets = FleetSecrets { oprf_seed: [1; 64], device_key_seed: [2; 32] };
        let adapter = SoftwareAdapter::new(Suite::P256Sha256, &secrets);
        let checks = Checks::new(None);
        let mut session = checks.open(&adapter).expect("it is right");
        let refuted = [Ok(generator(Suite::P256Sha256)), Err(DeviceError::refuted())];
        let fine =
            [Err(DeviceError::BadElement), Err(DeviceError::Failed("something else".to_owned()))];
        assert_eq!(checks.after(&adapter, &mut *session, Seen::of(&fine)), Ok(()));
        assert_eq!((checks.asked(), checks.wrong()), (1, 0));
        let quarantined = checks.after(&adapter, &mut *session, Seen::of(&refuted));
        assert_eq!(quarantined, Err(DeviceError::SessionLost(QUARANTINED.to_owned())));
        assert_eq!((checks.asked(), checks.wrong()), (1, 1));
    }
}
