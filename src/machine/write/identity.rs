//! New identities: a restored copy beside its original needs other addresses and another UUID.
//!
//! Pure: the random bytes come in. Hypervisors have ranges of their own for addresses that are set by hand: VMware refuses
//! to start a machine with another, and QEMU's is what guests and admins expect.

use std::collections::HashSet;

use super::Target;
use crate::machine::hardware::Hardware;

/// Gives 16 random bytes at each call.
pub type Random<'r> = &'r mut dyn FnMut() -> [u8; 16];

/// Makes the machine another one: a new UUID, a new address for each network card.
pub fn renew(hardware: &mut Hardware, target: Target, random: Random<'_>) {
    hardware.uuid = Some(uuid(random));
    let addresses = addresses(target, hardware.network_cards.len(), random);
    for (card, address) in hardware.network_cards.iter_mut().zip(addresses) {
        card.mac = Some(address);
    }
}

/// A random UUID (version 4), lower-case with dashes.
pub fn uuid(random: Random<'_>) -> String {
    uuid::Builder::from_random_bytes(random()).into_uuid().hyphenated().to_string()
}

/// That many different addresses, as `target` takes them.
pub fn addresses(target: Target, count: usize, random: Random<'_>) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut addresses = Vec::new();
    while addresses.len() < count {
        let [a, b, c, ..] = random();
        let address = match target {
            // 00:50:56:00:00:00 to 00:50:56:3f:ff:ff are for addresses set by hand.
            Target::Vmx | Target::Ovf => format!("00:50:56:{:02x}:{b:02x}:{c:02x}", a & 0x3f),
            Target::Libvirt => format!("52:54:00:{a:02x}:{b:02x}:{c:02x}"),
        };
        if seen.insert(address.clone()) {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_differ_and_stay_in_range() {
        let mut next = 0u8;
        let mut random = || {
            next = next.wrapping_add(85);
            [next | 0xc0, 1, next / 170, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        };
        let found = addresses(Target::Vmx, 4, &mut random);
        assert_eq!(found.iter().collect::<HashSet<_>>().len(), 4);
        assert!(found.iter().all(|mac| mac.starts_with("00:50:56:") && mac[9..11] < *"40"), "{found:?}");
        assert!(addresses(Target::Libvirt, 1, &mut random)[0].starts_with("52:54:00:"));
        let uuid = uuid(&mut || [0xff; 16]);
        assert_eq!(uuid, "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
