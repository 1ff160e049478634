//! One HSM session on a TPM: a connection of its own, with the fleet's key loaded.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::commands::{HMAC_INPUT_MAX, Tpm};
use super::{Inside, Keys, Shared};
use crate::device::{BareCall, DeviceError, Element, Evaluation, HsmSession, Suite};
use crate::group::{Group, P256, Ristretto255};
use crate::key;

pub(super) struct TpmSession {
    shared: Arc<Shared>,
    tpm: Tpm,
    key: u32,
    /// Of [`BareCall::Hmac`], where the HSM session's own key is another: made at the first one.
    mac_key: Option<u32>,
    /// Commands that were no evaluation's: opening, bare calls.
    other_commands: u64,
}

impl TpmSession {
    pub(super) fn new(shared: Arc<Shared>, tpm: Tpm, key: u32) -> Self {
        let other_commands = tpm.commands();
        Self { shared, tpm, key, mac_key: None, other_commands }
    }

    fn evaluate_one(&mut self, job: &Evaluation) -> Result<Element, DeviceError> {
        match &self.shared.keys {
            Keys::Tweaked { tweaks } => {
                let point = P256::decode(job.blinded.as_bytes()).ok_or(DeviceError::BadElement)?;
                let tweak = tweaks.account_key::<P256>(&job.credential_identifier);
                let tweaked = P256::multiply(&point, &tweak);
                let auth = &self.shared.imported.auth[..];
                Ok(P256::encode(&self.tpm.multiply(self.key, auth, &tweaked)?))
            }
            Keys::Seed(Suite::Ristretto255Sha512) => self.evaluate_host::<Ristretto255>(job),
            Keys::Seed(Suite::P256Sha256) => self.evaluate_host::<P256>(job),
        }
    }

    /// The TPM expands the seed; the rest is the host's.
    fn evaluate_host<G: Group>(&mut self, job: &Evaluation) -> Result<Element, DeviceError> {
        let point = G::decode(job.blinded.as_bytes()).ok_or(DeviceError::BadElement)?;
        let seed = self.expand::<G>(&job.credential_identifier)?;
        let account_key = key::account_key_of_seed::<G>(&seed);
        Ok(G::encode(&G::multiply(&point, &account_key)))
    }

    /// HMAC inside the TPM, cut to the seed of an account key.
    fn expand<G: Group>(
        &mut self,
        credential_identifier: &[u8],
    ) -> Result<Zeroizing<[u8; key::KEY_SEED_LEN]>, DeviceError> {
        let mut input = Vec::with_capacity(credential_identifier.len() + 16);
        key::mac_input(credential_identifier, |part| input.extend_from_slice(part));
        if input.len() > HMAC_INPUT_MAX {
            let why = format!("TPM2_HMAC takes {HMAC_INPUT_MAX} bytes, and not {}", input.len());
            return Err(DeviceError::Failed(why));
        }
        let mac = self.tpm.hmac(self.key, &self.shared.imported.auth[..], G::SUITE, &input)?;
        let mut seed = Zeroizing::new([0; key::KEY_SEED_LEN]);
        seed.copy_from_slice(&mac[..key::KEY_SEED_LEN]);
        Ok(seed)
    }

    fn hmac(&mut self) -> Result<(), DeviceError> {
        let suite = self.shared.suite;
        let (handle, auth) = match (&self.shared.keys, self.mac_key) {
            (Keys::Seed(_), _) => (self.key, &self.shared.imported.auth),
            (Keys::Tweaked { .. }, Some(handle)) => (handle, &self.shared.imported.auth),
            (Keys::Tweaked { .. }, None) => {
                // Its value is nobody's secret: only its time matters.
                let inside = Inside::Mac(suite, Zeroizing::new(vec![0x5a; suite.seed_len()]));
                let auth = &self.shared.imported.auth;
                let (handle, _) =
                    super::load_new(&mut self.tpm, &self.shared.config, &inside, auth)?;
                self.mac_key = Some(handle);
                (handle, auth)
            }
        };
        self.tpm.hmac(handle, &auth[..], suite, &[0; 64])?;
        Ok(())
    }
}

impl HsmSession for TpmSession {
    fn evaluate(&mut self, jobs: &[Evaluation], results: &mut Vec<Result<Element, DeviceError>>) {
        results.extend(jobs.iter().map(|job| self.evaluate_one(job)));
    }

    fn device_calls(&self) -> u64 {
        self.tpm.commands() - self.other_commands
    }

    fn kill(&mut self) {
        self.tpm.kill();
    }

    fn bare_call(&mut self, call: BareCall) -> Result<(), DeviceError> {
        let before = self.tpm.commands();
        let done = match call {
            BareCall::Hmac => self.hmac(),
            BareCall::Wrap | BareCall::Unwrap => Err(DeviceError::Failed(
                "this adapter keeps no account keys wrapped by a TPM".to_owned(),
            )),
        };
        self.other_commands += self.tpm.commands() - before;
        done
    }
}

impl Drop for TpmSession {
    fn drop(&mut self) {
        // A TPM has room for three objects or so. Where the connection is gone, so are they, or the next
        // one to open takes them away.
        for handle in self.mac_key.into_iter().chain([self.key]) {
            let _flushed = self.tpm.flush(handle);
        }
    }
}
