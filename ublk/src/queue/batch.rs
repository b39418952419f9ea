// SPDX-License-Identifier: MIT OR Apache-2.0
//! The batch transport (`UBLK_F_BATCH_IO`): the tags of many requests come with one completion, and many answers go with one command.
//!
//! ```text
//!   PREP_IO_CMDS     once for a queue: an element for each tag, with its buffer's address where there is one
//!   FETCH_IO_CMDS    multishot: each completion says how many tags the driver has written to a provided buffer
//!   COMMIT_IO_CMDS   an element for each answer since the last wait
//! ```
//!
//! A tag has no daemon here. Several threads may serve one queue, each with a ring of its own and two fetches on it; the driver gives
//! every tag to one of them, and takes its answer from whichever ring. Of the fetches the driver uses the first as long as it can: until
//! its buffer is used up, which ends it (`ENOBUFS`). It is then sent again, and stands last in the driver's list. So the size of the buffer
//! is how long a thread's turn is.
//!
//! Invariant Q3 (`SAFETY.md`) says what belongs to whom.

use ublk_sys::{
    UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK, UBLK_BATCH_F_HAS_BUF_ADDR, UBLK_BATCH_F_HAS_ZONE_LBA, ublk_batch_io,
    ublk_elem_header, ublksrv_io_cmd,
};

use crate::errno::Errno;
use crate::error::{Command, Error, Sent};
use crate::features::Features;
use crate::hosting::BufferLock;
use crate::id::{QueueId, Tag};
use crate::mapping::Mapping;
use crate::mode::{Data, Mode};
use crate::queue::{NO_TAG, Queue, State, elements_op, push, tags_op};
use crate::ring::{BufferRing, BufferUse, Completion, Local, Ring};
use crate::syscall::Fd;

/// Fetches that a thread has for its queue: while one is sent again, the driver uses the other.
pub(super) const FETCHES: u16 = 2;

/// User data of a fetch has this bit, and its index.
const FETCH_BIT: u64 = 1 << 35;

/// User data of a commit.
const COMMIT_USER_DATA: u64 = 1 << 36;

/// The group of provided buffers of the first fetch; the second has the next.
const FIRST_GROUP: u16 = 7;

/// Bytes of a tag in a fetch's buffer.
const TAG_BYTES: u8 = 2;

/// Tags for which the buffer of a fetch has room, where one thread serves the queue. Where several do, it has room for an eighth of
/// the queue's depth: then it is another thread's turn.
const ROOM: u16 = 2048;

/// How the elements of a queue look: `flags` and `elem_bytes` of a `struct ublk_batch_io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    flags: u16,
    element_bytes: u8,
}

const HEADER_BYTES: u8 = 8;
const WORD_BYTES: u8 = 8;

/// Behind the header there is a word: the buffer's address, or where a zone append went.
const HAS_WORD: u16 = UBLK_BATCH_F_HAS_BUF_ADDR | UBLK_BATCH_F_HAS_ZONE_LBA;
const _: () = assert!(size_of::<ublk_elem_header>() == 8);

impl Form {
    /// Of a queue of a device with these features. A zoned one is in no mode with a buffer, so that an element has one of the two.
    pub(super) fn of<M: Mode>(features: Features) -> Form {
        let mut flags = match M::DATA {
            Data::Buffer | Data::Chosen => UBLK_BATCH_F_HAS_BUF_ADDR,
            Data::Registered => UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK,
            Data::UserCopy | Data::ByCommand => 0,
        };
        if features.contains(Features::ZONED) && M::DATA != Data::Buffer {
            flags |= UBLK_BATCH_F_HAS_ZONE_LBA;
        }
        let word = if flags & HAS_WORD == 0 { 0 } else { WORD_BYTES };
        Form { flags, element_bytes: HEADER_BYTES + word }
    }

    /// What a command says of its elements.
    fn sent(self, queue: QueueId, count: u16) -> ublk_batch_io {
        let mut sent = ublk_batch_io::default();
        (sent.q_id, sent.flags) = (queue.raw(), self.flags);
        (sent.nr_elem, sent.elem_bytes) = (count, self.element_bytes);
        sent
    }
}

/// What a fetch says.
fn fetch_sent(queue: QueueId) -> ublk_batch_io {
    let mut sent = ublk_batch_io::default();
    (sent.q_id, sent.elem_bytes) = (queue.raw(), TAG_BYTES);
    sent
}

/// The command area of a command for a batch.
pub(super) fn area(sent: &ublk_batch_io) -> [u64; 2] {
    let [q0, q1] = sent.q_id.to_ne_bytes();
    let [f0, f1] = sent.flags.to_ne_bytes();
    let [n0, n1] = sent.nr_elem.to_ne_bytes();
    [u64::from_ne_bytes([q0, q1, f0, f1, n0, n1, sent.elem_bytes, sent.reserved]), sent.reserved2]
}

