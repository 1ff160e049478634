//! A person's whole way, as a backup program goes it: encrypt, register, lose everything but the file
//! and the secret, recover, decrypt.

use std::ops::ControlFlow;

use rand::rngs::OsRng;
use vaultmark_hsm::Suite;
use zeroize::Zeroizing;

use super::{BackupKey, ClientError, Person, Secret};
use crate::backup::{self, Header};
use crate::opaque::Stretching;
use crate::vault::testing::Bench;
use crate::vault::{AccountId, Refusal};

fn password(text: &str) -> Secret {
    Secret::Password(Zeroizing::new(text.as_bytes().to_vec()), Stretching::Light)
}

#[test]
fn a_backup_comes_back_under_password_and_passkey() {
    let original: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    for suite in Suite::ALL {
        let bench = Bench::new(suite);
        let passkey = || Secret::Passkey(Zeroizing::new([7; 32]));
        for (n, secret, wrong) in
            [(1, password("right"), password("wrong")), (2, passkey(), password("right"))]
        {
            let person =
                || Person::new(&bench.server, bench.client.clone(), AccountId::synthetic(n));
            let key = BackupKey::generate(&mut OsRng);
            let mut file = Vec::new();
            let go_on = &mut |_| ControlFlow::Continue(());
            let from = &mut &original[..];
            backup::encrypt(&key, secret.custody(), &mut OsRng, from, &mut file, go_on).unwrap();
            let registered = bench.runtime.block_on(person().register(&secret, &key)).unwrap();
            assert_eq!((registered.generation, registered.left), (1, 10));

            let end = bench.runtime.block_on(person().recover(&wrong));
            assert_eq!(end, Err(ClientError::WrongPassword));
            let recovered = bench.runtime.block_on(person().recover(&secret)).unwrap();
            let from = &mut &file[..];
            let header = Header::read(from).unwrap();
            assert_eq!(header.custody(), secret.custody());
            let mut restored = Vec::new();
            header.decrypt(&recovered, from, &mut restored, go_on).unwrap();
            assert!(restored == original, "byte for byte");

            bench.runtime.block_on(person().delete()).unwrap();
            let end = bench.runtime.block_on(person().recover(&secret));
            assert_eq!(end, Err(ClientError::WrongPassword));
        }
    }
}

#[test]
fn ten_wrong_passwords_destroy() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    let person = Person::new(&bench.server, bench.client.clone(), AccountId::synthetic(1));
    let secret = password("right");
    let key = BackupKey::generate(&mut OsRng);
    bench.runtime.block_on(person.register(&secret, &key)).unwrap();
    for _ in 0..10 {
        let end = bench.runtime.block_on(person.recover(&password("wrong")));
        assert_eq!(end, Err(ClientError::WrongPassword));
    }
    let end = bench.runtime.block_on(person.recover(&secret)).unwrap_err();
    let gone = [Refusal::LastOutstanding, Refusal::Destroyed].map(ClientError::Refused);
    assert!(gone.contains(&end), "{end}");
}
