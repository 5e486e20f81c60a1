//! One key slot: its parameters, and how a secret seals and opens it.

use std::time::{Duration, Instant};

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use argon2::{Algorithm, Argon2, Params, Version};
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{Secret, object_name};
use crate::repo::error::RepoError;
use crate::repo::ids::{ObjectId, from_hex, random, to_hex};
use crate::repo::seal::{MasterSecret, constant_time_equal};
use crate::repo::store::ObjectName;
use crate::repo::text;

/// Most memory a slot may make us use to open it: a hostile repository must not exhaust the host.
const MEMORY_KIB_MAX: u32 = 4 << 20;
/// Most passes a slot may make us do.
const PASSES_MAX: u32 = 64;
/// Most lanes.
const LANES_MAX: u32 = 64;
const WRAPPED_BYTES: usize = 32 + 16;

/// What is known of a slot without opening it: its first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotInfo {
    /// Its id, as in its object's name.
    pub slot: ObjectId,
    /// Which secret opens it.
    #[serde(flatten)]
    pub kind: SlotKind,
    /// What its owner called it.
    pub label: String,
    /// When it was added.
    pub created: jiff::Timestamp,
}

/// Which secret opens a slot, and with which parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SlotKind {
    /// A passphrase, stretched by argon2id (RFC 9106, version 0x13).
    Passphrase {
        /// Memory in KiB.
        memory_kib: u32,
        /// Passes over it.
        passes: u32,
        /// Lanes.
        lanes: u32,
        /// 16 bytes, hex.
        salt: String,
    },
    /// A key file.
    KeyFile {
        /// 16 bytes, hex.
        salt: String,
    },
}

/// What guessing a passphrase costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KdfCost {
    /// About a second on this machine: passes are raised until it takes that long.
    Calibrated,
    /// The least that opens: for tests, and for hosts that are slower than this one.
    Fixed {
        /// Memory in KiB.
        memory_kib: u32,
        /// Passes over it.
        passes: u32,
    },
}

impl KdfCost {
    /// Memory of a calibrated slot: 128 MiB. The design's range is 64 MiB to 1 GiB; more would break the promise that
    /// no command needs over 256 MiB, so the time comes from passes instead.
    const MEMORY_KIB: u32 = 128 << 10;
    const LANES: u32 = 4;

    /// Memory in KiB and passes.
    fn measure(self) -> (u32, u32) {
        match self {
            KdfCost::Fixed { memory_kib, passes } => (memory_kib, passes),
            KdfCost::Calibrated => {
                let began = Instant::now();
                stretch(b"calibration", &[0; 16], KdfCost::MEMORY_KIB, 1, KdfCost::LANES)
                    .expect("the parameters are in range");
                let one_pass = began.elapsed().max(Duration::from_millis(1));
                let passes = Duration::from_secs(1).as_millis() / one_pass.as_millis().max(1);
                (KdfCost::MEMORY_KIB, u32::try_from(passes).unwrap_or(PASSES_MAX).clamp(3, PASSES_MAX / 2))
            }
        }
    }
}

/// A slot as it is stored.
pub struct Slot {
    info: SlotInfo,
    /// The first line, to the letter: it is authenticated.
    line: String,
    commitment: [u8; 32],
    wrapped: [u8; WRAPPED_BYTES],
}

impl Slot {
    /// Wraps `master` for `secret`.
    pub fn seal(
        id: ObjectId,
        secret: &Secret,
        label: &str,
        cost: KdfCost,
        master: &MasterSecret,
        config_hash: &[u8; 32],
    ) -> Slot {
        let salt = to_hex(&random::<16>());
        let kind = match secret {
            Secret::Passphrase(_) => {
                let (memory_kib, passes) = cost.measure();
                SlotKind::Passphrase { memory_kib, passes, lanes: KdfCost::LANES, salt }
            }
            Secret::KeyFile(_) => SlotKind::KeyFile { salt },
        };
        let info = SlotInfo { slot: id, kind, label: label.to_owned(), created: jiff::Timestamp::now() };
        let line = serde_json::to_string(&info).expect("plain data serialises");
        let (cipher, commitment) = wrapping_key(&info, secret).expect("our own parameters are in range");
        let mut wrapped = Zeroizing::new(master.0);
        let tag = cipher
            .encrypt_inout_detached(
                &Nonce::from([0; 12]),
                &associated(&line, config_hash),
                wrapped.as_mut_slice().into(),
            )
            .expect("32 bytes are no limit");
        let mut bytes = [0; WRAPPED_BYTES];
        bytes[..32].copy_from_slice(wrapped.as_ref());
        bytes[32..].copy_from_slice(&tag);
        Slot { info, line, commitment, wrapped: bytes }
    }

