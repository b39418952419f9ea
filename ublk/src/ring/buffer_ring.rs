// SPDX-License-Identifier: MIT OR Apache-2.0
//! Buffers that a ring's operations take for themselves when there is something to put there.
#![expect(unsafe_code, reason = "memory that the kernel writes until a caller promises that it has ended")]

use ublk_sys::{
    IORING_CQE_BUFFER_SHIFT, IORING_CQE_F_BUF_MORE, IORING_CQE_F_BUFFER, IORING_CQE_F_MORE, IOU_PBUF_RING_INC,
};

use crate::error::{Error, SystemCall};
use crate::hosting::BufferLock;
use crate::ring::cq::Completion;
use crate::ring::memory::BufferMemory;
use crate::ring::provided::ProvidedQueue;
use crate::syscall::{self, Fd};
use crate::units::usize_from;

/// How operations use the buffers of a [`BufferRing`] up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BufferUse {
    /// Each takes a whole buffer, however little it puts there (Linux 5.19).
    Whole,
    /// Each takes what it fills; the next goes on behind it (`IOU_PBUF_RING_INC`, Linux 6.12).
    Piecewise,
}

static_assertions::assert_impl_all!(BufferUse: Send, Sync);

/// A group of provided buffers, registered with a ring (`struct io_uring_buf_ring`).
///
/// An operation of the ring that selects from the group ([`Op::provided`](super::Op::provided),
/// [`Op::uring_cmd_multishot`](super::Op::uring_cmd_multishot)) takes a buffer when it has something to put there. Its completion
/// says which; [`take`](BufferRing::take) copies the bytes out and gives the buffer back. With none left, the operation fails with
/// `ENOBUFS`.
///
/// Dropping it leaks its memory, because the kernel writes there as long as the ring has such an operation, and ends what is
/// under way later, on its own time. Who knows that there is none calls [`unmap`](BufferRing::unmap).
#[derive(Debug)]
pub struct BufferRing {
    queue: ProvidedQueue,
    group: u16,
    used: BufferUse,
    /// The buffer that the kernel has used a part of, and how many bytes.
    part: Option<(u16, u32)>,
}

static_assertions::assert_impl_all!(BufferRing: Send);
static_assertions::assert_not_impl_any!(BufferRing: Sync, Clone);

impl BufferRing {
    /// Registers `count` buffers with the ring as the group `group`, and provides all of them.
    pub(super) fn register(
        ring: &Fd,
        group: u16,
        count: u16,
        buffer_bytes: u32,
        used: BufferUse,
    ) -> Result<BufferRing, Error> {
        let queue = ProvidedQueue::new(BufferMemory::map(count, buffer_bytes)?);
        let mut buffers = BufferRing { queue, group, used, part: None };
        if let Err(error) = buffers.give(ring) {
            // SAFETY: the kernel did not take it.
            unsafe { buffers.unmap() };
            return Err(error);
        }
        buffers.provide_all()?;
        Ok(buffers)
    }

    /// Has the kernel take buffers from this memory, of which it has none yet.
    fn give(&self, ring: &Fd) -> Result<(), Error> {
        let flags = match self.used {
            BufferUse::Whole => 0,
            BufferUse::Piecewise => IOU_PBUF_RING_INC,
        };
        let memory = &self.queue.memory;
        let (address, count) = (memory.address().unwrap_or(0), self.count().into());
        // SAFETY: the entries, and the buffers that this type has them name, lie in `memory`, which is unmapped by `unmap` alone,
        // where the kernel did not take it, or whose caller promises that the ring uses it no more (P1).
        let registered = unsafe { syscall::register_buffer_ring(ring, address, count, self.group, flags) };
        registered.map_err(|errno| SystemCall::RegisterBufferRing.failed(errno))
    }

    fn provide_all(&mut self) -> Result<(), Error> {
        (0..self.count()).try_for_each(|buffer| self.provide(buffer))
    }

    /// Takes all buffers back from the kernel, and gives them anew.
    ///
    /// An operation that has selected one, if there is any, may still write there: the memory stays.
    pub(super) fn reset(&mut self, ring: &Fd) -> Result<(), Error> {
        let gone = syscall::unregister_buffer_ring(ring, self.group);
        gone.map_err(|errno| SystemCall::RegisterBufferRing.failed(errno))?;
        self.queue.restart();
        self.part = None;
        self.give(ring)?;
        self.provide_all()
    }

    /// Has the kernel leave the buffers in memory.
    pub(crate) fn lock(&self, when: BufferLock) -> Result<(), Error> {
        self.queue.memory.lock(when)
    }

    /// The group's number on its ring.
    #[must_use]
    pub fn group(&self) -> u16 {
        self.group
    }

    /// How many buffers there are. They have the ids from 0 on.
    #[must_use]
    pub fn count(&self) -> u16 {
        self.queue.memory.entries()
    }

