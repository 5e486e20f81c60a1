//! Branches of x86 code, written so that equal targets look equal: a filter before compression.
//!
//! A call names its target by the distance to it, which is another at every place it is called from; so does an
//! instruction that reaches for data beside the code. The filter puts a target's place in the blob where its distance
//! was, and the compressor finds it again. A fifth of a real guest is such code, and of all its blobs 2.5 % less is left.
//!
//! Pure: bytes in, as many bytes out; any bytes can be filtered, code or not, and come back (docs/FORMAT.md, section 8.1.1).
//! Not in here: which blobs are filtered.

/// Places that are examined at once.
const BLOCK: usize = 64;
/// Bytes of a distance.
const FIELD: usize = 4;
/// A chunk is code if it has a near branch for so many bytes.
const BYTES_FOR_A_BRANCH: usize = 300;
/// Bytes of a run in which branches are counted: fewer places than a byte can count to.
const RUN: usize = 256;

/// Whether a chunk has enough calls and jumps to be x86 code. A quarter of its bytes is looked at.
pub fn looks_like_code(chunk: &[u8]) -> bool {
    let runs = chunk.chunks_exact(RUN).step_by(4);
    let places = runs.len() * RUN;
    // Counted in bytes, and so in one pass at the speed of memory.
    let branches: usize = runs
        .map(|run| {
            let near = run.iter().zip(&run[FIELD..]).map(|(first, top)| u8::from(is_branch(*first) & is_near(*top)));
            usize::from(near.sum::<u8>())
        })
        .sum();
    branches * BYTES_FOR_A_BRANCH > places
}

/// Filters a chunk that begins at `base` of its blob's plain bytes.
pub fn filter(chunk: &mut [u8], base: u32) {
    convert(chunk, base, target);
}

/// Undoes [`filter`].
pub fn unfilter(chunk: &mut [u8], base: u32) {
    convert(chunk, base, distance);
}

/// Replaces what each instruction's field says by `to` of it, and of the place behind it.
///
/// What is found is the same before and after: opcodes are never replaced, and what lies in a field is none.
fn convert(chunk: &mut [u8], base: u32, to: impl Fn(u32, u32) -> u32) {
    // The longest opcode and its field end with the chunk.
    let Some(places) = (chunk.len() + 1).checked_sub(2 + FIELD) else { return };
    let (mut from, mut free) = (0, 0);
    while from < places {
        let end = (from + BLOCK).min(places);
        let mut found = instructions(&chunk[from..=end]);
        while found != 0 {
            let at = from + found.trailing_zeros() as usize;
            found &= found - 1;
            if at < free {
                continue; // inside a field
            }
            let field = at + if is_branch(chunk[at]) { 1 } else { 2 };
            free = field + FIELD;
            let bytes =
                chunk[field..].first_chunk_mut::<FIELD>().expect("a place has six bytes and more before the end");
            if is_near(bytes[FIELD - 1]) {
                let behind = base.wrapping_add(free as u32); // a chunk has at most 1 MiB
                *bytes = to(u32::from_le_bytes(*bytes), behind).to_le_bytes();
            }
        }
        from = end;
    }
}

/// The target that is `distance` from `behind`. A distance of zero is one that a linker will fill in: it stays, and the one
/// that leads to zero takes what it would have become.
fn target(distance: u32, behind: u32) -> u32 {
    let target = wrapped(distance.wrapping_add(behind));
    match (distance, target) {
        (0, _) => 0,
        (_, 0) => wrapped(behind),
        _ => target,
    }
}

/// How far `target` is from `behind`: the inverse of [`target`].
fn distance(target: u32, behind: u32) -> u32 {
    let distance = wrapped(target.wrapping_sub(behind));
    match (target, distance) {
        (0, _) => 0,
        (_, 0) => wrapped(behind.wrapping_neg()),
        _ => distance,
    }
}

/// The lower 25 bits with their sign, so that what is near stays near.
fn wrapped(value: u32) -> u32 {
    ((value << 7) as i32 >> 7) as u32
}

/// Whether a distance with this highest byte is within 16 MiB.
fn is_near(top: u8) -> bool {
    (top == 0) | (top == 0xff)
}

/// A call or a jump: one byte, then the distance.
fn is_branch(first: u8) -> bool {
    first & 0xfe == 0xe8
}

/// A jump on a condition, or an instruction that moves, compares or takes the address of what lies beside the code: two
/// bytes, then the distance.
fn is_of_two_bytes(first: u8, second: u8) -> bool {
    let is_jump = (first == 0x0f) & (second & 0xf0 == 0x80);
    let is_access = (first & 0xf9 == 0x89) | (first & 0xfd == 0x39);
    is_jump | is_access & (second & 0xc7 == 0x05)
}