/// Two arrays of elements, of one for each tag: one is filled while the other is with the driver.
#[derive(Debug)]
pub(super) struct Elements {
    /// `None` once it is leaked.
    mapping: Option<Mapping>,
    depth: u16,
    form: Form,
}

/// Which of the two arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    First,
    Second,
}

impl Half {
    fn other(self) -> Half {
        match self {
            Half::First => Half::Second,
            Half::Second => Half::First,
        }
    }
}

/// Some elements of one array, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    half: Half,
    from: u16,
    to: u16,
}

impl Piece {
    fn count(self) -> u16 {
        self.to.saturating_sub(self.from)
    }
}

impl Elements {
    pub(super) fn map(depth: u16, form: Form) -> Result<Elements, Error> {
        let len = 2 * usize::from(depth) * usize::from(form.element_bytes);
        Ok(Elements { mapping: Some(Mapping::anonymous(len)?), depth, form })
    }

    fn place(&self, half: Half, index: u16) -> Option<usize> {
        let first = if half == Half::First { 0 } else { usize::from(self.depth) };
        (index < self.depth).then(|| (first + usize::from(index)) * usize::from(self.form.element_bytes))
    }

    /// Writes an element; `None` where there is no such place.
    fn set(&self, half: Half, index: u16, tag: Tag, result: i32, word: u64) -> Option<()> {
        let (place, mapping) = (self.place(half, index)?, self.mapping.as_ref()?);
        let [t0, t1] = tag.raw().to_ne_bytes();
        // Where the driver registers pages, a tag's are always the buffer of its own number.
        let [b0, b1] = if self.form.flags & UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK == 0 { [0, 0] } else { [t0, t1] };
        let [r0, r1, r2, r3] = result.to_ne_bytes();
        mapping.write(place, u64::from_ne_bytes([t0, t1, b0, b1, r0, r1, r2, r3]))?;
        if self.form.flags & HAS_WORD != 0 {
            mapping.write(place + usize::from(HEADER_BYTES), word)?;
        }
        Some(())
    }

    /// The tag of an element.
    fn tag(&self, half: Half, index: u16) -> Option<Tag> {
        Some(Tag::new(self.mapping.as_ref()?.read(self.place(half, index)?)?))
    }

    /// Where the driver finds them, and what a command says of them.
    pub(super) fn sent(&self, queue: QueueId, piece: Piece) -> Option<(u64, ublk_batch_io)> {
        let count = piece.count();
        let len = usize::from(count) * usize::from(self.form.element_bytes);
        let address = self.mapping.as_ref()?.address(self.place(piece.half, piece.from)?, len)?;
        Some((address, self.form.sent(queue, count)))
    }

    /// Has the mapping stay for ever.
    fn leak(&mut self) {
        if let Some(mapping) = self.mapping.take() {
            mapping.leak();
        }
    }
}

/// What has become of a commit's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Committed {
    /// All are answered, or the driver will be asked again for the rest.
    Done,
    /// The driver did not take the answer to this tag.
    Refused(Tag, Errno),
}

/// The answers that are not with the driver yet, or not known to be.
#[derive(Debug)]
struct Commits {
    elements: Elements,
    /// The array that is filled, and how many elements it has.
    open: Half,
    collected: u16,
    /// What of the other one is with the driver, or was left by it.
    sent: Option<Piece>,
    in_flight: bool,
}

impl Commits {
    fn over(elements: Elements) -> Commits {
        Commits { elements, open: Half::First, collected: 0, sent: None, in_flight: false }
    }

    fn add(&mut self, tag: Tag, result: i32, word: u64) -> Option<()> {
        self.elements.set(self.open, self.collected, tag, result, word)?;
        self.collected += 1;
        Some(())
    }

    fn is_empty(&self) -> bool {
        self.collected == 0 && self.sent.is_none()
    }

    /// Whether some are left when what is in flight has completed.
    fn has_more(&self) -> bool {
        self.collected > 0
    }

    /// What is to be sent now, which is in flight from here on.
    fn send(&mut self) -> Option<Piece> {
        if self.in_flight {
            return None;
        }
        if self.sent.is_none() && self.collected > 0 {
            self.sent = Some(Piece { half: self.open, from: 0, to: self.collected });
            (self.open, self.collected) = (self.open.other(), 0);
        }
        self.in_flight = self.sent.is_some();
        self.sent
    }

    /// What was sent has completed: with the bytes of the elements that the driver took, from the first on, or with why it did not
    /// take the first.
    fn completed(&mut self, result: i32) -> Result<Committed, Error> {
        let unknown =
            Error::Implausible { what: "the completion of a commit", value: u64::from(result.unsigned_abs()) };
        if !self.in_flight {
            return Err(unknown);
        }
        self.in_flight = false;
        let sent = self.sent.take().ok_or(unknown)?;
        let (taken, refused) = match u32::try_from(result) {
            Ok(bytes) => {
                let size = u32::from(self.elements.form.element_bytes);
                let count = bytes.checked_div(size).and_then(|count| u16::try_from(count).ok());
                let count = count.filter(|count| (1..=sent.count()).contains(count));
                // With an answer that cannot be, it is not known which of them were taken. None is sent again.
                let count = count.filter(|_| bytes.checked_rem(size) == Some(0));
                (count.ok_or(Error::Implausible { what: "the bytes of a commit", value: bytes.into() })?, None)
            }
            Err(_) => (1, self.elements.tag(sent.half, sent.from)),
        };
        let rest = Piece { from: sent.from.saturating_add(taken), ..sent };
        self.sent = (rest.count() > 0).then_some(rest);
        Ok(refused.map_or(Committed::Done, |tag| Committed::Refused(tag, Errno::from_raw(result))))
    }
}

