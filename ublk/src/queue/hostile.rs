// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver's page and the completions, played by a test that lies: whatever they say, in every mode, no byte outside of a tag's own
//! buffer is lent or named, no tag beyond the depth comes, and nothing panics.
//!
//! Beside it stand the tests of each place that looks a value up: `Geometry::check` (`ring/geometry.rs`), the counters of both queues
//! (`ring/cq.rs`, `ring/sq.rs`, `ring/memory/fake.rs`), provided buffers (`ring/buffer_ring.rs`), descriptors (`queue/request.rs`),
//! elements and completions of batches (`queue/batch.rs`), those of operations (`queue.rs`).

use core::ops::Range;
use std::os::unix::fs::FileExt;
use std::vec::Vec;

use ublk_sys::{UBLK_IO_RES_ABORT, UBLK_IO_RES_NEED_GET_DATA, ublksrv_io_desc};

use super::operating::OPERATION_BIT;
use super::pool::Pool;
use super::request::{Held, RequestFlags};
use super::shares::Shares;
use super::table::Table;
use super::tests::queue_over;
use super::{BELL_USER_DATA, COMMIT_BIT, Event, GET_DATA_BIT, Queue, State, WAKE_USER_DATA, batch};
use crate::id::SharedIndex;
use crate::mode::{self, Data, Mode};
use crate::overlays::Overlays;
use crate::ring::{Completion, Ring};
use crate::syscall;
use crate::{Error, Fd, Tag};

/// Of the queue of the tests.
const DEPTH: u16 = 4;
const LARGEST: usize = 512 << 10;

/// A page that the test writes and the queue has mapped, read-only, as the driver's.
struct Page(std::fs::File);

impl Page {
    fn new() -> (Page, Fd) {
        let file = syscall::memfd(c"descriptors").unwrap();
        syscall::set_len(&file, 4096).unwrap();
        let path = std::format!("/proc/self/fd/{}", file.raw());
        (Page(std::fs::File::options().write(true).open(path).unwrap()), file)
    }

    fn write(&self, tag: u16, descriptor: &ublksrv_io_desc) {
        let mut bytes = Vec::new();
        bytes.extend(descriptor.op_flags.to_ne_bytes());
        bytes.extend(descriptor.nr_sectors.to_ne_bytes());
        bytes.extend(descriptor.start_sector.to_ne_bytes());
        bytes.extend(descriptor.addr.to_ne_bytes());
        self.0.write_all_at(&bytes, u64::from(tag) * 24).unwrap();
    }
}

/// A queue that has everything that a device can be asked for, so that as much as can be is believed.
fn queue<M: Mode>() -> (Queue<M>, Page) {
    let (page, file) = Page::new();
    let mut queue = queue_over::<M>(file);
    queue.places = RequestFlags::NEED_REG_BUF | RequestFlags::SHMEM_ZC;
    let shares = Shares::map().unwrap();
    shares.set(0, SharedIndex::new(0), 0x1000_0000, 8192);
    queue.shares = Some(shares);
    if M::DATA == Data::UserCopy {
        queue.overlays = Overlays::new(256, 8, 512);
    }
    (queue, page)
}

/// Nothing was fetched, and nothing has come.
fn begin_anew<M: Mode>(queue: &mut Queue<M>) {
    *queue.state.borrow_mut() = State::over(Ring::fake(), None);
    queue.table = Table::map(DEPTH, 0).unwrap();
    if M::DATA == Data::Chosen {
        queue.pool = Some(Pool::map(2).unwrap());
    }
}

/// Where the buffers of a queue's tags are.
fn buffers<M: Mode>(queue: &Queue<M>) -> Vec<Range<u64>> {
    let start = |tag| queue.memory.buffer_address(Tag::new(tag)).unwrap();
    (0..DEPTH).map(|tag| start(tag)..start(tag) + u64::try_from(LARGEST).unwrap()).collect()
}