/// Which of the at most 64 places of `bytes` but its last begin an instruction, the first in the lowest bit.
fn instructions(bytes: &[u8]) -> u64 {
    let mut is = [0u8; BLOCK];
    for (is, (first, second)) in is.iter_mut().zip(bytes.iter().zip(&bytes[1..])) {
        *is = u8::from(is_branch(*first) | is_of_two_bytes(*first, *second));
    }
    // Eight flags of a byte each become eight bits: the product gathers them in its highest byte.
    is.as_chunks::<8>()
        .0
        .iter()
        .rev()
        .fold(0, |bits, flags| bits << 8 | u64::from_le_bytes(*flags).wrapping_mul(0x0102_0408_1020_4080) >> 56)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn comes_back(bytes: &[u8], base: u32) -> Vec<u8> {
        let mut filtered = bytes.to_vec();
        filter(&mut filtered, base);
        let mut back = filtered.clone();
        unfilter(&mut back, base);
        assert!(back == bytes, "{} bytes at {base} come back as others", bytes.len());
        filtered
    }

    #[test]
    fn what_leads_to_one_place_from_several_names_it_the_same_way() {
        let mut code = vec![0x90; 300];
        for (at, opcode) in [(10, &[0xe8][..]), (100, &[0xe9]), (200, &[0x0f, 0x84]), (250, &[0x8b, 0x05])] {
            let field = at + opcode.len();
            code[at..field].copy_from_slice(opcode);
            code[field..field + 4].copy_from_slice(&(5000 - field as u32 - 4).to_le_bytes());
        }
        let filtered = comes_back(&code, 1 << 16);
        for field in [11, 101, 202, 252] {
            assert_eq!(filtered[field..field + 4], (5000u32 + (1 << 16)).to_le_bytes());
        }
    }

    #[test]
    fn distances_that_a_linker_fills_in_and_far_ones_stay() {
        for code in [[0x90, 0xe8, 0, 0, 0, 0, 0x90, 0x90], [0x90, 0xe8, 1, 2, 3, 4, 0x90, 0x90]] {
            assert_eq!(comes_back(&code, 77), code);
        }
    }

    #[test]
    fn what_lies_in_a_distance_is_no_instruction() {
        let code = [0xe8, 0xe8, 1, 0, 0, 0, 0, 0x90, 0x90];
        assert_eq!(comes_back(&code, 0x100), [0xe8, 0xed, 2, 0, 0, 0, 0, 0x90, 0x90]);
    }

    #[test]
    fn each_distance_has_a_target_of_its_own() {
        for behind in [0, 1, 4, 77, 0x00ff_ffff, 0x0100_0000, 0x0123_4567] {
            let special = [wrapped(behind), wrapped(behind.wrapping_neg())];
            for from in [0, 1, 5, 0x00ff_ffff, 0xff00_0000, 0xffff_ffff].into_iter().chain(special) {
                let to = target(from, behind);
                assert!(is_near((to >> 24) as u8), "{from:#x} at {behind:#x} is no longer near");
                assert_eq!(distance(to, behind), from, "{to:#x} at {behind:#x}");
            }
        }
    }

    /// Bytes of which many begin an instruction, one within the other.
    fn dense(len: usize, seed: u64) -> Vec<u8> {
        const FREQUENT: [u8; 16] =
            [0xe8, 0xe9, 0x0f, 0x84, 0x8b, 0x05, 0x8d, 0x3d, 0, 0, 0xff, 0xff, 1, 0x80, 0x7f, 0xfb];
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes.iter_mut().for_each(|byte| *byte = FREQUENT[usize::from(*byte & 15)]);
        bytes
    }

    #[test]
    fn bytes_of_any_kind_and_length_come_back() {
        for len in (0..200).chain([255, 256, 4096, 65_536]) {
            for seed in 0..20 {
                let bytes = dense(len, seed);
                for base in [0, 1, 3, 1_310_719, u32::MAX] {
                    comes_back(&bytes, base);
                }
            }
        }
    }

    #[test]
    fn blocks_of_places_make_no_difference() {
        // The definition, place by place.
        for seed in 0..200 {
            let bytes = dense(300, seed);
            let mut slow = bytes.clone();
            let mut at = 0;
            while at + 6 <= slow.len() {
                let opcode = match (is_branch(slow[at]), is_of_two_bytes(slow[at], slow[at + 1])) {
                    (true, _) => 1,
                    (_, true) => 2,
                    _ => 0,
                };
                if opcode != 0 {
                    let field = &mut slow[at + opcode..at + opcode + 4];
                    if is_near(field[3]) {
                        let from = u32::from_le_bytes(field.try_into().unwrap());
                        field.copy_from_slice(&target(from, 5 + (at + opcode) as u32 + 4).to_le_bytes());
                    }
                    at += opcode + 3;
                }
                at += 1;
            }
            assert!(comes_back(&bytes, 5) == slow);
        }
    }

    #[test]
    fn code_is_told_from_text() {
        let mut code = vec![0x90; 4096];
        (0..20).for_each(|i| code[i * 200..i * 200 + 5].copy_from_slice(&[0xe8, 1, 2, 0, 0]));
        assert!(looks_like_code(&code));
        (0..20).for_each(|i| code[i * 200 + 4] = 0x17);
        assert!(!looks_like_code(&code));
        assert!(!looks_like_code(&b"so says the text ".repeat(200)));
        assert!(!looks_like_code(&[0xe8, 0, 0]));
        assert!(!looks_like_code(&[]));
    }
}