    /// The object that stores it.
    pub fn encode(&self) -> Vec<u8> {
        text::encode(&[&self.line, &to_hex(&self.commitment), &to_hex(&self.wrapped)])
    }

    /// Reads a slot; nothing secret is needed for that.
    ///
    /// # Errors
    /// [`RepoError::Damaged`], also for parameters that would exhaust the host.
    pub fn decode(name: &ObjectName, bytes: &[u8]) -> Result<Slot, RepoError> {
        let bad = |field, expected: &str, found: String| RepoError::Damaged {
            object: name.to_string(),
            field,
            at: 0,
            expected: expected.to_owned(),
            found,
        };
        let lines = text::decode(name.as_str(), bytes, 3)?;
        let info: SlotInfo = serde_json::from_str(lines[0]).map_err(|e| bad("slot", "parameters", e.to_string()))?;
        if object_name(info.slot) != *name {
            return Err(bad("slot id", name.as_str(), info.slot.to_string()));
        }
        if let SlotKind::Passphrase { memory_kib, passes, lanes, .. } = info.kind {
            let limits = [(memory_kib, MEMORY_KIB_MAX), (passes, PASSES_MAX), (lanes, LANES_MAX)];
            if limits.iter().any(|(value, max)| *value == 0 || value > max) || memory_kib < 8 * lanes {
                let found = format!("{memory_kib} KiB, {passes} passes, {lanes} lanes");
                return Err(bad("argon2id parameters", "at most 4 GiB, 64 passes, 64 lanes", found));
            }
        }
        let hex = |line: &str| bad("slot", "hex digits", line.chars().take(80).collect());
        Ok(Slot {
            info,
            line: lines[0].to_owned(),
            commitment: from_hex(lines[1]).ok_or_else(|| hex(lines[1]))?,
            wrapped: from_hex(lines[2]).ok_or_else(|| hex(lines[2]))?,
        })
    }

    /// What is known without opening it.
    pub fn info(&self) -> &SlotInfo {
        &self.info
    }

    /// Its id.
    pub fn id(&self) -> ObjectId {
        self.info.slot
    }

    /// Whether it is for that kind of secret.
    pub fn fits(&self, secret: &Secret) -> bool {
        matches!(
            (&self.info.kind, secret),
            (SlotKind::Passphrase { .. }, Secret::Passphrase(_)) | (SlotKind::KeyFile { .. }, Secret::KeyFile(_))
        )
    }

    /// Unwraps the master secret; `None` if this secret is not the slot's.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] if the secret is right and the slot, or the configuration it binds, is not.
    pub fn open(&self, name: &str, secret: &Secret, config_hash: &[u8; 32]) -> Result<Option<MasterSecret>, RepoError> {
        let damaged = |found: String| RepoError::Damaged {
            object: name.to_owned(),
            field: "slot",
            at: 0,
            expected: "parameters that argon2id accepts".to_owned(),
            found,
        };
        let (cipher, commitment) = wrapping_key(&self.info, secret).map_err(damaged)?;
        if !constant_time_equal(&commitment, &self.commitment) {
            return Ok(None);
        }
        let mut master = Zeroizing::new([0; 32]);
        master.copy_from_slice(&self.wrapped[..32]);
        let tag: [u8; 16] = self.wrapped[32..].try_into().expect("16 bytes after the first 32");
        let aad = associated(&self.line, config_hash);
        cipher
            .decrypt_inout_detached(&Nonce::from([0; 12]), &aad, master.as_mut_slice().into(), &Tag::from(tag))
            .map_err(|_| RepoError::unauthentic(&format!("{name} or config"), "wrapped master secret", 0))?;
        Ok(Some(MasterSecret(*master)))
    }
}