    /// Bytes of each buffer.
    #[must_use]
    pub fn buffer_bytes(&self) -> u32 {
        self.queue.memory.buffer_bytes()
    }

    /// Copies what a completion of this group brought into the start of `into`, and gives its buffer back once that is used
    /// up; how many bytes. `None`: the completion has no buffer, or the operation put nothing there.
    ///
    /// To be called with each completion of the group that has a buffer, in the order in which they come: where buffers are used
    /// piecewise, a completion does not say where its piece starts.
    ///
    /// # Errors
    ///
    /// - [`Error::Invalid`]: `into` is too short; nothing was taken.
    /// - [`Error::Implausible`]: the kernel named a buffer that there is not, or more bytes than it has.
    pub fn take(&mut self, completion: &Completion, into: &mut [u8]) -> Result<Option<usize>, Error> {
        let Some(buffer) = completion.buffer() else { return Ok(None) };
        if buffer >= self.count() {
            return Err(Error::Implausible { what: "the id of a provided buffer", value: buffer.into() });
        }
        let len = u32::try_from(completion.result).unwrap_or(0);
        let start = match self.part {
            Some((part, used)) if part == buffer => used,
            _ => 0,
        };
        let end = start.checked_add(len).filter(|end| *end <= self.buffer_bytes());
        let end = end.ok_or(Error::Implausible { what: "the bytes in a provided buffer", value: len.into() })?;
        let bytes = into.get_mut(..usize_from(len));
        let bytes = bytes.ok_or(Error::Invalid { what: "what a completion brought has room where it is taken to" })?;
        self.read(buffer, start, bytes)?;
        if completion.flags & IORING_CQE_F_BUF_MORE != 0 {
            self.part = Some((buffer, end));
        } else {
            self.part = None;
            self.provide(buffer)?;
        }
        Ok((len > 0).then_some(usize_from(len)))
    }

    /// Copies the bytes of a buffer from `offset` on, as many as `into` has. While the kernel has the buffer, they may be any.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: there is no such buffer, or it has no such bytes.
    pub fn read(&self, buffer: u16, offset: u32, into: &mut [u8]) -> Result<(), Error> {
        let read = self.queue.memory.read(buffer, offset, into);
        read.ok_or(Error::Invalid { what: "what is read of a provided buffer lies within it" })
    }

    /// Gives the kernel this buffer, for the next operation that has something to put there.
    ///
    /// When the ring was made they were all given, and [`take`](BufferRing::take) gives them back. One that is given a second
    /// time before it was used may be written to again before it was read.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: there is no such buffer.
    pub fn provide(&mut self, buffer: u16) -> Result<(), Error> {
        self.queue.provide(buffer).ok_or(Error::Invalid { what: "there is a provided buffer of this id" })
    }

    /// Ends its memory, which is leaked otherwise.
    ///
    /// # Safety
    ///
    /// No operation that selects from this group is under way on the ring, and none will be: of each, the completion that says that
    /// no more come was reaped.
    pub unsafe fn unmap(self) {
        // SAFETY: the kernel writes to the buffers only for such operations. It has the entries' pages to itself.
        unsafe { self.queue.memory.unmap() };
    }
}

/// What a completion says besides its result.
impl Completion {
    /// The id of the provided buffer that the operation put something into (`IORING_CQE_F_BUFFER`).
    #[must_use]
    pub const fn buffer(&self) -> Option<u16> {
        const { assert!(IORING_CQE_BUFFER_SHIFT == 16) };
        let [_, _, low, high] = self.flags.to_le_bytes();
        if self.flags & IORING_CQE_F_BUFFER == 0 { None } else { Some(u16::from_le_bytes([low, high])) }
    }

    /// Whether the operation goes on, and completes again (`IORING_CQE_F_MORE`).
    #[must_use]
    pub const fn has_more(&self) -> bool {
        self.flags & IORING_CQE_F_MORE != 0
    }
}

#[cfg(test)]
impl BufferRing {
    /// Buffers that no ring has, so that the test plays the kernel.
    pub(crate) fn fake(group: u16, count: u16, buffer_bytes: u32) -> BufferRing {
        let queue = ProvidedQueue::new(BufferMemory::map(count, buffer_bytes).unwrap());
        BufferRing { queue, group, used: BufferUse::Piecewise, part: None }
    }

