// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one mapping of a queue: its mailbox, and a buffer for each tag.
//!
//! ```text
//!   Header │ a letter box for each tag │ a turn for each │ ... page │ buffer of tag 0 │ buffer of tag 1 │ ...
//! ```
//!
//! Where several threads serve one queue, each has a mapping with a mailbox of its own, and the buffers and turns are those of the
//! first.
#![expect(unsafe_code, reason = "counts references to a mapping, and lends parts of it that the kernel writes")]

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;
use crate::hosting::BufferLock;
use crate::id::Tag;
use crate::mapping::Mapping;
use crate::queue::mailbox::{LetterBox, Mailbox};
use crate::queue::references::References;
use crate::queue::turn::Turn;
use crate::syscall;
use crate::units::round_up;

/// A counted reference to the mapping of a queue, which ends with the last one: of the queue, of every request that was
/// detached from it, and of whoever watches it. The count stands in the mapping itself, so that nothing is allocated.
///
/// Invariant R1: `header` is the start of a live mapping with an initialised [`Header`] there, whose `references` is the
/// number of values of this type with that `header`.
pub(super) struct Memory {
    header: NonNull<Header>,
}

/// What stands at the start of the mapping.
struct Header {
    references: References,
    /// The kernel may still use the buffers: the mapping is never to end.
    leaked: AtomicBool,
    mailbox: Mailbox,
    /// The mapping that this stands in.
    mapping: Mapping,
    /// Whose buffers and turns this one's are, where they are not its own.
    owner: Option<Memory>,
    depth: u16,
    /// Where the first turn stands.
    turns: usize,
    /// Where the first buffer starts.
    buffers: usize,
    /// Bytes from one buffer to the next.
    stride: usize,
    /// Bytes of a buffer that the kernel uses: the device's largest request.
    len: usize,
}

// SAFETY: the mapping belongs to no thread. What several threads look at at once is never written but for atomics, and the
// buffers have one user at a time, whom `lend`'s callers show.
unsafe impl Send for Memory {}

static_assertions::assert_not_impl_any!(Memory: Sync);

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({:p})", self.header)
    }
}

impl Memory {
    /// Maps a mailbox and buffers of `len` bytes for `depth` tags.
    pub(super) fn map(depth: u16, len: usize) -> Result<Memory, Error> {
        Memory::map_with(depth, len, None)
    }

    /// Maps a mailbox for another thread that serves the same queue, with these buffers.
    pub(super) fn beside(&self) -> Result<Memory, Error> {
        let owner = self.owner();
        Memory::map_with(owner.header().depth, 0, Some(owner.clone()))
    }

    fn map_with(depth: u16, len: usize, owner: Option<Memory>) -> Result<Memory, Error> {
        let too_large = Error::Invalid { what: "the buffers of a queue fit into the address space" };
        let page = syscall::page_bytes();
        let turns = size_of::<Header>() + usize::from(depth) * size_of::<LetterBox>();
        let buffers = round_up(turns + usize::from(depth) * size_of::<Turn>(), page).ok_or(too_large)?;
        let stride = round_up(len, page).ok_or(too_large)?;
        let all = stride.checked_mul(depth.into()).and_then(|all| all.checked_add(buffers)).ok_or(too_large)?;
        let mapping = Mapping::anonymous(all)?;
        let header = mapping.start().cast::<Header>();
        let content = Header {
            references: References::one(),
            leaked: AtomicBool::new(false),
            mailbox: Mailbox::new()?,
            mapping,
            owner,
            depth,
            turns,
            buffers,
            stride,
            len,
        };
        // SAFETY: the mapping starts at a page, is at least as long as a Header, writable (M1) and known to nobody else yet.
        unsafe { header.write(content) };
        Ok(Memory { header })
    }

    fn header(&self) -> &Header {
        // SAFETY: R1, and nobody makes an exclusive reference to it: it is moved out only when the last reference is gone.
        unsafe { self.header.as_ref() }
    }

    /// Whose buffers and turns there are: this one, or another that it keeps alive.
    fn owner(&self) -> &Memory {
        self.header().owner.as_ref().unwrap_or(self)
    }

    pub(super) fn mailbox(&self) -> &Mailbox {
        &self.header().mailbox
    }