/// Where a fetch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// To be sent, for the first time or again.
    Idle,
    /// With the driver.
    Armed,
    /// Not to be sent again: the device was stopped, or the driver refused it.
    Over,
}

/// A multishot fetch, and the one buffer of its group.
#[derive(Debug)]
struct Fetch {
    buffers: BufferRing,
    /// How far the driver has filled the buffer, as its completions say.
    filled: u32,
    stage: Stage,
    /// How far the driver has is not known.
    is_unsure: bool,
}

impl Fetch {
    fn is_used_up(&self) -> bool {
        self.filled >= self.buffers.buffer_bytes()
    }

    /// Gives the buffer to the driver again, from its start, where it is used up.
    fn provide(&mut self) -> Result<(), Error> {
        if self.is_used_up() {
            self.filled = 0;
            self.buffers.provide(0)?;
        }
        Ok(())
    }
}

/// Tags that a completion has brought and nobody has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ready {
    fetch: u16,
    at: u32,
    end: u32,
}

/// What a queue of a device with `UBLK_F_BATCH_IO` has under way on one thread's ring.
#[derive(Debug)]
pub(super) struct Batch {
    fetches: [Fetch; 2],
    ready: Option<Ready>,
    commits: Commits,
    rearmed: u64,
}

const _: () = assert!(FETCHES == 2);

/// Locks what there is of a batch only once it is on a ring.
type LockRest = fn(&Batch) -> Result<(), Error>;

/// What a [`PreparedQueue`](super::PreparedQueue) has of it.
#[derive(Debug)]
pub(super) struct PreparedBatch {
    pub(super) elements: Elements,
    pub(super) is_shared: bool,
    /// Tags that a fetch's buffer has room for; `None`: as the queue needs it.
    pub(super) room: Option<u16>,
    /// What is still to be locked of a batch, where that was asked for.
    lock: Option<LockRest>,
}

impl PreparedBatch {
    pub(super) fn map(depth: u16, form: Form, is_shared: bool) -> Result<PreparedBatch, Error> {
        Ok(PreparedBatch { elements: Elements::map(depth, form)?, is_shared, room: None, lock: None })
    }

    /// Tells the driver of every tag of the queue, through a ring that is gone when this returns.
    pub(super) fn prepare(
        &self,
        char_device: &Fd,
        queue: QueueId,
        address: impl Fn(Tag) -> Option<u64>,
    ) -> Result<(), Error> {
        let all = Piece { half: Half::First, from: 0, to: self.elements.depth };
        for tag in 0..self.elements.depth {
            let address = address(Tag::new(tag)).ok_or(NO_TAG)?;
            self.elements.set(Half::First, tag, Tag::new(tag), 0, address).ok_or(NO_TAG)?;
        }
        let command = Command::PREP_IO_CMDS;
        let (op, sent) = elements_op(char_device, command, queue, &self.elements, all).ok_or(NO_TAG)?;
        let mut ring = Ring::local(1, 1)?.enable()?;
        ring.push(op, 0)?;
        let completion = loop {
            // The driver answers as it takes the command.
            ring.submit_and_wait(None)?;
            if let Some(completion) = ring.next_completion() {
                break completion;
            }
        };
        let errno = Errno::check(completion.result);
        errno.map(drop).map_err(|errno| refused(command, queue, Tag::new(0), errno, &sent))
    }

    /// The fetches and commits on the ring of the thread that serves.
    pub(super) fn on(self, ring: &Ring<Local>) -> Result<Batch, Error> {
        let depth = self.elements.depth;
        let room = self.room.unwrap_or(if self.is_shared { depth.div_ceil(8) } else { ROOM });
        let bytes = u32::from(room.max(1)) * u32::from(TAG_BYTES);
        let fetch = |index| -> Result<Fetch, Error> {
            let buffers = ring.register_buffer_ring(FIRST_GROUP + index, 1, bytes, BufferUse::Piecewise)?;
            Ok(Fetch { buffers, filled: 0, stage: Stage::Idle, is_unsure: false })
        };
        let (fetches, commits) = ([fetch(0)?, fetch(1)?], Commits::over(self.elements));
        let batch = Batch { fetches, ready: None, commits, rearmed: 0 };
        if let Some(lock) = self.lock {
            lock(&batch)?;
        }
        Ok(batch)
    }

