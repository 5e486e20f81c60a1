//! The checksums of metadata: CRC-32C with a running seed, CRC-16 of the older group descriptors, CRC-32 of the older
//! journals. Pure functions on bytes.
//!
//! Source: Linux Documentation/filesystems/ext4/checksums.rst, journal.rst.

/// Continues a CRC-32C as the filesystem does: without the inversions at the beginning and the end.
pub(super) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// Continues a CRC-16 (polynomial 0x8005, reflected), for descriptors of volumes with `uninit_bg`.
pub(super) fn crc16(seed: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0xa001 })
    })
}

/// Continues a CRC-32 (polynomial 0x04c11db7, most significant bit first), for commits of journals of version 1 checksums.
pub(super) fn crc32_be(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, byte| {
        let [top, ..] = crc.to_be_bytes();
        crc << 8 ^ CRC32_BE[usize::from(top ^ byte)]
    })
}

const CRC32_BE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000_0000 == 0 { crc << 1 } else { crc << 1 ^ 0x04c1_1db7 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_values_of_the_catalogue() {
        // The catalogue's values of CRC-32/ISCSI, CRC-16/MODBUS and CRC-32/MPEG-2 for "123456789".
        let digits = b"123456789";
        assert_eq!(!crc32c(u32::MAX, digits), 0xe306_9283);
        assert_eq!(crc16(0xffff, digits), 0x4b37);
        assert_eq!(crc32_be(u32::MAX, digits), 0x0376_e6e7);
        assert_eq!(crc32c(crc32c(7, &digits[..4]), &digits[4..]), crc32c(7, digits));
    }
}
