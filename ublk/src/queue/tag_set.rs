// SPDX-License-Identifier: MIT OR Apache-2.0
//! A set of tags.

use crate::id::Tag;
use ublk_sys::UBLK_MAX_QUEUE_DEPTH;

/// Tags of one queue, a bit each for as many as a queue can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TagSet {
    words: [u64; 64],
    len: usize,
}

const _: () = assert!(UBLK_MAX_QUEUE_DEPTH == 64 * 64);

impl TagSet {
    pub(super) const EMPTY: TagSet = TagSet { words: [0; 64], len: 0 };

    /// The word and the bit of a tag; none for a tag that no queue can have.
    fn place(tag: Tag) -> (usize, u64) {
        let index = usize::from(tag.raw());
        (index / 64, 1 << (index % 64))
    }

    /// Adds a tag; false where it was there already, or can be in no queue.
    pub(super) fn insert(&mut self, tag: Tag) -> bool {
        let (index, bit) = TagSet::place(tag);
        let Some(word) = self.words.get_mut(index).filter(|word| **word & bit == 0) else { return false };
        *word |= bit;
        self.len += 1;
        true
    }

    /// Takes a tag out; false where it was not there.
    pub(super) fn remove(&mut self, tag: Tag) -> bool {
        let (index, bit) = TagSet::place(tag);
        let Some(word) = self.words.get_mut(index).filter(|word| **word & bit != 0) else { return false };
        *word &= !bit;
        self.len = self.len.saturating_sub(1);
        true
    }

    /// Some tag that is there.
    pub(super) fn first(&self) -> Option<Tag> {
        if self.is_empty() { None } else { self.without(&TagSet::EMPTY).next() }
    }

    /// Whether no tag is there.
    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many tags are there.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// The tags of this set that are not in `other`.
    pub(super) fn without<'s>(&'s self, other: &'s TagSet) -> impl Iterator<Item = Tag> + 's {
        let words = self.words.iter().zip(&other.words).map(|(word, other)| word & !other);
        (0_u16..).step_by(64).zip(words).flat_map(|(first, mut word)| {
            core::iter::from_fn(move || {
                let bit = u16::try_from(word.checked_ilog2()?).ok()?;
                word &= !(1 << bit);
                Some(Tag::new(first | bit))
            })
        })
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
    fn every_tag_that_is_not_in_the_other_set_comes_once() {
        let (mut set, mut other) = (TagSet::EMPTY, TagSet::EMPTY);
        for tag in [4095, 64, 0, 63, 65] {
            set.insert(Tag::new(tag));
        }
        other.insert(Tag::new(65));
        let mut tags: std::vec::Vec<u16> = set.without(&other).map(Tag::raw).collect();
        tags.sort();
        assert_eq!(tags, [0, 63, 64, 4095]);
    }

    #[test]
    fn a_tag_that_no_queue_has_is_never_in_the_set() {
        let mut set = TagSet::EMPTY;
        assert!(!set.insert(Tag::new(4096)) && !set.remove(Tag::new(u16::MAX)) && set.is_empty());
    }
}
