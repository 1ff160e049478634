//! The module's functions, called directly where cryptoki calls twice or not rightly: it asks for the
//! length of a value before it asks for the value, and returns a wrapped key as long as the module first
//! said it might be (NSS says 154 bytes for one of 152, and then does not unwrap it).

#![expect(unsafe_code, reason = "the module is C; every call's arguments live until it returns")]

use std::path::Path;
use std::ptr::null_mut;

use cryptoki::context::Function;
use cryptoki::error::{Error, Rv};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki_sys::{
    CK_ATTRIBUTE, CK_ECDH1_DERIVE_PARAMS, CK_FALSE, CK_FUNCTION_LIST, CK_MECHANISM,
    CK_MECHANISM_TYPE, CK_OBJECT_HANDLE, CK_SESSION_HANDLE, CK_TRUE, CK_ULONG, CKA_CLASS,
    CKA_EXTRACTABLE, CKA_KEY_TYPE, CKA_PRIVATE, CKA_SENSITIVE, CKA_TOKEN, CKA_VALUE, CKA_VALUE_LEN,
    CKD_NULL, CKM_ECDH1_DERIVE, CKO_SECRET_KEY, CKR_OK,
};

use super::quirks::Derived;
use crate::device::WRAPPED_KEY_LEN_MAX;
use crate::x_only::X;

/// Bytes of the longest ECDH result: a whole point of P-256, where a device gives that.
const SECRET_LEN_MAX: usize = 65;

/// Bytes of the longest HMAC asked for.
const MAC_LEN_MAX: usize = 64;

/// The functions of a module that is loaded for as long as this is.
pub(super) struct Calls {
    functions: CK_FUNCTION_LIST,
    /// Keeps the library where the functions point to.
    _library: cryptoki_sys::Pkcs11,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls").finish_non_exhaustive()
    }
}

impl Calls {
    /// The functions of a module that cryptoki has loaded as well: it is the same library, once more
    /// referred to.
    pub(super) fn of(module: &Path) -> Result<Self, Error> {
        let missing = || Error::MissingSymbol("C_GetFunctionList");
        // SAFETY: the library was loaded before, so that nothing in it runs now; the list that it points
        // to is static, and copied.
        unsafe {
            let library = cryptoki_sys::Pkcs11::new(module).map_err(Error::LibraryLoading)?;
            if library.C_GetFunctionList.is_err() {
                return Err(missing());
            }
            let mut list = null_mut();
            let code = library.C_GetFunctionList(&raw mut list);
            if code != CKR_OK || list.is_null() {
                return Err(missing());
            }
            Ok(Self { functions: *list, _library: library })
        }
    }

    /// ECDH with the null key derivation function; the handle of what came out.
    pub(super) fn derive(
        &self,
        session: CK_SESSION_HANDLE,
        key: CK_OBJECT_HANDLE,
        peer: &[u8],
        derived: &Derived,
    ) -> Result<CK_OBJECT_HANDLE, Error> {
        let function = self.functions.C_DeriveKey.ok_or(Error::NullFunctionPointer)?;
        let mut parameters = CK_ECDH1_DERIVE_PARAMS {
            kdf: CKD_NULL,
            ulSharedDataLen: 0,
            pSharedData: null_mut(),
            ulPublicDataLen: length(peer)?,
            pPublicData: peer.as_ptr().cast_mut(),
        };
        let mut mechanism = mechanism_with(CKM_ECDH1_DERIVE, &mut parameters)?;
        let (class, key_type) = (CKO_SECRET_KEY, derived.key_type);
        let length: CK_ULONG = 32;
        let private = if derived.private { CK_TRUE } else { CK_FALSE };
        // The coordinate is on its way to the client: the token need not keep it to itself, and SoftHSM
        // would only encrypt and decrypt it once more.
        let mut template = [
            attribute(CKA_CLASS, &class)?,
            attribute(CKA_KEY_TYPE, &key_type)?,
            attribute(CKA_TOKEN, &CK_FALSE)?,
            attribute(CKA_PRIVATE, &private)?,
            attribute(CKA_SENSITIVE, &CK_FALSE)?,
            attribute(CKA_EXTRACTABLE, &CK_TRUE)?,
            // Last, so that it can be left out.
            attribute(CKA_VALUE_LEN, &length)?,
        ];
        let count = template.len() - usize::from(!derived.value_len);
        let mut secret = 0;
        // SAFETY: mechanism, its parameters and the template point to what lives here, and are as long as
        // they say; a module does not write to them.
        let code = unsafe {
            function(
                session,
                &raw mut mechanism,
                key,
                template.as_mut_ptr(),
                CK_ULONG::try_from(count)?,
                &raw mut secret,
            )
        };
        Rv::from(code).into_result(Function::DeriveKey)?;
        Ok(secret)
    }