    /// Has the kernel leave the elements in memory, and the buffers of the fetches when those are made.
    pub(super) fn lock(&mut self, when: BufferLock) -> Result<(), Error> {
        self.elements.mapping.as_ref().map_or(Ok(()), |mapping| mapping.lock(when))?;
        // A function, so that a program that locks nothing has no code for it.
        self.lock = Some(match when {
            BufferLock::Prefaulted => |batch| batch.lock(BufferLock::Prefaulted),
            BufferLock::Lazy => |batch| batch.lock(BufferLock::Lazy),
        });
        Ok(())
    }
}

fn refused(command: Command, queue: QueueId, tag: Tag, errno: Errno, sent: &ublk_batch_io) -> Error {
    let [first, second] = area(sent);
    Error::Io { command, queue, tag, errno, sent: Sent::of_words([first, second, 0, 0], None) }
}

impl Batch {
    fn lock(&self, when: BufferLock) -> Result<(), Error> {
        self.fetches.iter().try_for_each(|fetch| fetch.buffers.lock(when))
    }

    /// Whether the driver may still write because of a command of this ring, or read its elements.
    pub(super) fn is_in_flight(&self) -> bool {
        self.commits.in_flight || self.fetches.iter().any(|fetch| fetch.stage == Stage::Armed)
    }

    /// Whether nothing is left to be sent or to come.
    pub(super) fn is_over(&self) -> bool {
        let fetches = self.fetches.iter().all(|fetch| fetch.stage == Stage::Over);
        fetches && self.ready.is_none() && self.commits.is_empty()
    }

    /// How often a fetch was sent again.
    pub(super) fn rearmed(&self) -> u64 {
        self.rearmed
    }

    /// Ends what is the batch's own: what the driver may still use stays mapped, and the rings of buffers that it does not use are
    /// given to `unmap`.
    pub(super) fn end(self, unmap: impl Fn(BufferRing)) {
        let mut commits = self.commits;
        if commits.in_flight {
            commits.elements.leak();
        }
        for fetch in self.fetches {
            if fetch.stage != Stage::Armed {
                unmap(fetch.buffers);
            }
        }
    }

    fn fetch(&mut self, index: u16) -> Option<&mut Fetch> {
        self.fetches.get_mut(usize::from(index))
    }

    /// The next tag that has come.
    fn next_tag(&mut self) -> Result<Option<Tag>, Error> {
        let Some(Ready { fetch: index, at, end }) = self.ready else { return Ok(None) };
        let is_last = at + u32::from(TAG_BYTES) >= end;
        self.ready = (!is_last).then_some(Ready { fetch: index, at: at + u32::from(TAG_BYTES), end });
        let lost = Error::Implausible { what: "the fetch of a tag", value: index.into() };
        let fetch = self.fetch(index).ok_or(lost)?;
        let mut bytes = [0; 2];
        fetch.buffers.read(0, at, &mut bytes)?;
        Ok(Some(Tag::new(u16::from_ne_bytes(bytes))))
    }

    /// A fetch has completed: with the bytes of the tags that came, or with why it ended.
    fn fetched(&mut self, index: u16, completion: Completion) -> Result<Option<Errno>, Error> {
        let unknown = Error::Implausible { what: "a completion's user data", value: completion.user_data };
        let fetch = self.fetch(index).filter(|fetch| fetch.stage == Stage::Armed).ok_or(unknown)?;
        if !completion.has_more() {
            // Where it ends with a buffer that is not used up, the driver may have used of it what no completion tells.
            (fetch.stage, fetch.is_unsure) = (Stage::Idle, !fetch.is_used_up());
        }
        let bytes = match u32::try_from(completion.result) {
            Ok(0) => return Ok(None),
            Ok(bytes) => bytes,
            Err(_) => {
                return Ok(match Errno::from_raw(completion.result) {
                    Errno::ENOBUFS => {
                        self.rearmed = self.rearmed.wrapping_add(1);
                        None
                    }
                    errno => {
                        fetch.stage = Stage::Over;
                        // The device was stopped.
                        (errno != Errno::ENODEV).then_some(errno)
                    }
                });
            }
        };
        let implausible = Error::Implausible { what: "the bytes of a batch of tags", value: bytes.into() };
        let end = fetch.filled.checked_add(bytes).filter(|end| *end <= fetch.buffers.buffer_bytes());
        let end = end.filter(|_| bytes % u32::from(TAG_BYTES) == 0 && completion.buffer() == Some(0));
        let (at, end) = (fetch.filled, end.ok_or(implausible)?);
        fetch.filled = end;
        self.ready = Some(Ready { fetch: index, at, end });
        Ok(None)
    }
}

/// The index of a fetch, if this is its user data.
fn fetch_index(user_data: u64) -> Option<u16> {
    u16::try_from(user_data ^ FETCH_BIT).ok().filter(|index| *index < FETCHES)
}