fn associated(line: &str, config_hash: &[u8; 32]) -> Vec<u8> {
    [b"abbild v1 slot".as_slice(), config_hash, line.as_bytes()].concat()
}

/// The cipher that wraps the master secret, and the commitment to its key.
fn wrapping_key(info: &SlotInfo, secret: &Secret) -> Result<(Aes256Gcm, [u8; 32]), String> {
    let (stretched, salt) = match (&info.kind, secret) {
        (SlotKind::Passphrase { memory_kib, passes, lanes, salt }, Secret::Passphrase(passphrase)) => {
            let salt = salt_bytes(salt)?;
            (stretch(passphrase.as_bytes(), &salt, *memory_kib, *passes, *lanes)?, salt)
        }
        (SlotKind::KeyFile { salt }, Secret::KeyFile(file)) => (file.secret().clone(), salt_bytes(salt)?),
        _ => return Err("a secret of another kind".to_owned()),
    };
    let hkdf = Hkdf::<Sha256>::new(Some(&salt), stretched.as_ref());
    let mut output = Zeroizing::new([0; 64]);
    hkdf.expand(b"abbild v1 slot", output.as_mut()).expect("64 bytes are a valid output length");
    let mut commitment = [0; 32];
    commitment.copy_from_slice(&output[32..]);
    Ok((Aes256Gcm::new_from_slice(&output[..32]).expect("a key of 32 bytes"), commitment))
}

fn salt_bytes(hex: &str) -> Result<[u8; 16], String> {
    from_hex(hex).ok_or_else(|| "a salt that is not 32 hex digits".to_owned())
}

fn stretch(
    passphrase: &[u8],
    salt: &[u8; 16],
    memory_kib: u32,
    passes: u32,
    lanes: u32,
) -> Result<Zeroizing<[u8; 32]>, String> {
    let params = Params::new(memory_kib, passes, lanes, Some(32)).map_err(|error| error.to_string())?;
    let mut output = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, salt, output.as_mut())
        .map_err(|error| error.to_string())?;
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::keys::KeyFile;

    const CHEAP: KdfCost = KdfCost::Fixed { memory_kib: 64, passes: 1 };

    fn passphrase(text: &str) -> Secret {
        Secret::Passphrase(Zeroizing::new(text.to_owned()))
    }

    fn sealed(secret: &Secret) -> (ObjectName, Vec<u8>) {
        let id = ObjectId([4; 16]);
        let slot = Slot::seal(id, secret, "mine", CHEAP, &MasterSecret([5; 32]), &[6; 32]);
        (object_name(id), slot.encode())
    }

    #[test]
    fn a_slot_opens_for_its_secret_alone() {
        let key_file = || Secret::KeyFile(KeyFile::generate("a"));
        let file = key_file();
        let (name, bytes) = sealed(&file);
        let slot = Slot::decode(&name, &bytes).unwrap();
        assert_eq!(slot.open("k", &file, &[6; 32]).unwrap().unwrap().0, [5; 32]);
        assert!(slot.open("k", &key_file(), &[6; 32]).unwrap().is_none());
        assert!(slot.open("k", &file, &[7; 32]).is_err(), "another configuration");

        let (name, bytes) = sealed(&passphrase("correct horse"));
        let slot = Slot::decode(&name, &bytes).unwrap();
        assert!(slot.open("k", &passphrase("correct horse"), &[6; 32]).unwrap().is_some());
        assert!(slot.open("k", &passphrase("correct horsf"), &[6; 32]).unwrap().is_none());
        assert!(!slot.fits(&file));
    }

    #[test]
    fn parameters_that_would_exhaust_the_host_are_refused() {
        let (name, bytes) = sealed(&passphrase("x"));
        let text = String::from_utf8(bytes).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (from, to) in [("\"memory_kib\":64", "\"memory_kib\":4194305"), ("\"passes\":1", "\"passes\":65")] {
            let line = lines[0].replace(from, to);
            assert_ne!(line, lines[0]);
            let forged = text::encode(&[&line, lines[1], lines[2]]);
            let Err(error) = Slot::decode(&name, &forged) else { panic!("{to} was accepted") };
            assert!(error.to_string().contains("argon2id parameters"), "{error}");
        }
    }
}
