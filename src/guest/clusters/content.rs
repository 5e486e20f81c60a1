//! Bytes of a chain: content of files, and directories as records of 32 bytes.

use std::ops::ControlFlow;

use super::chain::Chain;
use super::{Clusters, corrupt};
use crate::guest::GuestError;

/// Bytes of a record of a directory, of either filesystem.
pub(in crate::guest) const RECORD_BYTES: usize = 32;
/// Records read at once.
const RECORDS_AT_ONCE: usize = 128;

/// A record, as it lies there.
pub(in crate::guest) type Record = [u8; RECORD_BYTES];

/// Whether those who are told something want more.
pub(in crate::guest) type Flow = Result<ControlFlow<()>, GuestError>;

/// Where a directory's records lie.
pub(in crate::guest) enum Records<'c> {
    /// In one piece outside the heap: the root of FAT12 and FAT16.
    Fixed { at: u64, len: u64 },
    /// In the first `len` bytes of a chain.
    Chain { chain: &'c Chain, len: u64 },
}

impl Clusters {
    /// Fills `buf` from byte `at` of a chain.
    pub fn read(&self, chain: &Chain, at: u64, buf: &mut [u8]) -> Result<(), GuestError> {
        self.each_run(chain, at, buf.len() as u64, &mut |place, done| {
            let (from, len) = (cut(done.start), cut(done.end - done.start));
            self.volume.read(place, &mut buf[from..from + len])?;
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Tells `visit` where `len` bytes from byte `at` of a chain lie: a position, and which of the bytes, counted from `at`.
    fn each_run(
        &self,
        chain: &Chain,
        at: u64,
        len: u64,
        visit: &mut dyn FnMut(u64, std::ops::Range<u64>) -> Flow,
    ) -> Result<(), GuestError> {
        let cluster_bytes = self.heap.cluster_bytes();
        let mut done = 0;
        while done < len {
            let position = at + done;
            let inside = position & (cluster_bytes - 1);
            let index = u32::try_from(position >> self.heap.cluster_log).unwrap_or(u32::MAX);
            let most = u32::try_from(self.clusters_for(inside + len - done)).unwrap_or(u32::MAX);
            let (first, count) = chain.run_at(self, index, most)?;
            let bytes = ((u64::from(count) << self.heap.cluster_log) - inside).min(len - done);
            if visit(self.heap.position(first) + inside, done..done + bytes)?.is_break() {
                break;
            }
            done += bytes;
        }
        Ok(())
    }

    /// Tells `visit` every record of a directory with its position, until it breaks. Damage in the chain is said after the
    /// records before it.
    pub fn each_record(
        &self,
        records: &Records<'_>,
        visit: &mut dyn FnMut(u64, &Record) -> Flow,
    ) -> Result<(), GuestError> {
        match *records {
            Records::Fixed { at, len } => self.records_of_run(at, len, visit).map(|_| ()),
            Records::Chain { chain, len } => {
                let mut stopped = false;
                self.each_run(chain, 0, len, &mut |at, range| {
                    let flow = self.records_of_run(at, range.end - range.start, visit)?;
                    stopped = flow.is_break();
                    Ok(flow)
                })?;
                if stopped { Ok(()) } else { chain.check_sound() }
            }
        }
    }

    fn records_of_run(&self, at: u64, len: u64, visit: &mut dyn FnMut(u64, &Record) -> Flow) -> Flow {
        let mut buf = [0; RECORDS_AT_ONCE * RECORD_BYTES];
        let mut done = 0;
        while done < len {
            let bytes = cut(len - done).min(buf.len());
            self.volume.metadata(at + done, &mut buf[..bytes])?;
            let (whole, _) = buf[..bytes].as_chunks::<RECORD_BYTES>();
            for (number, record) in whole.iter().enumerate() {
                let position = at + done + (number * RECORD_BYTES) as u64;
                if visit(position, record)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            done += bytes as u64;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Refuses pointers that lead out of the heap.
    pub fn check_first(&self, field: &'static str, at: u64, cluster: u32) -> Result<(), GuestError> {
        if self.heap.has(cluster) {
            return Ok(());
        }
        Err(corrupt(field, at, self.heap.range(), format!("cluster {cluster}")))
    }
}

/// A length in memory: never more than was asked for.
fn cut(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
