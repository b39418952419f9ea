// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pieces of shared memory that a queue's ring has among its buffers.

use crate::error::Error;
use crate::hosting::BufferLock;
use crate::id::SharedIndex;
use crate::mapping::Mapping;
use crate::queue::request::SharedPlace;
use crate::shared_memory::SharedMemory;
use crate::units::u64_from;

pub(super) const NOT_SHARED: Error =
    Error::Invalid { what: "memory is shared with a device that has UBLK_F_SHMEM_ZC, under its number" };

/// How many there can be.
pub(super) const SHARED: u32 = 64;

/// What is shared under which number: three words for each slot of the ring's table. It is memory of its own, so that a queue
/// without is not larger for it.
#[derive(Debug)]
pub(super) struct Shares {
    words: Mapping,
}

const SLOT_BYTES: usize = 3 * size_of::<u64>();

/// In the first word: the number, and that there is one.
const IS_SHARED: u64 = 1 << 16;

impl Shares {
    pub(super) fn map() -> Result<Shares, Error> {
        Ok(Shares { words: Mapping::anonymous(SLOT_BYTES * crate::units::usize_from(SHARED))? })
    }

    /// Has the kernel leave it in memory.
    pub(super) fn lock(&self, when: BufferLock) -> Result<(), Error> {
        self.words.lock(when)
    }

    fn slots() -> impl Iterator<Item = u16> {
        (0..u16::MAX).take_while(|slot| u32::from(*slot) < SHARED)
    }

    fn word(&self, slot: u16, word: usize) -> u64 {
        self.words.read(usize::from(slot) * SLOT_BYTES + word * size_of::<u64>()).unwrap_or(0)
    }

    /// The slot of what is shared under this number.
    pub(super) fn slot(&self, index: SharedIndex) -> Option<u16> {
        Shares::slots().find(|slot| self.word(*slot, 0) == IS_SHARED | u64::from(index.raw()))
    }

    /// A slot for what is not shared yet.
    pub(super) fn free(&self, index: SharedIndex) -> Option<u16> {
        if self.slot(index).is_some() {
            return None;
        }
        Shares::slots().find(|slot| self.word(*slot, 0) == 0)
    }

    /// Shares what `register` puts into a slot of the ring's table, which is given its address and its length.
    pub(super) fn add(
        &self,
        index: SharedIndex,
        memory: &SharedMemory,
        register: impl FnOnce(u16, u64, u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let slot = self.free(index).ok_or(Error::Invalid { what: "a queue has 64 pieces of memory, each once" })?;
        let (address, len) = (memory.address().ok_or(NOT_SHARED)?, u64_from(memory.len_bytes()));
        register(slot, address, len)?;
        self.set(slot, index, address, len);
        Ok(())
    }

    pub(super) fn set(&self, slot: u16, index: SharedIndex, address: u64, len: u64) {
        for (word, value) in [IS_SHARED | u64::from(index.raw()), address, len].into_iter().enumerate() {
            // A slot that was given has its place.
            let _ = self.words.write(usize::from(slot) * SLOT_BYTES + word * size_of::<u64>(), value);
        }
    }

    pub(super) fn clear(&self, slot: u16) {
        let _ = self.words.write(usize::from(slot) * SLOT_BYTES, 0_u64);
    }

    /// The slot and the address of `len` bytes there; `None` where nothing is shared under that number, or not so much.
    pub(super) fn find(&self, place: SharedPlace, len: usize) -> Option<(u16, u64)> {
        let slot = self.slot(place.index)?;
        let end = place.offset.checked_add(len)?;
        (u64_from(end) <= self.word(slot, 2)).then(|| (slot, self.word(slot, 1) + u64_from(place.offset)))
    }
}

#[cfg(test)]
mod tests {
    use super::Shares;
    use crate::id::SharedIndex;
    use crate::queue::request::SharedPlace;

    #[test]
    fn a_number_is_shared_once_and_nothing_beyond_its_end() {
        let shares = Shares::map().unwrap();
        let place = |index, offset| SharedPlace { index: SharedIndex::new(index), offset };
        assert_eq!(shares.find(place(0, 0), 1), None);
        for number in 0..64 {
            let slot = shares.free(SharedIndex::new(number)).unwrap();
            shares.set(slot, SharedIndex::new(number), 0x10_0000 * u64::from(number), 8192);
        }
        assert_eq!(shares.free(SharedIndex::new(64)), None, "all are taken");
        assert_eq!(shares.find(place(3, 4096), 4096), Some((3, 0x30_1000)));
        assert_eq!(shares.find(place(3, 4096), 4097), None);
        assert_eq!(shares.find(place(3, usize::MAX), 1), None);
        assert_eq!(shares.find(place(64, 0), 1), None);
        shares.clear(3);
        assert_eq!(shares.find(place(3, 0), 1), None);
        assert_eq!(shares.free(SharedIndex::new(5)), None, "it is shared already");
        assert_eq!(shares.free(SharedIndex::new(64)), Some(3));
    }
}
