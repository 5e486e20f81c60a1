//! The bytes of a segment that are in hand while it is cut: what was left over of one portion, and the next one behind it.
//!
//! Each portion lies on pages of memory as it lies on pages of its source, so that it can be read directly. Knows nothing of
//! chunks.

use crate::uncached::PAGE_BYTES;

/// Memory for portions; kept from segment to segment.
#[derive(Default)]
pub struct Window {
    memory: Vec<u8>,
    /// Where in it the bytes in hand are.
    begin: usize,
    end: usize,
}

impl Window {
    /// What is in hand.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.begin..self.end]
    }

    /// Lets go of the first `len` bytes in hand.
    pub fn release(&mut self, len: usize) {
        self.begin += len;
    }

    /// Room for `len` more bytes behind those in hand, which begin at `position` of the source: what they held before is
    /// unspecified.
    pub fn extend(&mut self, position: usize, len: usize) -> &mut [u8] {
        let in_hand = self.end - self.begin;
        let needed = in_hand + len + 2 * PAGE_BYTES;
        if self.memory.len() < needed {
            let mut memory = vec![0; needed];
            memory[..in_hand].copy_from_slice(self.bytes());
            (self.memory, self.begin, self.end) = (memory, 0, in_hand);
        }
        let pages_begin = self.memory.as_ptr().addr().wrapping_neg() % PAGE_BYTES;
        let behind = (position + PAGE_BYTES - in_hand % PAGE_BYTES) % PAGE_BYTES;
        let begin = pages_begin + behind;
        self.memory.copy_within(self.begin..self.end, begin);
        (self.begin, self.end) = (begin, begin + in_hand + len);
        &mut self.memory[begin + in_hand..begin + in_hand + len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_follow_each_other_and_lie_on_pages_as_in_their_source() {
        let source: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let mut window = Window::default();
        let (mut from, mut to) = (5000, 5000);
        for (len, released) in [(500_000, 499_000), (1, 900), (70_001, 0), (900_000, 600_123), (0, 17), (4096, 4096)] {
            let portion = window.extend(to, len);
            assert!(portion.is_empty() || portion.as_ptr().addr() % PAGE_BYTES == to % PAGE_BYTES);
            portion.copy_from_slice(&source[to..to + len]);
            to += len;
            assert_eq!(window.bytes(), &source[from..to]);
            window.release(released);
            from += released;
            assert_eq!(window.bytes(), &source[from..to]);
        }
    }
}
