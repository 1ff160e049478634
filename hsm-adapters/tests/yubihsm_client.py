"""Yubico's own client of a YubiHSM 2 against whatever answers at a connector's address.

    python yubihsm_client.py http://127.0.0.1:12345   (the password on standard input)

Uses a factory-like authentication key 1, deletes what it makes, and prints how many commands were answered
as they should be. Ends with an exception at the first one that was not.
"""

import sys

from cryptography.hazmat.primitives.asymmetric import ec
from yubihsm import YubiHsm
from yubihsm.defs import ALGORITHM, CAPABILITY, ERROR, OBJECT
from yubihsm.exceptions import YubiHsmAuthenticationError, YubiHsmDeviceError
from yubihsm.objects import AsymmetricKey, AuthenticationKey, HmacKey, WrapKey

import hashlib
import hmac

url, password = sys.argv[1], sys.stdin.readline().rstrip("\n")
done = 0


def check(is_right):
    global done
    assert is_right, f"command {done + 1}"
    done += 1


def refused(code, call):
    try:
        call()
    except YubiHsmDeviceError as error:
        check(error.code == code)
    else:
        check(False)


hsm = YubiHsm.connect(url)
check(ALGORITHM.EC_ECDH in hsm.get_device_info().supported_algorithms)
try:
    hsm.create_session_derived(1, password + " not")
except YubiHsmAuthenticationError:
    check(True)
else:
    check(False)
refused(ERROR.OBJECT_NOT_FOUND, lambda: hsm.create_session_derived(77, password))
session = hsm.create_session_derived(1, password)
check(len(session.get_pseudo_random(100)) == 100)

# Derive ECDH: with a key of the device's, and with one of ours on either side.
made = AsymmetricKey.generate(
    session, 0, "vaultmark-python", 1, CAPABILITY.DERIVE_ECDH, ALGORITHM.EC_P256
)
ours = ec.generate_private_key(ec.SECP256R1())
put = AsymmetricKey.put(session, 0, "vaultmark-python", 1, CAPABILITY.DERIVE_ECDH, ours)
check(put.get_public_key().public_numbers() == ours.public_key().public_numbers())
for _ in range(10):
    peer = ec.generate_private_key(ec.SECP256R1())
    check(made.derive_ecdh(peer.public_key()) == peer.exchange(ec.ECDH(), made.get_public_key()))
    check(put.derive_ecdh(peer.public_key()) == ours.exchange(ec.ECDH(), peer.public_key()))
idle = AsymmetricKey.generate(session, 0, "vaultmark-python", 1, 0, ALGORITHM.EC_P256)
refused(ERROR.INSUFFICIENT_PERMISSIONS, lambda: idle.derive_ecdh(ours.public_key()))

# HMAC.
secret = bytes(range(32))
both = CAPABILITY.SIGN_HMAC | CAPABILITY.VERIFY_HMAC
for algorithm, name in [
    (ALGORITHM.HMAC_SHA256, "sha256"),
    (ALGORITHM.HMAC_SHA384, "sha384"),
    (ALGORITHM.HMAC_SHA512, "sha512"),
]:
    key = HmacKey.put(session, 0, "vaultmark-python", 1, both, secret, algorithm)
    tag = key.sign_hmac(b"text")
    check(tag == hmac.new(secret, b"text", getattr(hashlib, name)).digest())
    check(key.verify_hmac(tag, b"text"))
    check(not key.verify_hmac(tag, b"another text"))
    key.delete()

# Wrapping: out, gone, back, the same.
of_key = CAPABILITY.DERIVE_ECDH | CAPABILITY.EXPORTABLE_UNDER_WRAP
wrap = WrapKey.generate(
    session,
    0,
    "vaultmark-python",
    1,
    CAPABILITY.EXPORT_WRAPPED | CAPABILITY.IMPORT_WRAPPED,
    ALGORITHM.AES256_CCM_WRAP,
    of_key,
)
goes = AsymmetricKey.generate(session, 0, "vaultmark-python", 1, of_key, ALGORITHM.EC_P256)
public = goes.get_public_key().public_numbers()
wrapped = wrap.export_wrapped(goes)
refused(ERROR.OBJECT_EXISTS, lambda: wrap.import_wrapped(wrapped))
goes.delete()
refused(ERROR.OBJECT_NOT_FOUND, goes.get_public_key)
back = wrap.import_wrapped(wrapped)
check(back.id == goes.id and back.get_public_key().public_numbers() == public)
check(back.get_info().label == "vaultmark-python")
refused(ERROR.INSUFFICIENT_PERMISSIONS, lambda: wrap.export_wrapped(made))

# An authentication key that may list, in a session of its own.
limited = AuthenticationKey.put_derived(session, 0, "vaultmark-python", 1, 0, 0, "another password")
with hsm.create_session_derived(limited.id, "another password") as other:
    check(len(other.list_objects(object_type=OBJECT.ASYMMETRIC_KEY)) == 4)
    refused(
        ERROR.INSUFFICIENT_PERMISSIONS,
        lambda: AsymmetricKey(other, made.id).derive_ecdh(ours.public_key()),
    )

for key in [made, put, idle, back, wrap, limited]:
    key.delete()
check(session.list_objects(label="vaultmark-python") == [])
session.close()
hsm.close()
print(f"{done} of {done}")