impl<M: Mode> Queue<M> {
    /// Stages what is to be sent of a batch, before the ring is entered; for how many completions that is worth waiting. 0: there are
    /// tags already.
    pub(super) fn send_batch(&self, state: &mut State) -> Result<u32, Error> {
        let committed = self.send_commit(state)?;
        let State { ring, batch, .. } = state;
        let Some(batch) = batch else { return Ok(1) };
        let ready = batch.ready.map(|ready| ready.fetch);
        for (index, fetch) in (0..).zip(&mut batch.fetches) {
            // Tags that are still in its buffer are taken first.
            if fetch.stage != Stage::Idle || ready == Some(index) {
                continue;
            }
            if fetch.is_unsure {
                ring.reset_buffer_ring(&mut fetch.buffers)?;
                (fetch.filled, fetch.is_unsure) = (0, false);
            }
            fetch.provide()?;
            fetch.stage = Stage::Armed;
            let op = tags_op(&self.char_device, &fetch_sent(self.id), fetch.buffers.group());
            push(ring, op, FETCH_BIT | u64::from(index))?;
        }
        if ready.is_some() {
            return Ok(0);
        }
        // The driver completes a commit as it takes it. That is not what is waited for, unless nothing else will come, or there is
        // more to be sent then.
        let is_fetching = batch.fetches.iter().any(|fetch| fetch.stage == Stage::Armed);
        Ok(if committed && is_fetching && !batch.commits.has_more() { 2 } else { 1 })
    }

    /// Stages the answers that are collected, where no others are with the driver; whether there are some.
    pub(super) fn send_commit(&self, state: &mut State) -> Result<bool, Error> {
        let State { ring, batch: Some(batch), .. } = state else { return Ok(false) };
        let Some(piece) = batch.commits.send() else { return Ok(false) };
        let elements = &batch.commits.elements;
        let op = elements_op(&self.char_device, Command::COMMIT_IO_CMDS, self.id, elements, piece).ok_or(NO_TAG)?;
        push(ring, op.0, COMMIT_USER_DATA)?;
        Ok(true)
    }

    /// Collects the answer to a request whose token is gone: what one for its tag alone would say.
    pub(super) fn collect_answer(&self, batch: &mut Batch, tag: Tag, answer: &ublksrv_io_cmd) -> Result<(), Error> {
        let turn = self.memory.turn(tag).ok_or(NO_TAG)?;
        let full = Error::Invalid { what: "a tag is answered once before the driver has its answer" };
        batch.commits.add(tag, answer.result, answer.addr).ok_or(full)?;
        turn.give_back();
        Ok(())
    }

    /// The next tag that a batch has brought, which is the server's from here on.
    pub(super) fn next_of_batch(&self, state: &mut State) -> Result<Option<Tag>, Error> {
        let Some(tag) = state.batch.as_mut().map_or(Ok(None), Batch::next_tag)? else { return Ok(None) };
        // A tag is looked up, not believed: only one that nobody has can come.
        if !self.memory.turn(tag).is_some_and(|turn| turn.take()) {
            return Err(Error::Implausible { what: "a tag that a batch brought", value: tag.raw().into() });
        }
        state.owned.insert(tag);
        Ok(Some(tag))
    }