    /// The value of what came out, of which a device that gives the whole point gives x as well.
    pub(super) fn secret(
        &self,
        session: CK_SESSION_HANDLE,
        secret: CK_OBJECT_HANDLE,
    ) -> Result<X, Error> {
        let function = self.functions.C_GetAttributeValue.ok_or(Error::NullFunctionPointer)?;
        let mut value = [0; SECRET_LEN_MAX];
        let mut asked = CK_ATTRIBUTE {
            type_: CKA_VALUE,
            pValue: value.as_mut_ptr().cast(),
            ulValueLen: CK_ULONG::try_from(SECRET_LEN_MAX)?,
        };
        // SAFETY: the attribute points to a buffer that is as long as it says.
        let code = unsafe { function(session, secret, &raw mut asked, 1) };
        Rv::from(code).into_result(Function::GetAttributeValue)?;
        let shown = usize::try_from(asked.ulValueLen).ok().and_then(|length| value.get(..length));
        let x = match shown {
            Some(x) if x.len() == 32 => x,
            // SEC 1, uncompressed.
            Some(point) if point.len() == 65 && point[0] == 4 => &point[1..33],
            _ => return Err(Error::InvalidValue),
        };
        X::try_from(x).map_err(|_| Error::InvalidValue)
    }

    /// Destroys an object.
    pub(super) fn destroy(
        &self,
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
    ) -> Result<(), Error> {
        let function = self.functions.C_DestroyObject.ok_or(Error::NullFunctionPointer)?;
        // SAFETY: takes no pointers.
        let code = unsafe { function(session, object) };
        Rv::from(code).into_result(Function::DestroyObject)
    }

    /// An HMAC into `mac`; its length.
    pub(super) fn mac(
        &self,
        session: CK_SESSION_HANDLE,
        mechanism: CK_MECHANISM_TYPE,
        key: CK_OBJECT_HANDLE,
        input: &[u8],
        mac: &mut [u8; MAC_LEN_MAX],
    ) -> Result<usize, Error> {
        let start = self.functions.C_SignInit.ok_or(Error::NullFunctionPointer)?;
        let finish = self.functions.C_Sign.ok_or(Error::NullFunctionPointer)?;
        let mut mechanism = plain(mechanism);
        // SAFETY: the mechanism lives here and has no parameters.
        let code = unsafe { start(session, &raw mut mechanism, key) };
        Rv::from(code).into_result(Function::SignInit)?;
        let mut written = CK_ULONG::try_from(MAC_LEN_MAX)?;
        let input_len = length(input)?;
        // SAFETY: both buffers are as long as is said; a module does not write to its input.
        let code = unsafe {
            finish(
                session,
                input.as_ptr().cast_mut(),
                input_len,
                mac.as_mut_ptr(),
                &raw mut written,
            )
        };
        Rv::from(code).into_result(Function::Sign)?;
        let written = usize::try_from(written)?;
        if written <= MAC_LEN_MAX { Ok(written) } else { Err(Error::InvalidValue) }
    }

