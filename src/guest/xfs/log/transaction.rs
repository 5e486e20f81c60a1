//! The operations of records → the items of committed transactions.
//!
//! An operation is `transaction 4 | length 4 | client 1 | flags 1 | pad 2 | data`. The first data of a transaction is its
//! header; then come items of one or more regions each, the first of which begins with `type 2 | regions 2` in the
//! machine's order. A region that did not fit into its record goes on in the next.

use std::collections::HashMap;

use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u16, be_u32};
use nom::{IResult, Parser};

use super::record::Record;
use crate::guest::GuestError;
use crate::guest::xfs::corrupt;

/// Flags of an operation.
mod flag {
    pub(super) const START: u8 = 0x01;
    pub(super) const COMMIT: u8 = 0x02;
    pub(super) const WAS_CONTINUED: u8 = 0x08;
    pub(super) const UNMOUNT: u8 = 0x20;
}

/// Bytes of the header of a transaction, and its magic.
const HEADER_BYTES: usize = 16;
const MAGIC: [u8; 4] = 0x5452_414eu32.to_le_bytes();
/// Most regions of an item: of a buffer of 64 KiB, every other piece of 128 bytes.
const REGIONS_MAX: usize = 1024;

struct Operation<'a> {
    transaction: u32,
    flags: u8,
    data: &'a [u8],
}

fn operation(input: &[u8]) -> IResult<&[u8], Operation<'_>> {
    let (input, (transaction, len, _client, flags, _pad)) = (be_u32, be_u32, be_u8, be_u8, be_u16).parse(input)?;
    let (input, data) = take(len).parse(input)?;
    Ok((input, Operation { transaction, flags, data }))
}

/// Whether a record says that the filesystem was closed in good order.
pub(super) fn is_unmount(record: &Record) -> bool {
    operation(&record.data).is_ok_and(|(_, operation)| operation.flags & flag::UNMOUNT != 0)
}

/// A logged change of one thing.
#[derive(Debug, Default)]
pub(super) struct Item {
    /// `XFS_LI_*`.
    pub kind: u16,
    regions_wanted: usize,
    pub regions: Vec<Vec<u8>>,
}

/// Changes that happened together.
#[derive(Debug)]
pub(super) struct Transaction {
    /// The sequence number of the record in which it began.
    pub sequence: u64,
    header: Vec<u8>,
    pub items: Vec<Item>,
}

/// Transactions, as record after record is added.
#[derive(Default)]
pub(super) struct Transactions {
    open: HashMap<u32, Transaction>,
    committed: Vec<Transaction>,
}

impl Transactions {
    /// Adds the operations of the next record.
    pub fn add(&mut self, record: &Record) -> Result<(), GuestError> {
        let mut rest = &record.data[..];
        for _ in 0..record.operations {
            let Ok((after, operation)) = operation(rest) else {
                return Err(wrong("as many whole operations as it says", "fewer"));
            };
            rest = after;
            self.add_operation(&operation, record.sequence)?;
        }
        Ok(())
    }

    fn add_operation(&mut self, operation: &Operation<'_>, sequence: u64) -> Result<(), GuestError> {
        let id = operation.transaction;
        if operation.flags & flag::START != 0 {
            let new = Transaction { sequence, header: Vec::new(), items: Vec::new() };
            self.open.insert(id, new);
            return Ok(());
        }
        if operation.flags & flag::UNMOUNT != 0 {
            return Ok(());
        }
        // One that began before the tail: all of it is where it belongs.
        let Some(transaction) = self.open.get_mut(&id) else { return Ok(()) };
        if operation.flags & flag::COMMIT != 0 {
            self.committed.extend(self.open.remove(&id));
            return Ok(());
        }
        transaction.add(operation.data, operation.flags & flag::WAS_CONTINUED != 0)
    }

    /// Those that were committed, in that order.
    pub fn committed(self) -> Vec<Transaction> {
        self.committed
    }
}

impl Transaction {
    fn add(&mut self, data: &[u8], continued: bool) -> Result<(), GuestError> {
        if data.is_empty() {
            return Ok(());
        }
        if self.header.len() < HEADER_BYTES {
            self.header.extend_from_slice(data);
            let is_header = self.header.len() <= HEADER_BYTES && self.header.starts_with(&MAGIC[..4.min(data.len())]);
            return is_header.then_some(()).ok_or_else(|| wrong("the header of a transaction", "something else"));
        }
        if continued {
            let region = self.items.last_mut().and_then(|item| item.regions.last_mut());
            let Some(region) = region else { return Err(wrong("a region that was begun", "none")) };
            region.extend_from_slice(data);
            return Ok(());
        }
        if let Some(item) = self.items.last_mut()
            && item.regions.len() < item.regions_wanted
        {
            item.regions.push(data.to_vec());
            return Ok(());
        }
        let [kind_low, kind_high, regions_low, regions_high, ..] = *data else {
            return Err(wrong("the start of an item", "less than four bytes"));
        };
        let regions_wanted = usize::from(u16::from_le_bytes([regions_low, regions_high]));
        if !(1..=REGIONS_MAX).contains(&regions_wanted) {
            return Err(wrong("an item of 1 to 1024 regions", &regions_wanted.to_string()));
        }
        let kind = u16::from_le_bytes([kind_low, kind_high]);
        self.items.push(Item { kind, regions_wanted, regions: vec![data.to_vec()] });
        Ok(())
    }
}

impl Item {
    /// Whether all regions came.
    pub fn is_whole(&self) -> bool {
        self.regions.len() == self.regions_wanted
    }
}

fn wrong(expected: &str, found: &str) -> GuestError {
    corrupt("log record", 0, expected, found)
}