    /// The letter box of `tag`; `None` for a tag that the queue has not.
    pub(super) fn letter_box(&self, tag: Tag) -> Option<&LetterBox> {
        if tag.raw() >= self.header().depth {
            return None;
        }
        let offset = size_of::<Header>() + usize::from(tag.raw()) * size_of::<LetterBox>();
        const { assert!(size_of::<Header>() % align_of::<LetterBox>() == 0) };
        // SAFETY: the tag is below the depth, so the place lies before `buffers` (see `map_with`), within the mapping (R1).
        let place = unsafe { self.header.cast::<u8>().add(offset) };
        // SAFETY: the place is aligned, as just asserted of the first one. A LetterBox is atomics alone, of which zeroes, with
        // which the mapping began, are a value; it is reached through shared references alone.
        Some(unsafe { place.cast::<LetterBox>().as_ref() })
    }

    /// The turn of `tag` among the threads that serve the queue; `None` for a tag that it has not.
    pub(super) fn turn(&self, tag: Tag) -> Option<&Turn> {
        let owner = self.owner();
        if tag.raw() >= owner.header().depth {
            return None;
        }
        let offset = owner.header().turns + usize::from(tag.raw()) * size_of::<Turn>();
        const { assert!(align_of::<LetterBox>() % align_of::<Turn>() == 0) };
        // SAFETY: the tag is below the depth, so the place lies before `buffers` (see `map_with`), within the mapping (R1).
        let place = unsafe { owner.header.cast::<u8>().add(offset) };
        // SAFETY: the place is aligned, as the turns stand behind whole letter boxes. A Turn is an atomic, of which zeroes, with
        // which the mapping began, are a value; it is reached through shared references alone. The mapping lives as long as
        // `owner`, which `self` keeps alive.
        Some(unsafe { place.cast::<Turn>().as_ref() })
    }

    /// Where the buffer of `tag` starts in the owner's mapping; `None` for a tag that the queue has not.
    fn buffer_offset(&self, tag: Tag) -> Option<usize> {
        let header = self.owner().header();
        (tag.raw() < header.depth).then(|| header.buffers + usize::from(tag.raw()) * header.stride)
    }

    /// Where the kernel finds the buffer of `tag`.
    pub(super) fn buffer_address(&self, tag: Tag) -> Option<u64> {
        let header = self.owner().header();
        header.mapping.address(self.buffer_offset(tag)?, header.len)
    }

    /// The first `len` bytes of the buffer of `tag`, for one user alone.
    ///
    /// # Safety
    ///
    /// As long as the result is used: no command of `tag` is in flight, and none is submitted; no other [`TagBuffer`] of `tag`
    /// is used; a `Memory` of this mapping lives.
    pub(super) unsafe fn lend(&self, tag: Tag, len: usize) -> Option<TagBuffer> {
        let offset = self.buffer_offset(tag)?;
        let owner = self.owner();
        if len > owner.header().len {
            return None;
        }
        // SAFETY: the buffer of a tag of this queue lies within the owner's mapping (see `map_with`), which `self` keeps alive.
        let start = unsafe { owner.header.cast::<u8>().add(offset) };
        Some(TagBuffer { start, len })
    }

    /// Has the kernel leave this mapping in memory: not the buffers, where they are another's.
    pub(super) fn lock(&self, when: BufferLock) -> Result<(), Error> {
        self.header().mapping.lock(when)
    }

    /// Has the mapping of the buffers stay for ever, for a kernel that may still use them.
    pub(super) fn leak(&self) {
        // ORDERING: the count of references orders it before the end.
        self.owner().header().leaked.store(true, Ordering::Relaxed);
    }
}

impl Clone for Memory {
    fn clone(&self) -> Memory {
        // It cannot wrap: there are at most as many as tags, and a few more.
        self.header().references.add();
        Memory { header: self.header }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if !self.header().references.remove() {
            return;
        }
        // SAFETY: R1, and this was the last reference: nobody looks at the header again, so that it may be moved out, which
        // ends the mapping where it stood.
        let header = unsafe { self.header.read() };
        // ORDERING: as in `leak`.
        if header.leaked.load(Ordering::Relaxed) {
            header.mapping.leak();
        }
    }
}