    /// A key under another, outside.
    pub(super) fn wrap(
        &self,
        session: CK_SESSION_HANDLE,
        mechanism: CK_MECHANISM_TYPE,
        wrapping: CK_OBJECT_HANDLE,
        key: CK_OBJECT_HANDLE,
    ) -> Result<Vec<u8>, Error> {
        let function = self.functions.C_WrapKey.ok_or(Error::NullFunctionPointer)?;
        let mut mechanism = plain(mechanism);
        let mut wrapped = vec![0; WRAPPED_KEY_LEN_MAX];
        let mut written = length(&wrapped)?;
        // SAFETY: the buffer is as long as is said, and the mechanism lives here.
        let code = unsafe {
            function(
                session,
                &raw mut mechanism,
                wrapping,
                key,
                wrapped.as_mut_ptr(),
                &raw mut written,
            )
        };
        Rv::from(code).into_result(Function::WrapKey)?;
        wrapped.truncate(usize::try_from(written)?);
        Ok(wrapped)
    }

    /// The key that was wrapped, inside again.
    pub(super) fn unwrap(
        &self,
        session: CK_SESSION_HANDLE,
        mechanism: CK_MECHANISM_TYPE,
        unwrapping: CK_OBJECT_HANDLE,
        wrapped: &[u8],
        template: &[Attribute],
    ) -> Result<CK_OBJECT_HANDLE, Error> {
        let function = self.functions.C_UnwrapKey.ok_or(Error::NullFunctionPointer)?;
        let mut mechanism = plain(mechanism);
        let mut template: Vec<CK_ATTRIBUTE> = template.iter().map(Into::into).collect();
        let (wrapped_len, count) = (length(wrapped)?, CK_ULONG::try_from(template.len())?);
        let mut key = 0;
        // SAFETY: what is wrapped and the template are as long as is said and outlive the call; a module
        // does not write to them.
        let code = unsafe {
            function(
                session,
                &raw mut mechanism,
                unwrapping,
                wrapped.as_ptr().cast_mut(),
                wrapped_len,
                template.as_mut_ptr(),
                count,
                &raw mut key,
            )
        };
        Rv::from(code).into_result(Function::UnwrapKey)?;
        Ok(key)
    }

    /// The object of a handle that one of these functions gave.
    pub(super) fn object(handle: CK_OBJECT_HANDLE) -> ObjectHandle {
        // SAFETY: a number that the module looks up; cryptoki calls it unsafe because a wrong one would be
        // another object's.
        unsafe { ObjectHandle::new_from_raw(handle) }
    }

    /// Closes a PKCS#11 session without cryptoki knowing, so that the next call on it really goes to the
    /// module and comes back with the module's own code: fault injection.
    pub(super) fn close(&self, session: CK_SESSION_HANDLE) -> Result<(), Error> {
        let function = self.functions.C_CloseSession.ok_or(Error::NullFunctionPointer)?;
        // SAFETY: takes no pointers.
        let code = unsafe { function(session) };
        Rv::from(code).into_result(Function::CloseSession)
    }
}

fn plain(mechanism: CK_MECHANISM_TYPE) -> CK_MECHANISM {
    CK_MECHANISM { mechanism, pParameter: null_mut(), ulParameterLen: 0 }
}

fn mechanism_with<T>(
    mechanism: CK_MECHANISM_TYPE,
    parameters: &mut T,
) -> Result<CK_MECHANISM, Error> {
    let length = CK_ULONG::try_from(size_of::<T>())?;
    Ok(CK_MECHANISM {
        mechanism,
        pParameter: std::ptr::from_mut(parameters).cast(),
        ulParameterLen: length,
    })
}

fn attribute<T>(kind: CK_ULONG, value: &T) -> Result<CK_ATTRIBUTE, Error> {
    Ok(CK_ATTRIBUTE {
        type_: kind,
        pValue: std::ptr::from_ref(value).cast_mut().cast(),
        ulValueLen: CK_ULONG::try_from(size_of::<T>())?,
    })
}

fn length(bytes: &[u8]) -> Result<CK_ULONG, Error> {
    Ok(CK_ULONG::try_from(bytes.len())?)
}
