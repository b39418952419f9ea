// SPDX-License-Identifier: MIT OR Apache-2.0
//! A set of tags.

use crate::id::Tag;
use crate::units::usize_from;
use ublk_sys::UBLK_MAX_QUEUE_DEPTH;

/// Tags of one queue, a bit each for as many as a queue can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TagSet {
    words: [u64; 64],
}

const _: () = assert!(UBLK_MAX_QUEUE_DEPTH == 64 * 64);

impl TagSet {
    pub(super) const EMPTY: TagSet = TagSet { words: [0; 64] };

    /// The word and the bit of a tag; none for a tag that no queue can have.
    fn place(&mut self, tag: Tag) -> Option<(&mut u64, u64)> {
        let index = usize::from(tag.raw());
        Some((self.words.get_mut(index / 64)?, 1 << (index % 64)))
    }

    /// Adds a tag; false where it was there already, or can be in no queue.
    pub(super) fn insert(&mut self, tag: Tag) -> bool {
        self.place(tag).is_some_and(|(word, bit)| {
            let new = *word & bit == 0;
            *word |= bit;
            new
        })
    }

    /// Takes a tag out; false where it was not there.
    pub(super) fn remove(&mut self, tag: Tag) -> bool {
        self.place(tag).is_some_and(|(word, bit)| {
            let there = *word & bit != 0;
            *word &= !bit;
            there
        })
    }

    /// Takes the lowest tag out.
    pub(super) fn pop(&mut self) -> Option<Tag> {
        let (index, word) = self.words.iter_mut().enumerate().find(|(_, word)| **word != 0)?;
        let bit = word.trailing_zeros();
        *word &= *word - 1;
        u16::try_from(index * 64 + usize_from(bit)).ok().map(Tag::new)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    pub(super) fn len(&self) -> usize {
        self.words.iter().map(|word| usize_from(word.count_ones())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::TagSet;
    use crate::Tag;

    #[test]
    fn a_tag_is_in_the_set_from_insert_to_remove() {
        let mut set = TagSet::EMPTY;
        for tag in [0, 63, 64, 4095] {
            assert!(set.insert(Tag::new(tag)));
            assert!(!set.insert(Tag::new(tag)));
        }
        assert_eq!(set.len(), 4);
        for tag in [0, 63, 64, 4095] {
            assert!(set.remove(Tag::new(tag)));
            assert!(!set.remove(Tag::new(tag)));
        }
        assert!(set.is_empty());
    }

    #[test]
    fn every_tag_comes_out_once() {
        let mut set = TagSet::EMPTY;
        for tag in [4095, 64, 0, 63] {
            set.insert(Tag::new(tag));
        }
        let tags: std::vec::Vec<u16> = core::iter::from_fn(|| set.pop()).map(Tag::raw).collect();
        assert_eq!(tags, [0, 63, 64, 4095]);
    }

    #[test]
    fn a_tag_that_no_queue_has_is_never_in_the_set() {
        let mut set = TagSet::EMPTY;
        assert!(!set.insert(Tag::new(4096)) && !set.remove(Tag::new(u16::MAX)) && set.is_empty());
    }
}
