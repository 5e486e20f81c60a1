//! The hashes by which indexed directories order names. Pure.
//!
//! Source: Linux Documentation/filesystems/ext4/directory.rst, "Hash Tree Directories"; the functions themselves are known
//! from the published half-round MD4 and TEA, and from the index's first version.

/// Which function an index uses; names are of signed or unsigned characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Legacy,
    HalfMd4,
    Tea,
}

/// Whether a byte of a name is a number from -128 or from 0; which it is depends on the machine that made the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Characters {
    Signed,
    Unsigned,
}

/// The largest hash means the end of a directory; no name may have it.
const END: u32 = 0xffff_fffe;

/// A name's hash, its lowest bit clear.
pub(super) fn of_name(name: &[u8], function: Function, characters: Characters, seed: [u32; 4]) -> u32 {
    const DEFAULT_SEED: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    let mut state = if seed == [0; 4] { DEFAULT_SEED } else { seed };
    let hash = match function {
        Function::Legacy => legacy(name, characters),
        Function::HalfMd4 => {
            for piece in 0..name.len().div_ceil(32) {
                half_md4(&mut state, &words::<8>(&name[piece * 32..], characters));
            }
            state[1]
        }
        Function::Tea => {
            for piece in 0..name.len().div_ceil(16) {
                tea(&mut state, &words::<4>(&name[piece * 16..], characters));
            }
            state[0]
        }
    };
    match hash & !1 {
        END => END - 2,
        hash => hash,
    }
}

fn character(byte: u8, characters: Characters) -> u32 {
    match characters {
        Characters::Signed => i32::from(byte.cast_signed()).cast_unsigned(),
        Characters::Unsigned => byte.into(),
    }
}

/// The next words of a name, filled up with its remaining length.
fn words<const N: usize>(name: &[u8], characters: Characters) -> [u32; N] {
    // A name has at most 255 bytes, so its length is one byte, four times.
    let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
    let padding = length | length << 8;
    let padding = padding | padding << 16;
    let mut words = [padding; N];
    for (word, bytes) in words.iter_mut().zip(name.chunks(4)) {
        *word = bytes.iter().fold(padding, |word, byte| (word << 8).wrapping_add(character(*byte, characters)));
    }
    words
}

fn legacy(name: &[u8], characters: Characters) -> u32 {
    let (mut last, mut before) = (0x12a3_fe2du32, 0x37ab_e8f9u32);
    for byte in name {
        let mut hash = before.wrapping_add(last ^ character(*byte, characters).wrapping_mul(7_152_373));
        if hash & 0x8000_0000 != 0 {
            hash = hash.wrapping_sub(0x7fff_ffff);
        }
        (before, last) = (last, hash);
    }
    last << 1
}

/// MD4's three rounds, eight steps each.
fn half_md4(state: &mut [u32; 4], words: &[u32; 8]) {
    type Mix = fn(u32, u32, u32) -> u32;
    const ROUNDS: [(Mix, u32, [usize; 8], [u32; 4]); 3] = [
        (|x, y, z| z ^ (x & (y ^ z)), 0, [0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19]),
        (|x, y, z| (x & y).wrapping_add((x ^ y) & z), 0x5a82_7999, [1, 3, 5, 7, 0, 2, 4, 6], [3, 5, 9, 13]),
        (|x, y, z| x ^ y ^ z, 0x6ed9_eba1, [3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15]),
    ];
    let mut mixed = *state;
    for (mix, constant, order, shifts) in ROUNDS {
        for (step, word) in order.into_iter().enumerate() {
            // Each step changes one of the four, the next step the one before it.
            let [a, b, c, d] = [0, 1, 2, 3].map(|index| (index + 4 - step % 4) % 4);
            let sum = mixed[a].wrapping_add(mix(mixed[b], mixed[c], mixed[d]));
            mixed[a] = sum.wrapping_add(words[word]).wrapping_add(constant).rotate_left(shifts[step % 4]);
        }
    }
    for (state, mixed) in state.iter_mut().zip(mixed) {
        *state = state.wrapping_add(mixed);
    }
}

fn tea(state: &mut [u32; 4], key: &[u32; 4]) {
    let (mut left, mut right, mut sum) = (state[0], state[1], 0u32);
    for _ in 0..16 {
        sum = sum.wrapping_add(0x9e37_79b9);
        let mix = |value: u32, one: u32, other: u32| {
            (value << 4).wrapping_add(one) ^ value.wrapping_add(sum) ^ (value >> 5).wrapping_add(other)
        };
        left = left.wrapping_add(mix(right, key[0], key[1]));
        right = right.wrapping_add(mix(left, key[2], key[3]));
    }
    state[0] = state[0].wrapping_add(left);
    state[1] = state[1].wrapping_add(right);
}
