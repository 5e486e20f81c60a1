//! Any bytes are answered. What real tools write is in `tests/it/guest_detect`.

use super::*;
use crate::disk::MemoryDisk;
use proptest::prelude::*;

#[test]
fn volumes_too_small_for_anything_are_blank_or_unknown() {
    for size in [0, 1, 511, 512, 1081, 4096] {
        assert_eq!(detect(&MemoryDisk(vec![0; size])).unwrap().kind, ContentKind::Blank, "{size}");
    }
    assert_eq!(detect(&MemoryDisk(vec![9; 100])).unwrap().kind, ContentKind::Unknown);
}

proptest! {
    /// Each magic in the midst of noise leads to an answer, whatever the fields around it say.
    #[test]
    fn noise_around_every_magic_is_answered(seed in any::<[u8; 32]>(), size in 0usize..200_000) {
        let mut noise: Vec<u8> = seed.iter().copied().cycle().zip(0u32..).map(|(byte, n)| byte ^ n.to_le_bytes()[1]).take(size).collect();
        for signature in SIGNATURES {
            for place in signature.places {
                let Place::Start(at) = *place else { continue };
                let at = at as usize;
                let Some(there) = noise.get_mut(at..at + signature.magic.len()) else { continue };
                let before = there.to_vec();
                there.copy_from_slice(signature.magic);
                detect(&MemoryDisk(noise.clone())).unwrap();
                noise[at..at + before.len()].copy_from_slice(&before);
            }
        }
    }
}
