//! What XPRESS and LZX share: bits in 16-bit words, from the highest down, with bytes between them; and Huffman codes that
//! are given by the lengths of their symbols.

/// Longest code.
pub(super) const CODE_BITS_MAX: usize = 16;
/// Codes up to this length are looked up at once.
const FAST_BITS: u32 = 10;

/// Bits, and bytes between them. Behind its end there are zeros.
pub(super) struct Bits<'s> {
    stored: &'s [u8],
    at: usize,
    /// The next bits, the first one highest.
    buffer: u64,
    count: u32,
}

impl<'s> Bits<'s> {
    pub fn new(stored: &'s [u8]) -> Bits<'s> {
        Bits { stored, at: 0, buffer: 0, count: 0 }
    }

    /// Makes sure that so many bits, at most 32, are at hand. Words are taken as late as this allows: bytes that stand
    /// between them are found behind the last word taken.
    pub fn ensure(&mut self, bits: u32) {
        while self.count < bits {
            let byte = |at: usize| u64::from(self.stored.get(at).copied().unwrap_or(0));
            let word = byte(self.at) | byte(self.at + 1) << 8;
            self.buffer |= word << (48 - self.count);
            self.count += 16;
            self.at += 2;
        }
    }

    /// The next bits, 1 to 32, which stay.
    fn peek(&self, bits: u32) -> usize {
        usize::try_from(self.buffer >> (64 - bits)).expect("at most 32 bits")
    }

    fn drop(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.count -= bits;
    }

    /// Takes so many bits, at most 32.
    pub fn take(&mut self, bits: u32) -> usize {
        if bits == 0 {
            return 0;
        }
        self.ensure(bits);
        let value = self.peek(bits);
        self.drop(bits);
        value
    }

    /// Drops the rest of the current word, or a whole one at its beginning; bytes follow.
    pub fn align(&mut self) {
        self.ensure(1);
        let rest = match self.count % 16 {
            0 => 16,
            rest => rest,
        };
        self.drop(rest);
        self.at -= usize::try_from(self.count / 8).expect("few");
        (self.buffer, self.count) = (0, 0);
    }

    /// The next bytes, behind the last word taken; `None` if they end before.
    pub fn bytes(&mut self, len: usize) -> Option<&'s [u8]> {
        let bytes = self.stored.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(bytes)
    }

    /// Whether more was taken than there is: one word of zeros behind the end is normal, for words are taken ahead.
    pub fn is_exhausted(&self) -> bool {
        self.at.saturating_sub(usize::try_from(self.count / 8).expect("few")) > self.stored.len()
    }
}

/// A Huffman code.
pub(super) struct Code {
    /// Symbol and length (lowest 5 bits) by the next bits; 0 where the code is longer or there is none.
    fast: Vec<u16>,
    /// By length: the first code, and where its symbol is; the number of codes.
    first: [u32; CODE_BITS_MAX + 1],
    place: [usize; CODE_BITS_MAX + 1],
    count: [u32; CODE_BITS_MAX + 1],
    /// By length, then by number.
    symbols: Vec<u16>,
}

impl Code {
    /// From the length of each symbol's code; 0 for symbols that have none.
    pub fn new(lengths: &[u8]) -> Result<Code, &'static str> {
        let mut count = [0u32; CODE_BITS_MAX + 1];
        for length in lengths.iter().filter(|length| **length != 0) {
            *count.get_mut(usize::from(*length)).ok_or("a code that is too long")? += 1;
        }
        let (mut first, mut place) = ([0u32; CODE_BITS_MAX + 1], [0usize; CODE_BITS_MAX + 1]);
        for length in 1..=CODE_BITS_MAX {
            first[length] = (first[length - 1] + count[length - 1]) << 1;
            place[length] = place[length - 1] + usize::try_from(count[length - 1]).expect("fewer than symbols");
            if first[length] + count[length] > 1 << length {
                return Err("more codes than their lengths allow");
            }
        }
        let mut symbols = vec![0; place[CODE_BITS_MAX] + usize::try_from(count[CODE_BITS_MAX]).expect("few")];
        let mut fast = vec![0; 1 << FAST_BITS];
        let (mut next_place, mut next_code) = (place, first);
        for (symbol, length) in (0u16..).zip(lengths).filter(|(_, length)| **length != 0) {
            let index = usize::from(*length);
            symbols[next_place[index]] = symbol;
            next_place[index] += 1;
            let code = next_code[index];
            next_code[index] += 1;
            if let Some(free) = FAST_BITS.checked_sub(u32::from(*length)) {
                let from = usize::try_from(code).expect("at most ten bits") << free;
                fast[from..from + (1 << free)].fill(symbol << 5 | u16::from(*length));
            }
        }
        Ok(Code { fast, first, place, count, symbols })
    }

    /// Takes the next symbol.
    pub fn next(&self, bits: &mut Bits<'_>) -> Result<usize, &'static str> {
        bits.ensure(16);
        let entry = self.fast[bits.peek(FAST_BITS)];
        if entry != 0 {
            bits.drop(u32::from(entry & 0x1f));
            return Ok(usize::from(entry >> 5));
        }
        for length in 1..=CODE_BITS_MAX {
            let width = u32::try_from(length).expect("at most 16");
            let code = u32::try_from(bits.peek(width)).expect("at most 16 bits");
            if let Some(index) = code.checked_sub(self.first[length]).filter(|index| *index < self.count[length]) {
                bits.drop(width);
                return Ok(usize::from(self.symbols[self.place[length] + usize::try_from(index).expect("few")]));
            }
        }
        Err("bits that are no code")
    }
}

/// Repeats `len` bytes from `distance` before `done`; returns what is done then.
pub(super) fn repeat(out: &mut [u8], done: usize, distance: usize, len: usize) -> Result<usize, &'static str> {
    if distance == 0 || distance > done {
        return Err("a repetition of what was before its chunk");
    }
    let end = done.checked_add(len).filter(|end| *end <= out.len()).ok_or("a chunk that becomes too long")?;
    // The two may overlap: then what was just written is repeated.
    for at in done..end {
        out[at] = out[at - distance];
    }
    Ok(end)
}