    /// What the kernel writes to a buffer.
    pub(crate) fn fill(&self, buffer: u16, offset: u32, bytes: &[u8]) {
        self.queue.memory.fill(buffer, usize_from(offset), bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::BufferRing;
    use crate::error::Error;
    use crate::ring::cq::Completion;
    use core::sync::atomic::Ordering;
    use ublk_sys::{IORING_CQE_F_BUF_MORE, IORING_CQE_F_BUFFER, IORING_CQE_F_MORE};

    /// Two buffers of eight bytes that no ring has.
    fn fake() -> BufferRing {
        BufferRing::fake(0, 2, 8)
    }

    fn completion(buffer: u32, result: i32, flags: u32) -> Completion {
        Completion { user_data: 0, result, flags: buffer << 16 | flags | IORING_CQE_F_BUFFER }
    }

    fn given(buffers: &BufferRing) -> u16 {
        buffers.queue.memory.tail().load(Ordering::Relaxed)
    }

    #[test]
    fn what_a_completion_brought_is_copied_and_its_buffer_given_back() {
        let mut buffers = fake();
        buffers.queue.memory.fill(1, 0, b"abcdefgh");
        let mut into = [0; 16];
        assert_eq!(buffers.take(&completion(1, 5, IORING_CQE_F_MORE), &mut into), Ok(Some(5)));
        assert_eq!(&into[..6], b"abcde\0");
        assert_eq!((given(&buffers), buffers.queue.memory.entry(0).0), (1, 1));
        assert_eq!(buffers.take(&completion(1, 8, 0), &mut into), Ok(Some(8)));
        assert_eq!((given(&buffers), &into[..8]), (2, &b"abcdefgh"[..]));
        buffers.queue.memory.end();
    }

    #[test]
    fn pieces_follow_each_other_and_the_last_one_gives_the_buffer_back() {
        let mut buffers = fake();
        buffers.queue.memory.fill(0, 0, b"abcdefgh");
        buffers.queue.memory.fill(1, 0, b"ijklmnop");
        let mut into = [0; 8];
        let mut takes = |buffer, len, flags| {
            let taken = buffers.take(&completion(buffer, len, flags), &mut into).unwrap().unwrap();
            (std::string::String::from_utf8(into[..taken].to_vec()).unwrap(), given(&buffers))
        };
        assert_eq!(takes(0, 2, IORING_CQE_F_BUF_MORE), ("ab".into(), 0));
        assert_eq!(takes(0, 4, IORING_CQE_F_BUF_MORE), ("cdef".into(), 0));
        assert_eq!(takes(0, 2, 0), ("gh".into(), 1));
        // The next one starts at its own beginning, and so does the first when it comes again.
        assert_eq!(takes(1, 8, 0), ("ijklmnop".into(), 2));
        assert_eq!(takes(0, 3, IORING_CQE_F_BUF_MORE), ("abc".into(), 2));
        buffers.queue.memory.end();
    }

    #[test]
    fn a_buffer_that_there_is_not_and_more_bytes_than_it_has_are_not_believed() {
        let mut buffers = fake();
        let mut into = [0; 64];
        for (lie, value) in [(completion(2, 1, 0), 2), (completion(0xffff, 1, 0), 0xffff)] {
            let refused = Error::Implausible { what: "the id of a provided buffer", value };
            assert_eq!(buffers.take(&lie, &mut into), Err(refused));
        }
        let refused = |value| Err(Error::Implausible { what: "the bytes in a provided buffer", value });
        assert_eq!(buffers.take(&completion(0, 9, 0), &mut into), refused(9));
        assert_eq!(buffers.take(&completion(0, i32::MAX, 0), &mut into), refused(0x7fff_ffff));
        assert_eq!(buffers.take(&completion(0, 6, IORING_CQE_F_BUF_MORE), &mut into), Ok(Some(6)));
        assert_eq!(buffers.take(&completion(0, 3, 0), &mut into), refused(3));
        assert_eq!(given(&buffers), 0);
        buffers.queue.memory.end();
    }

    #[test]
    fn what_does_not_fit_is_not_taken() {
        let mut buffers = fake();
        assert!(matches!(buffers.take(&completion(0, 5, 0), &mut [0; 4]), Err(Error::Invalid { .. })));
        assert_eq!(given(&buffers), 0);
        assert_eq!(buffers.take(&completion(0, 5, 0), &mut [0; 5]), Ok(Some(5)));
        buffers.queue.memory.end();
    }

    #[test]
    fn a_completion_without_bytes_brings_nothing_and_gives_its_buffer_back() {
        let mut buffers = fake();
        let ended = Completion { user_data: 0, result: -105, flags: 0 };
        assert_eq!((buffers.take(&ended, &mut []), given(&buffers)), (Ok(None), 0));
        assert_eq!((buffers.take(&completion(0, 0, 0), &mut []), given(&buffers)), (Ok(None), 1));
        assert_eq!((buffers.take(&completion(1, -5, 0), &mut []), given(&buffers)), (Ok(None), 2));
        buffers.queue.memory.end();
    }

    #[test]
    fn a_completion_says_its_buffer_and_whether_more_come() {
        let plain = Completion { user_data: 0, result: 1, flags: 7 << 16 };
        assert_eq!((plain.buffer(), plain.has_more()), (None, false));
        let flags = 0xfffe << 16 | IORING_CQE_F_BUFFER | IORING_CQE_F_MORE;
        let named = Completion { flags, ..plain };
        assert_eq!((named.buffer(), named.has_more()), (Some(0xfffe), true));
    }
}