/// The buffer of one tag, while it is the server's.
///
/// Invariant B1: the `len` bytes at `start` are initialised memory of a live mapping, and nobody else uses them until the
/// request of its tag is answered, after which this value is not used any more ([`Memory::lend`]).
#[derive(Debug)]
pub(super) struct TagBuffer {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: B1: whoever has the value has the memory, whichever thread that is.
unsafe impl Send for TagBuffer {}

impl TagBuffer {
    /// No bytes.
    pub(super) const fn empty() -> TagBuffer {
        TagBuffer { start: NonNull::dangling(), len: 0 }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: B1, and while the result lives `self` is borrowed, so that nobody writes.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: B1, and while the result lives `self` is borrowed exclusively, so that it is the only access.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::Memory;
    use crate::Tag;
    use crate::units::u64_from;
    use std::format;
    use std::vec::Vec;

    fn is_mapped(address: u64) -> bool {
        std::fs::read_to_string("/proc/self/maps").unwrap().lines().any(|line| {
            let (range, _) = line.split_once(' ').unwrap();
            let (start, end) = range.split_once('-').unwrap();
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            (number(start)..number(end)).contains(&address)
        })
    }

    #[test]
    fn a_buffer_lies_behind_every_letter_box_and_every_other_buffer() {
        let memory = Memory::map(4096, 8192).unwrap();
        let addresses: Vec<u64> = (0..4096).map(|tag| memory.buffer_address(Tag::new(tag)).unwrap()).collect();
        let last_box: *const _ = memory.letter_box(Tag::new(4095)).unwrap();
        assert!(u64_from(last_box.addr() + size_of::<super::LetterBox>()) <= addresses[0]);
        assert!(addresses.windows(2).all(|pair| pair[0] + 8192 == pair[1]));
        assert!(memory.letter_box(Tag::new(4096)).is_none() && memory.buffer_address(Tag::new(4096)).is_none());
    }

    #[test]
    fn a_mapping_beside_another_has_its_buffers_and_turns_and_keeps_them_alive() {
        let first = Memory::map(2, 4096).unwrap();
        let (second, tag) = (first.beside().unwrap(), Tag::new(1));
        let third = second.beside().unwrap();
        assert_eq!(first.buffer_address(tag), third.buffer_address(tag));
        assert!(first.turn(tag).unwrap().take() && !third.turn(tag).unwrap().take());
        assert!(third.turn(Tag::new(2)).is_none());
        assert!(!core::ptr::eq(first.letter_box(tag).unwrap(), second.letter_box(tag).unwrap()));
        // SAFETY: no command names a tag of this queue, and each result is gone before the next is used.
        unsafe { first.lend(tag, 4096) }.unwrap().bytes_mut().fill(7);
        drop(first);
        drop(second);
        // SAFETY: as above.
        assert_eq!(unsafe { third.lend(tag, 4096) }.unwrap().bytes()[4095], 7);
        let address = third.buffer_address(tag).unwrap();
        third.leak();
        drop(third);
        assert!(is_mapped(address));
    }

    /// The line that names an eventfd among all that are open.
    fn name(about: &str) -> Option<&str> {
        about.lines().find(|line| line.starts_with("eventfd-id"))
    }

    /// How many descriptors this eventfd has. Other tests run beside this one: an address or a number that is free says
    /// nothing, as one of them may have taken it.
    fn descriptors(event: &crate::Fd) -> usize {
        let about = |number: &str| std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
        let own = about(&format!("{}", event.raw()));
        let numbers = std::fs::read_dir("/proc/self/fdinfo").unwrap().map(|entry| entry.unwrap().file_name());
        numbers.filter(|number| name(&about(number.to_str().unwrap())) == Some(name(&own).unwrap())).count()
    }

    #[test]
    fn what_the_mapping_holds_ends_with_its_last_reference_in_whichever_thread() {
        let memory = Memory::map(2, 4096).unwrap();
        let bell = memory.mailbox().bell().try_clone().unwrap();
        let (first, second) = (memory.clone(), memory.clone());
        drop(memory);
        std::thread::spawn(move || drop(first)).join().unwrap();
        assert_eq!(descriptors(&bell), 2);
        std::thread::spawn(move || drop(second)).join().unwrap();
        assert_eq!(descriptors(&bell), 1);
    }

    #[test]
    fn a_mapping_that_is_leaked_stays() {
        let memory = Memory::map(2, 4096).unwrap();
        let address = memory.buffer_address(Tag::new(0)).unwrap();
        let other = memory.clone();
        memory.leak();
        drop(memory);
        drop(other);
        assert!(is_mapped(address));
    }
}
