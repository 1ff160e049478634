//! How many bytes an account takes on disk, how long a store with many takes to open, and how fast
//! commands apply: `cargo run --release --example store_size -- FOLDER [ACCOUNTS [EVERY]]`.
//!
//! Accounts are registered as a replica applies it, with a checkpoint every so many commands; then
//! everything is read and checked, merged, and read again. No log, no quorum: those are measured
//! elsewhere.

#![expect(clippy::print_stdout, reason = "an example that reports")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vaultmark_hsm::{Clock, SystemClock};
use vaultmark_targets::quorum::StateMachine;
use vaultmark_targets::vault::command::{ChargedId, Command, RegistrationRef};
use vaultmark_targets::vault::state::{ACCOUNTS_MAX, CACHE_MAX, verify};
use vaultmark_targets::vault::store::{FjallStore, StorageKey, Store};
use vaultmark_targets::vault::{AccountId, AttemptId, RegistrationId, VaultState};

/// Commands between two checkpoints, as in a group of the vault.
const EVERY: u64 = 150_000;
/// Accounts that are charged and reset while they are in memory.
const WARM: u64 = 10_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("which folder?")?;
    let accounts: u64 = arguments.next().map_or(Ok(100_000), |number| number.parse())?;
    let every: u64 = arguments.next().map_or(Ok(EVERY), |number| number.parse())?;
    let clock = SystemClock::start()?;
    let key = StorageKey::new([1; 32]);
    let started = clock.now();
    let told = |what: &str| {
        println!("{:8.2} s  {what}", clock.now().since(started).as_secs_f64());
    };
    let store = Arc::new(FjallStore::open(Path::new(&folder))?);
    let mut state = VaultState::open(Arc::clone(&store) as _, &key, ACCOUNTS_MAX, CACHE_MAX)?;
    let mut commands = 0_u64;
    let mut longest = Duration::ZERO;
    for number in 0..accounts {
        for command in register(number) {
            state.apply(&command)?;
            commands += 1;
            if commands.is_multiple_of(every) {
                let before = clock.now();
                let work = state.checkpoint(commands.to_le_bytes().to_vec());
                longest = longest.max(clock.now().since(before));
                work()?;
                told(&format!("{} accounts, {} bytes", number + 1, store.disk_bytes()?));
            }
        }
    }
    state.checkpoint(commands.to_le_bytes().to_vec())()?;
    let each = |bytes: u64| format!("{bytes} bytes, {} an account", bytes / accounts.max(1));
    told(&format!("registered; {}; begun in {longest:?}", each(store.disk_bytes()?)));
    let before = clock.now();
    warm(&mut state)?;
    let took = clock.now().since(before);
    told(&format!("{WARM} x 20 charges and resets in memory: {took:?}"));
    drop(state);
    store.compact()?;
    told(&format!("merged; {}", each(store.disk_bytes()?)));
    drop(store);
    let before = clock.now();
    let store = Arc::new(FjallStore::open(Path::new(&folder))?);
    let mut state = VaultState::open(Arc::clone(&store) as _, &key, ACCOUNTS_MAX, CACHE_MAX)?;
    told(&format!("opened in {:?}; {}", clock.now().since(before), each(store.disk_bytes()?)));
    let before = clock.now();
    for number in 0..WARM {
        // Here and there, so that no two are in one block.
        let account = AccountId::synthetic(number.wrapping_mul(7_919) % accounts);
        state
            .apply(&Command::Charge { account, attempt: AttemptId([9; 16]), now_ms: 1 }.encode())?;
    }
    told(&format!("{WARM} charges of accounts on disk: {:?}", clock.now().since(before)));
    told(&format!("{} accounts are what was sealed", verify(&*store, &key)?));
    Ok(())
}

fn register(number: u64) -> [Vec<u8>; 2] {
    let account = AccountId::synthetic(number);
    let id = RegistrationId([7; 16]);
    // Incompressible, as real ones are.
    let noise = |at: u64| number.wrapping_add(at).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    let record: Vec<u8> = (0..24).flat_map(noise).collect();
    let registration =
        RegistrationRef { id, record: &record, verifying_key: [5; 32], wrapped_key: &record[..60] };
    let pending = Command::RegisterPending { account, registration, now_ms: 1 };
    [pending.encode(), Command::Confirm { account, registration: id, now_ms: 1 }.encode()]
}

fn warm(state: &mut VaultState) -> Result<(), Box<dyn Error>> {
    let registration = RegistrationId([7; 16]);
    for round in 0..20_u8 {
        for number in 0..WARM {
            let (account, attempt) = (AccountId::synthetic(number), AttemptId([round; 16]));
            state.apply(&Command::Charge { account, attempt, now_ms: 1 }.encode())?;
            let charged = ChargedId { account, generation: 1, registration, attempt };
            state.apply(&Command::Reset { charged, now_ms: 1 }.encode())?;
        }
    }
    Ok(())
}
