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
use crate::repo::ids::{ObjectId, bytes_from_hex, from_hex, random, to_hex};
use crate::repo::seal::{MasterSecrets, constant_time_equal};
use crate::repo::store::ObjectName;
use crate::repo::text;

/// Most memory a slot may make us use to open it: a hostile repository must not exhaust the host.
const MEMORY_KIB_MAX: u32 = 4 << 20;
/// Most passes a slot may make us do.
const PASSES_MAX: u32 = 64;
/// Most lanes.
const LANES_MAX: u32 = 64;
/// Most epochs a repository can have: a slot is at most 64 KiB long, and holds the secret of each.
pub const EPOCHS_MAX: usize = 256;
const TAG_BYTES: usize = 16;

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
    /// The epochs whose master secrets it wraps, in this order.
    #[serde(default = "first_epoch", skip_serializing_if = "is_first_epoch")]
    pub epochs: Vec<u16>,
}

fn first_epoch() -> Vec<u16> {
    vec![0]
}

fn is_first_epoch(epochs: &[u16]) -> bool {
    epochs == [0]
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
    /// The secrets, encrypted, and the tag.
    wrapped: Vec<u8>,
}

impl Slot {
    /// Wraps `masters` for `secret`.
    pub fn seal(
        id: ObjectId,
        secret: &Secret,
        label: &str,
        cost: KdfCost,
        masters: &MasterSecrets,
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
        let (label, created, epochs) = (label.to_owned(), jiff::Timestamp::now(), masters.epochs());
        let info = SlotInfo { slot: id, kind, label, created, epochs };
        let line = serde_json::to_string(&info).expect("plain data serialises");
        let (cipher, commitment) = wrapping_key(&info, secret).expect("our own parameters are in range");
        let mut wrapped = masters.to_bytes();
        let aad = associated(&line, config_hash);
        let tag = cipher
            .encrypt_inout_detached(&Nonce::from([0; 12]), &aad, wrapped.as_mut_slice().into())
            .expect("some KiB are no limit");
        let wrapped = [wrapped.as_slice(), &tag].concat();
        Slot { info, line, commitment, wrapped }
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
        if info.epochs.len() > EPOCHS_MAX {
            return Err(bad("epochs", &format!("at most {EPOCHS_MAX}"), info.epochs.len().to_string()));
        }
        let hex = |line: &str| bad("slot", "hex digits", line.chars().take(80).collect());
        let wrapped = bytes_from_hex(lines[2]).ok_or_else(|| hex(lines[2]))?;
        if wrapped.len() != 32 * info.epochs.len() + TAG_BYTES {
            let expected = format!("a secret of 32 bytes for each of {} epochs, and a tag", info.epochs.len());
            return Err(bad("wrapped secrets", &expected, format!("{} bytes", wrapped.len())));
        }
        Ok(Slot {
            info,
            line: lines[0].to_owned(),
            commitment: from_hex(lines[1]).ok_or_else(|| hex(lines[1]))?,
            wrapped,
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

    /// The newest epoch whose secret it wraps.
    pub fn newest_epoch(&self) -> u16 {
        self.info.epochs.last().copied().unwrap_or(0)
    }

    /// Whether it is for that kind of secret.
    pub fn fits(&self, secret: &Secret) -> bool {
        matches!(
            (&self.info.kind, secret),
            (SlotKind::Passphrase { .. }, Secret::Passphrase(_)) | (SlotKind::KeyFile { .. }, Secret::KeyFile(_))
        )
    }

    /// Unwraps the master secrets; `None` if this secret is not the slot's.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] if the secret is right and the slot, or the configuration it binds, is not.
    pub fn open(
        &self,
        name: &str,
        secret: &Secret,
        config_hash: &[u8; 32],
    ) -> Result<Option<MasterSecrets>, RepoError> {
        let damaged = |field, expected: &str, found: String| RepoError::Damaged {
            object: name.to_owned(),
            field,
            at: 0,
            expected: expected.to_owned(),
            found,
        };
        let (cipher, commitment) = wrapping_key(&self.info, secret)
            .map_err(|found| damaged("slot", "parameters that argon2id accepts", found))?;
        if !constant_time_equal(&commitment, &self.commitment) {
            return Ok(None);
        }
        let (wrapped, tag) = self.wrapped.split_last_chunk::<TAG_BYTES>().expect("the length was checked");
        let mut masters = Zeroizing::new(wrapped.to_vec());
        let aad = associated(&self.line, config_hash);
        cipher
            .decrypt_inout_detached(&Nonce::from([0; 12]), &aad, masters.as_mut_slice().into(), &Tag::from(*tag))
            .map_err(|_| RepoError::unauthentic(&format!("{name} or config"), "wrapped master secrets", 0))?;
        let masters = MasterSecrets::from_bytes(&self.info.epochs, &masters);
        let shown = || format!("{:?}", self.info.epochs);
        masters.map(Some).ok_or_else(|| damaged("epochs", "numbers that ascend from 0", shown()))
    }
}

fn associated(line: &str, config_hash: &[u8; 32]) -> Vec<u8> {
    [b"abbild v1 slot".as_slice(), config_hash, line.as_bytes()].concat()
}

/// The cipher that wraps the master secrets, and the commitment to its key.
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
    use crate::repo::seal::MasterSecret;

    const CHEAP: KdfCost = KdfCost::Fixed { memory_kib: 64, passes: 1 };

    fn passphrase(text: &str) -> Secret {
        Secret::Passphrase(Zeroizing::new(text.to_owned()))
    }

    fn sealed(secret: &Secret) -> (ObjectName, Vec<u8>) {
        let id = ObjectId([4; 16]);
        let masters = MasterSecrets::of_first(MasterSecret([5; 32]));
        let slot = Slot::seal(id, secret, "mine", CHEAP, &masters, &[6; 32]);
        (object_name(id), slot.encode())
    }

    #[test]
    fn a_slot_opens_for_its_secret_alone() {
        let key_file = || Secret::KeyFile(KeyFile::generate("a"));
        let file = key_file();
        let (name, bytes) = sealed(&file);
        let slot = Slot::decode(&name, &bytes).unwrap();
        assert_eq!(slot.open("k", &file, &[6; 32]).unwrap().unwrap().to_bytes().as_slice(), [5; 32]);
        assert!(slot.open("k", &key_file(), &[6; 32]).unwrap().is_none());
        assert!(slot.open("k", &file, &[7; 32]).is_err(), "another configuration");

        let (name, bytes) = sealed(&passphrase("correct horse"));
        let slot = Slot::decode(&name, &bytes).unwrap();
        assert!(slot.open("k", &passphrase("correct horse"), &[6; 32]).unwrap().is_some());
        assert!(slot.open("k", &passphrase("correct horsf"), &[6; 32]).unwrap().is_none());
        assert!(!slot.fits(&file));
    }

    #[test]
    fn a_slot_wraps_the_secrets_of_all_epochs() {
        let (file, id) = (Secret::KeyFile(KeyFile::generate("a")), ObjectId([4; 16]));
        let masters = MasterSecrets::generate().with_next().unwrap();
        let slot = Slot::seal(id, &file, "mine", CHEAP, &masters, &[6; 32]);
        let slot = Slot::decode(&object_name(id), &slot.encode()).unwrap();
        assert_eq!(slot.info().epochs, [0, 1]);
        let opened = slot.open("k", &file, &[6; 32]).unwrap().unwrap();
        assert_eq!((opened.epochs(), opened.to_bytes()), (masters.epochs(), masters.to_bytes()));
        // One secret less than the epochs say, with everything else right.
        let text = String::from_utf8(slot.encode()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let forged = text::encode(&[lines[0], lines[1], &lines[2][64..]]);
        assert!(Slot::decode(&object_name(id), &forged).is_err_and(|error| error.to_string().contains("2 epochs")));
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