/// Asserts that what is held of a request is its own: the bytes that are lent, and those that an operation would name.
fn is_its_own<M: Mode>(queue: &Queue<M>, held: &Held, about: &ublksrv_io_desc) {
    assert!(held.tag.raw() < DEPTH, "{about:?}");
    let bytes = held.buffer.bytes();
    let start = u64::try_from(bytes.as_ptr().addr()).unwrap();
    let end = start + u64::try_from(bytes.len()).unwrap();
    if !bytes.is_empty() {
        let own = queue.buffer_of(held.tag).unwrap();
        let own = &buffers(queue)[usize::from(own.raw())];
        assert!(own.start == start && end <= own.end, "{about:?}: {start:x}..{end:x}");
    }
    assert!(held.work.data_len() <= LARGEST, "{about:?}");
    let place = queue.place(held);
    if let (Ok(place), true) = (place, held.work.has_data()) {
        let end = place.base + u64::try_from(held.work.data_len()).unwrap();
        match place.buffer {
            // The tag's pages, which the kernel checks, from their start; or the one piece of memory that was shared.
            Some(index) if index < DEPTH => assert!(index == held.tag.raw() && place.base == 0, "{about:?}"),
            Some(index) => assert!(index == DEPTH && (0x1000_0000..=0x1000_2000).contains(&end), "{about:?}"),
            None => assert!(buffers(queue).iter().any(|all| all.contains(&place.base) && end <= all.end), "{about:?}"),
        }
    }
}

/// What is done with a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It is answered, as by a target that does nothing.
    Complete,
    /// It stays the server's, so that its tag has no command in flight.
    Keep,
}

/// Everything that the queue has to say; how many requests came.
fn all_events<M: Mode>(queue: &Queue<M>, about: &ublksrv_io_desc, then: Then) -> usize {
    let mut requests = 0;
    // There are never more than completions and tags.
    for _ in 0..64 {
        match queue.next_event() {
            Ok(None) => return requests,
            Ok(Some(Event::Request(request))) => {
                requests += 1;
                is_its_own(queue, request.held(), about);
                match then {
                    Then::Complete => request.complete(),
                    Then::Keep => core::mem::forget(request),
                }
            }
            Ok(Some(Event::Completed(completed))) => is_its_own(queue, completed.request().held(), about),
            Err(Error::Implausible { .. } | Error::Io { .. } | Error::System { .. }) => {}
            Err(other) => panic!("{about:?}: {other}"),
        }
    }
    panic!("{about:?}: it says something for ever");
}

/// Descriptors of which each field is at an edge, or beyond.
fn descriptors() -> Vec<ublksrv_io_desc> {
    let flags = [0, 1 << 8, 1 << 16, 1 << 17, 1 << 18, 1 << 19, 1 << 31, 0xffff_ff00];
    let sectors = [0, 1, 7, 1023, 1024, 1025, 1 << 22, 1 << 23, u32::MAX];
    let starts = [0, 1 << 20, u64::MAX >> 9, u64::MAX >> 8, u64::MAX - 1, u64::MAX];
    let addresses = [0, 4096, 8192, 0x1_0000_0000, u64::MAX];
    let mut all = Vec::new();
    for operation in (0..20).chain([0x7f, 0xff]) {
        for flags in flags {
            for (index, sectors) in sectors.into_iter().enumerate() {
                let mut descriptor = ublksrv_io_desc::default();
                (descriptor.op_flags, descriptor.nr_sectors) = (operation | flags, sectors);
                // Not each with each: fields are looked at one by one.
                descriptor.start_sector = starts[(index + usize::from(flags > 0)) % starts.len()];
                descriptor.addr = addresses[index % addresses.len()];
                all.push(descriptor);
            }
        }
    }
    all
}

fn no_descriptor_reaches_beyond<M: Mode>() {
    let (mut queue, page) = queue::<M>();
    let mut delivered = 0;
    for descriptor in descriptors() {
        for tag in [0, DEPTH - 1] {
            page.write(tag, &descriptor);
            begin_anew(&mut queue);
            let mut state = queue.state.borrow_mut();
            state.in_flight.insert(Tag::new(tag));
            state.ring.bring(Completion { user_data: tag.into(), result: 0, flags: 0 });
            drop(state);
            delivered += all_events(&queue, &descriptor, Then::Complete);
        }
    }
    assert!(delivered > 100, "{delivered}");
}