    /// A fetch or a commit has completed.
    pub(super) fn batch_ended(&self, batch: &mut Batch, completion: Completion) -> Result<(), Error> {
        let form = batch.commits.elements.form;
        if completion.user_data == COMMIT_USER_DATA {
            let count = batch.commits.sent.map_or(0, Piece::count);
            return match batch.commits.completed(completion.result)? {
                Committed::Done => Ok(()),
                Committed::Refused(tag, errno) => {
                    Err(refused(Command::COMMIT_IO_CMDS, self.id, tag, errno, &form.sent(self.id, count)))
                }
            };
        }
        let unknown = Error::Implausible { what: "a completion's user data", value: completion.user_data };
        let index = fetch_index(completion.user_data).ok_or(unknown)?;
        match batch.fetched(index, completion)? {
            None => Ok(()),
            Some(errno) => Err(refused(Command::FETCH_IO_CMDS, self.id, Tag::new(0), errno, &fetch_sent(self.id))),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{
        Batch, COMMIT_USER_DATA, Commits, Committed, Elements, FETCH_BIT, FIRST_GROUP, Fetch, Form, Half, Piece, Stage,
        fetch_sent,
    };
    use crate::golden::Golden;
    use crate::mode;
    use crate::queue::tests::queue;
    use crate::queue::{Queue, elements_op, tags_op};
    use crate::ring::{BufferRing, Completion, Local, Ring};
    use crate::{Command, Errno, Error, Features, QueueId, Tag};
    use std::vec::Vec;
    use ublk_sys::{IORING_CQE_F_BUFFER, IORING_CQE_F_MORE};

    fn elements() -> Elements {
        Elements::map(4, Form::of::<mode::Copy>(Features::NONE)).unwrap()
    }

    /// Answers to these tags that were sent.
    fn sent(tags: &[u16]) -> Commits {
        let mut commits = Commits::over(elements());
        for tag in tags {
            commits.add(Tag::new(*tag), 4096, 8192).unwrap();
        }
        commits.send().unwrap();
        commits
    }

    fn left(commits: &mut Commits) -> Vec<u16> {
        let Some(piece) = commits.send() else { return Vec::new() };
        (piece.from..piece.to).map(|index| commits.elements.tag(piece.half, index).unwrap().raw()).collect()
    }

    #[test]
    fn a_commit_that_was_taken_whole_leaves_nothing() {
        let mut commits = sent(&[3, 1, 2]);
        assert_eq!(commits.completed(48), Ok(Committed::Done));
        assert!(commits.is_empty() && !commits.in_flight);
    }

    #[test]
    fn what_a_commit_left_is_sent_again_and_one_that_is_refused_is_named_and_left_out() {
        let mut commits = sent(&[3, 1, 2, 0]);
        assert_eq!(commits.completed(16), Ok(Committed::Done));
        // What is answered meanwhile waits for it.
        commits.add(Tag::new(3), -5, 0).unwrap();
        assert_eq!(left(&mut commits), [1, 2, 0]);
        assert_eq!(commits.completed(-16), Ok(Committed::Refused(Tag::new(1), Errno::EBUSY)));
        assert_eq!(left(&mut commits), [2, 0]);
        assert_eq!(commits.completed(-22), Ok(Committed::Refused(Tag::new(2), Errno::EINVAL)));
        assert_eq!(left(&mut commits), [0]);
        assert!(commits.has_more());
        assert_eq!(commits.completed(16), Ok(Committed::Done));
        assert_eq!(left(&mut commits), [3]);
        assert!(!commits.has_more());
        assert_eq!(commits.completed(16), Ok(Committed::Done));
        assert!(commits.is_empty());
    }

    #[test]
    fn nothing_is_sent_while_a_commit_is_under_way_and_no_array_is_written_that_is() {
        let mut commits = sent(&[0, 1]);
        for tag in 0..4 {
            commits.add(Tag::new(tag), 0, 0).unwrap();
        }
        assert_eq!(commits.add(Tag::new(0), 0, 0), None, "each tag is answered once");
        assert_eq!(commits.send(), None);
        assert_eq!((0..2).map(|index| commits.elements.tag(Half::First, index).unwrap().raw()).max(), Some(1));
        assert_eq!(commits.completed(32), Ok(Committed::Done));
        assert_eq!(left(&mut commits), [0, 1, 2, 3]);
    }

    #[test]
    fn an_answer_to_a_commit_that_cannot_be_is_not_believed_and_nothing_is_sent_twice() {
        for result in [0, 1, 15, 17, 64, i32::MAX] {
            let mut commits = sent(&[0, 1, 2]);
            let wrong = Error::Implausible { what: "the bytes of a commit", value: u64::from(result.unsigned_abs()) };
            assert_eq!(commits.completed(result), Err(wrong));
            assert!(commits.is_empty() && !commits.in_flight);
            assert!(commits.completed(48).is_err(), "nothing was sent");
        }
        let mut commits = Commits::over(elements());
        commits.add(Tag::new(0), 0, 0).unwrap();
        assert!(commits.completed(16).is_err(), "it was not sent yet");
        assert_eq!(left(&mut commits), [0]);
        let mut commits = sent(&[0, 1]);
        assert_eq!(commits.completed(16), Ok(Committed::Done));
        assert!(commits.completed(16).is_err(), "the rest was not sent again yet");
        assert_eq!(left(&mut commits), [1]);
    }

    /// A queue whose first fetch is with a kernel that the test plays.
    fn in_batches() -> Queue {
        let queue = queue();
        arm(&queue);
        queue
    }

    pub(in crate::queue) fn arm(queue: &Queue) {
        let fetch = |group, stage| {
            let buffers = BufferRing::fake(group, 1, 8);
            Fetch { buffers, filled: 0, stage, is_unsure: false }
        };
        let batch = Batch {
            fetches: [fetch(FIRST_GROUP, Stage::Armed), fetch(FIRST_GROUP + 1, Stage::Over)],
            ready: None,
            commits: Commits::over(elements()),
            rearmed: 0,
        };
        queue.state().unwrap().batch = Some(batch);
    }

    /// A completion that brings these tags is there.
    pub(in crate::queue) fn bring(queue: &Queue, tags: &[u16]) {
        let completion = brings(queue, tags);
        queue.state().unwrap().ring.bring(completion);
    }

    fn brings(queue: &Queue, tags: &[u16]) -> Completion {
        let mut state = queue.state().unwrap();
        let fetch = &mut state.batch.as_mut().unwrap().fetches[0];
        let bytes: Vec<u8> = tags.iter().flat_map(|tag| tag.to_ne_bytes()).collect();
        fetch.buffers.fill(0, fetch.filled, &bytes);
        let flags = IORING_CQE_F_MORE | IORING_CQE_F_BUFFER;
        Completion { user_data: FETCH_BIT, result: i32::try_from(bytes.len()).unwrap(), flags }
    }

    fn takes(queue: &Queue, completion: Completion) -> Result<(), Error> {
        let mut state = queue.state().unwrap();
        queue.delivery(&mut state, completion).map(|delivered| assert_eq!(delivered, None))
    }

    fn next(queue: &Queue) -> Result<Option<u16>, Error> {
        let mut state = queue.state().unwrap();
        queue.next_of_batch(&mut state).map(|tag| tag.map(Tag::raw))
    }

    #[test]
    fn the_tags_of_a_batch_come_one_by_one_and_each_once() {
        let queue = in_batches();
        takes(&queue, brings(&queue, &[2, 0])).unwrap();
        assert_eq!((next(&queue), next(&queue), next(&queue)), (Ok(Some(2)), Ok(Some(0)), Ok(None)));
        takes(&queue, brings(&queue, &[3, 0])).unwrap();
        assert_eq!(next(&queue), Ok(Some(3)));
        assert!(matches!(next(&queue), Err(Error::Implausible { value: 0, .. })), "somebody has it");
        assert_eq!((next(&queue), queue.owned()), (Ok(None), 3));
        queue.commit(Tag::new(0), 0);
        queue.state().unwrap().batch.as_mut().unwrap().fetches[0].filled = 0;
        takes(&queue, brings(&queue, &[0])).unwrap();
        assert_eq!(next(&queue), Ok(Some(0)), "it was answered");
    }

    #[test]
    fn a_tag_that_another_thread_has_or_that_the_queue_has_not_is_refused_and_those_behind_it_come() {
        let queue = in_batches();
        assert!(queue.memory.beside().unwrap().turn(Tag::new(1)).unwrap().take());
        takes(&queue, brings(&queue, &[1, 4, u16::MAX, 3])).unwrap();
        for wrong in [1, 4, 65535] {
            let what = "a tag that a batch brought";
            assert_eq!(next(&queue), Err(Error::Implausible { what, value: wrong }));
        }
        assert_eq!((next(&queue), next(&queue), queue.owned()), (Ok(Some(3)), Ok(None), 1));
    }

    #[test]
    fn a_batch_that_cannot_be_brings_nothing() {
        let queue = in_batches();
        let good = brings(&queue, &[0, 1]);
        let wrong = [
            Completion { result: 3, ..good },
            Completion { result: 10, ..good },
            Completion { result: i32::MAX, ..good },
            Completion { flags: IORING_CQE_F_MORE, ..good },
            Completion { flags: good.flags | 1 << 16, ..good },
            Completion { user_data: FETCH_BIT | 1, ..good },
            Completion { user_data: FETCH_BIT | 2, ..good },
            Completion { user_data: FETCH_BIT | 1 << 20, ..good },
            Completion { user_data: COMMIT_USER_DATA, ..good },
            Completion { user_data: COMMIT_USER_DATA | 1, ..good },
            Completion { user_data: 0, ..good },
        ];
        for completion in wrong {
            let taken = takes(&queue, completion);
            assert!(matches!(taken, Err(Error::Implausible { .. })), "{completion:?}: {taken:?}");
            assert_eq!(next(&queue), Ok(None), "{completion:?}");
        }
        takes(&queue, good).unwrap();
        assert_eq!(next(&queue), Ok(Some(0)));
    }

    #[test]
    fn a_fetch_ends_with_the_device_is_sent_again_without_buffers_and_else_is_refused() {
        let ends = |result: i32| {
            let queue = in_batches();
            let taken = takes(&queue, Completion { user_data: FETCH_BIT, result: -result, flags: 0 });
            let state = queue.state().unwrap();
            let batch = state.batch.as_ref().unwrap();
            (taken, batch.fetches[0].stage, batch.fetches[0].is_unsure, batch.rearmed())
        };
        assert_eq!(ends(libc::ENODEV), (Ok(()), Stage::Over, true, 0));
        assert_eq!(ends(libc::ENOBUFS), (Ok(()), Stage::Idle, true, 1));
        let (taken, stage, _, _) = ends(libc::EINVAL);
        assert!(matches!(taken, Err(Error::Io { command: Command::FETCH_IO_CMDS, errno: Errno::EINVAL, .. })));
        assert_eq!(stage, Stage::Over);
    }

    #[test]
    fn a_fetch_whose_buffer_is_used_up_is_known_to_stand_at_its_end() {
        let queue = in_batches();
        takes(&queue, brings(&queue, &[0, 1, 2, 3])).unwrap();
        takes(&queue, Completion { user_data: FETCH_BIT, result: -libc::ENOBUFS, flags: 0 }).unwrap();
        let mut state = queue.state().unwrap();
        assert_eq!(queue.send_batch(&mut state), Ok(0), "the tags are taken before it is sent again");
        assert_eq!(state.ring.staged(), 0);
        for _ in 0..4 {
            queue.next_of_batch(&mut state).unwrap().unwrap();
        }
        assert!(!state.batch.as_ref().unwrap().fetches[0].is_unsure);
        assert_eq!(queue.send_batch(&mut state), Ok(1));
        assert_eq!(state.ring.staged(), 1);
    }

    #[test]
    fn a_wait_is_for_more_than_the_commit_that_completes_at_once() {
        let queue = in_batches();
        takes(&queue, brings(&queue, &[0, 1])).unwrap();
        let mut state = queue.state().unwrap();
        assert_eq!(queue.send_batch(&mut state), Ok(0), "there are tags already");
        let tags = [(); 2].map(|()| queue.next_of_batch(&mut state).unwrap().unwrap());
        assert_eq!(queue.send_batch(&mut state), Ok(1));
        queue.answer(&mut state, tags[0], 0).unwrap();
        assert_eq!(queue.send_batch(&mut state), Ok(2));
        queue.answer(&mut state, tags[1], 0).unwrap();
        assert_eq!((queue.send_batch(&mut state), state.ring.staged()), (Ok(1), 1), "one commit at a time");
        drop(state);
        takes(&queue, Completion { user_data: COMMIT_USER_DATA, result: 16, flags: 0 }).unwrap();
        takes(&queue, Completion { user_data: FETCH_BIT, result: -libc::ENODEV, flags: 0 }).unwrap();
        let mut state = queue.state().unwrap();
        assert_eq!(queue.send_batch(&mut state), Ok(1), "nothing else comes");
        drop(state);
        assert!(!queue.is_finished());
        takes(&queue, Completion { user_data: COMMIT_USER_DATA, result: 16, flags: 0 }).unwrap();
        assert!(queue.is_finished());
    }

    #[test]
    #[cfg_attr(not(target_endian = "little"), ignore = "the goldens are those of a little-endian machine")]
    fn each_command_for_a_batch_is_the_golden_that_a_driver_has_accepted() {
        let queue = queue::<mode::Copy>();
        let prepare = include_str!("../../../tests/goldens/UBLK_U_IO_PREP_IO_CMDS.txt");
        let commit = include_str!("../../../tests/goldens/UBLK_U_IO_COMMIT_IO_CMDS.txt");
        let fetch = include_str!("../../../tests/goldens/UBLK_U_IO_FETCH_IO_CMDS.txt");
        let id = QueueId::new(0);
        let staged = |op| {
            let mut ring = Ring::<Local>::fake();
            ring.push(op, 0).unwrap();
            ring.staged_bytes().concat()
        };
        for (command, golden, result) in [(Command::PREP_IO_CMDS, prepare, 0), (Command::COMMIT_IO_CMDS, commit, 4096)]
        {
            let elements = elements();
            for tag in 0..4 {
                elements.set(Half::First, tag, Tag::new(tag), result, 1 << 40).unwrap();
            }
            let piece = Piece { half: Half::First, from: 0, to: 4 };
            let (op, _) = elements_op(&queue.char_device, command, id, &elements, piece).unwrap();
            let golden = Golden::parse(golden);
            assert_eq!(Golden::compare(&golden.sqe, &staged(op)), Ok(()), "{command:?}");
            let mut bytes = [0; 64];
            elements.mapping.as_ref().unwrap().read_bytes(0, &mut bytes).unwrap();
            assert_eq!(Golden::compare(&golden.buffer, &bytes), Ok(()), "{command:?}");
        }
        let op = tags_op(&queue.char_device, &fetch_sent(id), FIRST_GROUP);
        assert_eq!(Golden::compare(&Golden::parse(fetch).sqe, &staged(op)), Ok(()));
    }

    #[test]
    fn elements_say_what_their_mode_needs() {
        let form = |form: Form| (form.flags, form.element_bytes);
        assert_eq!(form(Form::of::<mode::Copy>(Features::NONE)), (2, 16));
        assert_eq!(form(Form::of::<mode::UserCopy>(Features::NONE)), (0, 8));
        assert_eq!(form(Form::of::<mode::ZeroCopy>(Features::NONE)), (0, 8));
        assert_eq!(form(Form::of::<mode::AutoRegister>(Features::NONE)), (4, 8));
        assert_eq!(form(Form::of::<mode::UserCopy>(Features::ZONED)), (1, 16));
        let elements = Elements::map(4, Form::of::<mode::AutoRegister>(Features::NONE)).unwrap();
        elements.set(Half::Second, 3, Tag::new(3), -5, 77).unwrap();
        let mut bytes = [0; 8];
        elements.mapping.as_ref().unwrap().read_bytes(7 * 8, &mut bytes).unwrap();
        assert_eq!(
            (&bytes[..2], &bytes[2..4], &bytes[4..]),
            (&3_u16.to_ne_bytes()[..], &3_u16.to_ne_bytes()[..], &(-5_i32).to_ne_bytes()[..])
        );
        assert_eq!(elements.set(Half::First, 4, Tag::new(0), 0, 0), None);
    }
}
