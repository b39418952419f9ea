// SPDX-License-Identifier: MIT OR Apache-2.0
//! The buffers of a queue that chooses one when a request needs it, and the tags that wait for one (`UBLK_F_NEED_GET_DATA`).
//!
//! ```text
//!   free ── take() ──> a tag's ── give(), with the commit ──> returned ── release(), once the kernel has the commit ──> free
//! ```
//!
//! The driver copies the data of a READ out of the buffer as it takes the commit from the ring, so that a buffer is nobody else's
//! before that.

use ublk_sys::UBLK_MAX_QUEUE_DEPTH;

use crate::error::Error;
use crate::hosting::BufferLock;
use crate::id::Tag;
use crate::mapping::Mapping;

/// Sets of numbers, a bit each, in memory of their own: a queue of another mode is not larger for it.
#[derive(Debug)]
pub(super) struct Pool {
    words: Mapping,
}

#[derive(Clone, Copy, Debug)]
enum Set {
    /// Buffers that are nobody's.
    Free,
    /// Buffers whose commit the kernel has not taken yet.
    Returned,
    /// Tags whose request waits for a buffer.
    Waiting,
    /// Tags whose request has got the buffer that it waited for, and was not delivered yet.
    Ready,
}

/// Words of a set.
const WORDS: usize = 64;

const _: () = assert!(UBLK_MAX_QUEUE_DEPTH == 64 * 64);

impl Pool {
    /// Has the kernel leave it in memory.
    pub(super) fn lock(&self, when: BufferLock) -> Result<(), Error> {
        self.words.lock(when)
    }

    /// A pool of this many buffers.
    pub(super) fn map(buffers: u16) -> Result<Pool, Error> {
        let pool = Pool { words: Mapping::anonymous(5 * WORDS * size_of::<u64>())? };
        (0..buffers).for_each(|number| pool.put(Set::Free, Tag::new(number)));
        Ok(pool)
    }

    fn word(&self, set: Set, index: usize) -> u64 {
        self.words.read(Pool::offset(set, index)).unwrap_or(0)
    }

    fn set_word(&self, set: Set, index: usize, word: u64) {
        // Every word of the sets is there.
        let _ = self.words.write(Pool::offset(set, index), word);
    }

    fn offset(set: Set, index: usize) -> usize {
        let first = match set {
            Set::Free => 0,
            Set::Returned => WORDS,
            Set::Waiting => 2 * WORDS,
            Set::Ready => 3 * WORDS,
        };
        (first + index) * size_of::<u64>()
    }

    fn place(number: Tag) -> (usize, u64) {
        (usize::from(number.raw() / 64), 1 << (number.raw() % 64))
    }

    fn put(&self, set: Set, number: Tag) {
        let (index, bit) = Pool::place(number);
        self.set_word(set, index, self.word(set, index) | bit);
    }

    fn has(&self, set: Set, number: Tag) -> bool {
        let (index, bit) = Pool::place(number);
        index < WORDS && self.word(set, index) & bit != 0
    }

    fn is_empty(&self, set: Set) -> bool {
        (0..WORDS).all(|index| self.word(set, index) == 0)
    }

    /// Takes out the first number from `start` on, which comes after the last.
    fn take_from(&self, set: Set, start: usize) -> Option<Tag> {
        let index = (start..WORDS).chain(0..start.min(WORDS)).find(|index| self.word(set, *index) != 0)?;
        let word = self.word(set, index);
        let bit = word.trailing_zeros();
        self.set_word(set, index, word & !(1 << bit));
        Some(Tag::new(u16::try_from(index * 64).ok()? + u16::try_from(bit).ok()?))
    }

    /// Takes a buffer that is nobody's.
    pub(super) fn take(&self) -> Option<Tag> {
        self.take_from(Set::Free, 0)
    }

    /// The commit of the buffer's request was staged.
    pub(super) fn give(&self, buffer: Tag) {
        self.put(Set::Returned, buffer);
    }

    /// No command has ever named the buffer, or the last that did has ended.
    pub(super) fn free(&self, buffer: Tag) {
        self.put(Set::Free, buffer);
    }

    /// The kernel has taken all that was staged.
    pub(super) fn release(&self) {
        while let Some(buffer) = self.take_from(Set::Returned, 0) {
            self.put(Set::Free, buffer);
        }
    }

    /// Whether a tag waits that one of the buffers could be for which were returned.
    pub(super) fn is_starved(&self) -> bool {
        !self.is_empty(Set::Waiting) && !self.is_empty(Set::Returned)
    }

    /// The tag's request waits for a buffer.
    pub(super) fn wait(&self, tag: Tag) {
        self.put(Set::Waiting, tag);
    }

    pub(super) fn is_waiting(&self, tag: Tag) -> bool {
        self.has(Set::Waiting, tag)
    }

    /// How many tags wait.
    #[cfg(feature = "std")]
    pub(super) fn waiting(&self) -> usize {
        (0..WORDS).filter_map(|index| usize::try_from(self.word(Set::Waiting, index).count_ones()).ok()).sum()
    }

    /// A tag that waits, and a buffer for it; tags take turns.
    pub(super) fn serve(&self) -> Option<(Tag, Tag)> {
        if self.is_empty(Set::Waiting) {
            return None;
        }
        let buffer = self.take()?;
        // The word behind the sets has where the last one stood.
        let last = Pool::offset(Set::Ready, WORDS);
        let start = self.words.read::<u64>(last).and_then(|word| usize::try_from(word).ok()).unwrap_or(0);
        let tag = self.take_from(Set::Waiting, start % WORDS)?;
        let _ = self.words.write(last, u64::from(tag.raw() / 64) + 1);
        Some((tag, buffer))
    }

    /// The tag's request has its buffer, and is to be delivered.
    pub(super) fn make_ready(&self, tag: Tag) {
        self.put(Set::Ready, tag);
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.is_empty(Set::Ready)
    }

    pub(super) fn take_ready(&self) -> Option<Tag> {
        self.take_from(Set::Ready, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::Pool;
    use crate::Tag;

    #[test]
    fn a_buffer_is_one_tags_until_the_kernel_has_its_commit() {
        let pool = Pool::map(2).unwrap();
        let (first, second) = (pool.take().unwrap(), pool.take().unwrap());
        assert_ne!(first, second);
        assert_eq!(pool.take(), None);
        pool.give(second);
        assert_eq!(pool.take(), None);
        pool.release();
        assert_eq!((pool.take(), pool.take()), (Some(second), None));
    }

    #[test]
    fn every_tag_that_waits_gets_a_buffer_in_its_turn() {
        let pool = Pool::map(1).unwrap();
        let buffer = pool.take().unwrap();
        for tag in [4095, 0, 70, 130] {
            pool.wait(Tag::new(tag));
        }
        assert!(pool.serve().is_none() && !pool.is_starved() && pool.is_waiting(Tag::new(70)));
        let mut served = std::vec::Vec::new();
        for again in [0, 1, 1, 1, 1, 1, 1, 1] {
            pool.give(buffer);
            pool.release();
            let Some((tag, its)) = pool.serve() else { break };
            assert_eq!(its, buffer);
            served.push(tag.raw());
            if again == 0 {
                // It comes back at once, and is not served before the others.
                pool.wait(tag);
            }
        }
        assert_eq!(served, [0, 70, 130, 4095, 0]);
    }
}