fn no_completion_reaches_beyond<M: Mode>() {
    let (mut queue, page) = queue::<M>();
    let mut read = ublksrv_io_desc::default();
    read.nr_sectors = 1024;
    (0..DEPTH).for_each(|tag| page.write(tag, &read));
    let bits = [0, COMMIT_BIT, GET_DATA_BIT, COMMIT_BIT | GET_DATA_BIT, WAKE_USER_DATA, BELL_USER_DATA, OPERATION_BIT];
    let more = [1 << 20, 1 << 35, 1 << 36, 1 << 63, u64::MAX << 16];
    let results =
        [0, 1, 2, 24, 4096, i32::MAX, -1, UBLK_IO_RES_ABORT, UBLK_IO_RES_NEED_GET_DATA, -4096, i32::MIN + 1, i32::MIN];
    for bits in bits.into_iter().chain(more) {
        for tag in [0, 1, 3, 4, 5, 63, 64, 4095, 4096, 0xffff] {
            for (result, flags) in results.into_iter().flat_map(|result| [0, 2, u32::MAX].map(|flags| (result, flags)))
            {
                begin_anew(&mut queue);
                let mut state = queue.state.borrow_mut();
                (0..DEPTH).for_each(|tag| assert!(state.in_flight.insert(Tag::new(tag))));
                let completion = Completion { user_data: bits | tag, result, flags };
                // Twice: a command completes once.
                state.ring.bring(completion);
                state.ring.bring(completion);
                drop(state);
                let requests = all_events(&queue, &read, Then::Keep);
                assert!(requests <= 1, "{completion:?}: {requests}");
                let state = queue.state.borrow();
                let tags = state.in_flight.len() + state.owned.len();
                assert!(tags <= usize::from(DEPTH), "{completion:?}: {tags}");
            }
        }
    }
}

macro_rules! in_each_mode {
    ($($name:ident: $mode:ident;)*) => {$(
        mod $name {
            #[test]
            fn whatever_a_descriptor_says_a_request_has_its_own_bytes_and_no_others() {
                super::no_descriptor_reaches_beyond::<super::mode::$mode>();
            }

            #[test]
            fn whatever_a_completion_says_it_ends_one_command_that_was_sent_or_nothing() {
                super::no_completion_reaches_beyond::<super::mode::$mode>();
            }
        }
    )*};
}

in_each_mode! {
    copy: Copy;
    get_data: GetData;
    user_copy: UserCopy;
    zero_copy: ZeroCopy;
    auto_register: AutoRegister;
}

#[test]
fn whatever_a_batch_brings_is_a_tag_of_the_queue_with_its_own_bytes() {
    let (mut queue, page) = queue::<mode::Copy>();
    queue.places = RequestFlags::NONE;
    for descriptor in descriptors() {
        (0..DEPTH).for_each(|tag| page.write(tag, &descriptor));
        begin_anew(&mut queue);
        batch::tests::arm(&queue);
        batch::tests::bring(&queue, &[3, 3, 4, u16::MAX]);
        // Of the same tag twice the second is nobody's, and no others are there.
        let mut requests = 0;
        for _ in 0..16 {
            match queue.next_event() {
                Ok(None) => break,
                Ok(Some(Event::Request(request))) => {
                    requests += 1;
                    is_its_own(&queue, request.held(), &descriptor);
                    // It stays the server's.
                    core::mem::forget(request);
                }
                Ok(Some(Event::Completed(_))) => panic!("nothing was started"),
                Err(Error::Implausible { .. }) => {}
                Err(other) => panic!("{descriptor:?}: {other}"),
            }
        }
        assert!(requests <= 1 && queue.owned() <= 1, "{descriptor:?}");
        queue.memory.turn(Tag::new(3)).unwrap().give_back();
    }
}
