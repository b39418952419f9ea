// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that a client does its I/O from and to, and that the server has mapped too: no byte of it is copied by the driver.
#![expect(unsafe_code, reason = "memory that another process writes, as a slice of atomics")]

use core::fmt;
use core::slice;
use core::sync::atomic::AtomicUsize;
// ORDERING: nothing is handed over by these bytes themselves. What a client wrote before it asked for I/O is there once its
// request was taken, and what the server wrote before it answered is there for the client: the kernel and the ring order that.
use core::sync::atomic::Ordering::Relaxed;

use crate::errno::Errno;
use crate::error::{Error, SystemCall};
use crate::mapping::Mapping;
use crate::syscall::{self, Access, Fd};
use crate::units::u64_from;

const WORD: usize = size_of::<usize>();

/// The driver's `addr` has 32 bits for the offset.
const MAX_BYTES: u64 = 4 << 30;

/// Memory of a memfd, mapped, that clients of a device have mapped too (`struct ublk_shmem_buf_reg`).
///
/// It is registered with a device that has [`SHMEM_ZC`](crate::Features::SHMEM_ZC) by
/// [`Control::register_shared`](crate::Control::register_shared). A client's direct I/O of which all memory lies in one
/// registered piece, in one row, then comes with the place of its data there, and the driver copies nothing. Any other request
/// comes as the device's requests do otherwise.
///
/// The client may write to the memory at any moment, also while its request is served. So there is no slice of it: bytes are
/// copied out and in, and what was looked at has to be looked at in the copy. The copies may be made by any number of
/// threads at once; it is `Sync`, and shared by reference or in an `Arc`, until no request can name it any more.
///
/// The file has to be sealed against shrinking (`F_SEAL_SHRINK`): a client that cut off what the server has mapped would end
/// the server by `SIGBUS`. Of *huge pages* (`MFD_HUGETLB`) a client who may write to the file can do the same by punching a hole
/// while the machine has no huge page left; where the client is not trusted, they are sealed with `F_SEAL_FUTURE_WRITE` too,
/// once both sides have mapped them.
pub struct SharedMemory {
    /// Invariant M3: every access to this mapping is an atomic one to an aligned word. So no two threads that use it make a
    /// data race, nor accesses of two sizes to the same bytes.
    mapping: Mapping,
    file: Fd,
}

// SAFETY: the only accesses are atomic (M3), and neither an Fd nor the place and the length of a mapping change.
unsafe impl Sync for SharedMemory {}

static_assertions::assert_impl_all!(SharedMemory: Send, Sync);
static_assertions::assert_not_impl_any!(SharedMemory: Clone);

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.is_read_only() { "read-only" } else { "read-write" };
        write!(f, "SharedMemory({:?}, {name}, {:?})", self.mapping, self.file)
    }
}

impl SharedMemory {
    /// Makes a memfd of this length, whole pages and at most 4 GiB, sealed against shrinking and growing, and maps it. Clients
    /// get [its descriptor](SharedMemory::fd).
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: the length is another one. [`Error::System`] with [`SystemCall::Memfd`] or
    /// [`SystemCall::MmapShared`]: no memory, or no descriptor is left.
    ///
    /// # Kernel
    ///
    /// `memfd_create(2)` with `MFD_NOEXEC_SEAL`, Linux 6.3.
    pub fn new(len_bytes: usize) -> Result<SharedMemory, Error> {
        let len = checked_len(u64_from(len_bytes))?;
        let failed = |errno| SystemCall::Memfd.failed(errno);
        let file = syscall::memfd(c"ublk").map_err(failed)?;
        syscall::set_len(&file, u64_from(len)).map_err(failed)?;
        syscall::add_seals(&file, syscall::SEAL_SHRINK | syscall::SEAL_GROW).map_err(failed)?;
        SharedMemory::of_memfd(file)
    }

    /// Maps the whole of a memfd, of which a client has a descriptor too. It may be one of huge pages.
    ///
    /// # Errors
    ///
    /// - [`Error::Invalid`]: it is no memfd, is not sealed against shrinking, or is not of whole pages, 1 to 4 GiB.
    /// - [`Error::System`] with [`SystemCall::MmapShared`]: `EPERM` or `EACCES`, it is sealed against writing, or the descriptor
    ///   cannot write: see [`read_only`](SharedMemory::read_only). `ENOMEM`: no memory is left.
    pub fn of_memfd(file: Fd) -> Result<SharedMemory, Error> {
        SharedMemory::map(file, Access::ReadWrite)
    }

    /// Maps the whole of a memfd for reading only. Clients can only write from it: the driver matches no READ.
    ///
    /// # Errors
    ///
    /// Those of [`of_memfd`](SharedMemory::of_memfd).
    pub fn read_only(file: Fd) -> Result<SharedMemory, Error> {
        SharedMemory::map(file, Access::Read)
    }

    fn map(file: Fd, access: Access) -> Result<SharedMemory, Error> {
        let invalid = |what| Error::Invalid { what };
        let failed = |errno| SystemCall::Memfd.failed(errno);
        let seals = match syscall::seals(&file) {
            Err(Errno::EINVAL) => return Err(invalid("shared memory is a memfd")),
            seals => seals.map_err(failed)?,
        };
        if seals & syscall::SEAL_SHRINK == 0 {
            return Err(invalid(
                "shared memory is sealed against shrinking (F_SEAL_SHRINK): else a client could end the server by SIGBUS",
            ));
        }
        // It cannot become less any more.
        let len = checked_len(syscall::len(&file).map_err(failed)?)?;
        let mapping = Mapping::of_file(&file, 0, len, access, SystemCall::MmapShared)?;
        Ok(SharedMemory { mapping, file })
    }

    /// Its length.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.mapping.len()
    }

    /// Whether nothing can be copied into it, and no READ be answered with it.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        !self.mapping.is_writable()
    }

    /// The memfd, to be passed to a client.
    #[must_use]
    pub fn fd(&self) -> &Fd {
        &self.file
    }

    /// The part of `len_bytes` from `offset` on; `None` unless the whole of it is there.
    #[must_use]
    pub fn view(&self, offset: usize, len_bytes: usize) -> Option<SharedView<'_>> {
        let end = offset.checked_add(len_bytes)?;
        (end <= self.len_bytes()).then_some(SharedView { memory: self, offset, len_bytes })
    }

    /// Copies bytes out, as many as `into` has. `None` where they are not all there: then none was copied.
    #[must_use = "without Some nothing was copied"]
    pub fn copy_to(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        self.view(offset, into.len())?;
        // Of the first word the end, whole words, and of the last word the start.
        let mut words = self.words().get(offset / WORD..)?.iter().map(|word| word.load(Relaxed).to_ne_bytes());
        let skipped = offset % WORD;
        let head = if skipped == 0 { 0 } else { (WORD - skipped).min(into.len()) };
        let (head, body) = into.split_at_mut_checked(head)?;
        if !head.is_empty() {
            fill(head, words.next()?.iter().skip(skipped));
        }
        let mut body = body.chunks_exact_mut(WORD);
        for chunk in body.by_ref() {
            fill(chunk, words.next()?.iter());
        }
        let tail = body.into_remainder();
        if !tail.is_empty() {
            fill(tail, words.next()?.iter());
        }
        Some(())
    }

    /// Copies bytes in. `None` where there is no room for all of them, or the memory is read-only: then none was copied.
    #[must_use = "without Some nothing was copied"]
    pub fn copy_from(&self, offset: usize, bytes: &[u8]) -> Option<()> {
        self.view(offset, bytes.len())?;
        if self.is_read_only() {
            return None;
        }
        let mut words = self.words().get(offset / WORD..)?.iter();
        let skipped = offset % WORD;
        let head = if skipped == 0 { 0 } else { (WORD - skipped).min(bytes.len()) };
        let (head, body) = bytes.split_at_checked(head)?;
        if !head.is_empty() {
            put_part(words.next()?, skipped, head);
        }
        let mut body = body.chunks_exact(WORD);
        for chunk in body.by_ref() {
            let mut word = [0; WORD];
            fill(&mut word, chunk.iter());
            words.next()?.store(usize::from_ne_bytes(word), Relaxed);
        }
        if !body.remainder().is_empty() {
            put_part(words.next()?, 0, body.remainder());
        }
        Some(())
    }

    /// Where it is mapped, for the kernel.
    pub(crate) fn address(&self) -> Option<u64> {
        self.mapping.address(0, self.len_bytes())
    }

    fn words(&self) -> &[AtomicUsize] {
        let start = self.mapping.start().cast::<AtomicUsize>();
        // SAFETY: the mapping is readable as long as it lives (M1), which `self` is borrowed for; the seal keeps all of it
        // there. It starts at a page, and so at a multiple of a word; any bytes are a word; and whoever changes them, another
        // process, the kernel or a thread of this one (M3), changes what is inside of an atomic. Where it may not be written
        // to, only loads are made, which write nothing.
        unsafe { slice::from_raw_parts(start.as_ptr(), self.len_bytes() / WORD) }
    }
}

/// A part of [`SharedMemory`]: where the data of a request is ([`SharedMemory::view`]).
#[derive(Clone, Copy, Debug)]
pub struct SharedView<'m> {
    memory: &'m SharedMemory,
    /// Invariant of the two: they lie within the memory.
    offset: usize,
    len_bytes: usize,
}

static_assertions::assert_impl_all!(SharedView<'static>: Send, Sync);

impl SharedView<'_> {
    /// Its length.
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Copies bytes out, as many as `into` has, from this place of the part on. `None` where they are not all within the part:
    /// then none was copied.
    #[must_use = "without Some nothing was copied"]
    pub fn copy_to(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        self.memory.copy_to(self.place(offset, into.len())?, into)
    }

    /// Copies bytes in, from this place of the part on. `None` where they do not all fit, or the memory is read-only: then none
    /// was copied.
    #[must_use = "without Some nothing was copied"]
    pub fn copy_from(&self, offset: usize, bytes: &[u8]) -> Option<()> {
        self.memory.copy_from(self.place(offset, bytes.len())?, bytes)
    }

    /// Where in the memory the bytes are that are here in the part.
    fn place(&self, offset: usize, len: usize) -> Option<usize> {
        let within = offset.checked_add(len)? <= self.len_bytes;
        within.then_some(self.offset.checked_add(offset)?)
    }
}

fn checked_len(len_bytes: u64) -> Result<usize, Error> {
    let page_bytes = u64_from(syscall::page_bytes());
    let fits = (1..=MAX_BYTES).contains(&len_bytes) && len_bytes % page_bytes == 0;
    let len = usize::try_from(len_bytes).ok().filter(|_| fits);
    len.ok_or(Error::Invalid { what: "shared memory has whole pages, one or more, and at most 4 GiB" })
}

/// As many bytes as there are places.
fn fill<'b>(into: &mut [u8], from: impl Iterator<Item = &'b u8>) {
    for (byte, value) in into.iter_mut().zip(from) {
        *byte = *value;
    }
}

/// Puts bytes into a word, whose other bytes somebody else may be writing at the same time.
fn put_part(word: &AtomicUsize, skipped: usize, part: &[u8]) {
    let with_part = |before: usize| {
        let mut bytes = before.to_ne_bytes();
        for (byte, value) in bytes.iter_mut().skip(skipped).zip(part) {
            *byte = *value;
        }
        Some(usize::from_ne_bytes(bytes))
    };
    // It has a value for every word, so that it does not fail.
    let _ = word.fetch_update(Relaxed, Relaxed, with_part);
}

#[cfg(test)]
mod tests {
    use super::SharedMemory;
    use crate::{Error, Fd, syscall};
    use std::{format, thread, vec};

    fn refusal(made: Result<SharedMemory, Error>) -> &'static str {
        match made {
            Err(Error::Invalid { what }) => what,
            other => panic!("{other:?}"),
        }
    }

    fn memfd(len: u64, seals: i32) -> Fd {
        let file = syscall::memfd(c"test").unwrap();
        syscall::set_len(&file, len).unwrap();
        syscall::add_seals(&file, seals).unwrap();
        file
    }

    #[test]
    fn memory_that_a_client_could_cut_off_is_refused_and_so_is_what_is_no_memfd() {
        let what = refusal(SharedMemory::of_memfd(memfd(4096, syscall::SEAL_GROW)));
        assert!(what.contains("F_SEAL_SHRINK"), "{what}");
        assert_eq!(refusal(SharedMemory::of_memfd(Fd::open(c"/dev/null").unwrap())), "shared memory is a memfd");
        let sealed = SharedMemory::of_memfd(memfd(4096, syscall::SEAL_SHRINK)).unwrap();
        assert!(syscall::set_len(sealed.fd(), 0).is_err(), "the seal holds");
    }

    #[test]
    fn a_length_is_of_whole_pages_and_has_an_end() {
        let page = syscall::page_bytes();
        for len in [0, 1, page - 1, page + 1, (4 << 30) + page] {
            assert!(refusal(SharedMemory::new(len)).contains("whole pages"), "{len}");
        }
        assert_eq!(SharedMemory::new(3 * page).unwrap().len_bytes(), 3 * page);
        let len = u64::try_from(page).unwrap();
        assert!(refusal(SharedMemory::of_memfd(memfd(len + 1, syscall::SEAL_SHRINK))).contains("whole pages"));
    }

    #[test]
    fn every_start_and_length_copies_those_bytes_and_no_others() {
        let memory = SharedMemory::new(syscall::page_bytes()).unwrap();
        for start in 0..=16 {
            for len in 0..=25 {
                let bytes: vec::Vec<u8> = (1..=len).collect();
                memory.copy_from(0, &[0xee; 64]).unwrap();
                memory.copy_from(start, &bytes).unwrap();
                let mut all = [0; 64];
                memory.copy_to(0, &mut all).unwrap();
                let mut expected = [0xee; 64];
                expected[start..start + bytes.len()].copy_from_slice(&bytes);
                assert_eq!(all, expected, "{start} {len}");
                let mut back = vec![0; bytes.len()];
                memory.copy_to(start, &mut back).unwrap();
                assert_eq!(back, bytes);
            }
        }
    }

    #[test]
    fn nothing_is_copied_past_the_end_of_the_memory_or_of_a_part() {
        let page = syscall::page_bytes();
        let memory = SharedMemory::new(page).unwrap();
        let mut two = [7; 2];
        for offset in [page - 1, page, usize::MAX] {
            assert_eq!(memory.copy_to(offset, &mut two), None);
            assert_eq!(memory.copy_from(offset, &two), None);
        }
        assert_eq!(two, [7; 2]);
        assert!(memory.view(page, 0).is_some() && memory.view(page, 1).is_none());
        assert!(memory.view(1, usize::MAX).is_none());
        let part = memory.view(8, 16).unwrap();
        assert_eq!(part.copy_from(15, &two), None);
        assert_eq!(part.copy_from(usize::MAX, &two), None);
        assert_eq!(part.copy_to(15, &mut two), None);
        part.copy_from(14, &[1, 2]).unwrap();
        memory.copy_to(22, &mut two).unwrap();
        assert_eq!((two, part.len_bytes()), ([1, 2], 16));
    }

    #[test]
    fn what_is_mapped_for_reading_is_never_written_to() {
        let memory = SharedMemory::new(syscall::page_bytes()).unwrap();
        memory.copy_from(3, b"ublk").unwrap();
        let reader = SharedMemory::read_only(memory.fd().try_clone().unwrap()).unwrap();
        assert!(reader.is_read_only() && !memory.is_read_only());
        let mut bytes = [0; 4];
        reader.copy_to(3, &mut bytes).unwrap();
        assert_eq!(&bytes, b"ublk");
        assert_eq!(reader.copy_from(3, b"more"), None);
        assert!(format!("{reader:?}").contains("read-only"));
    }

    #[test]
    fn two_threads_that_write_to_one_word_lose_nothing_of_each_other() {
        let memory = SharedMemory::new(syscall::page_bytes()).unwrap();
        thread::scope(|scope| {
            for (place, value) in [(0, 1), (3, 2)] {
                let memory = &memory;
                scope.spawn(move || {
                    for round in 0..10_000_u32 {
                        let [low, ..] = round.to_ne_bytes();
                        memory.copy_from(place, &[value, low, value]).unwrap();
                        let mut back = [0; 3];
                        memory.copy_to(place, &mut back).unwrap();
                        assert_eq!(back, [value, low, value]);
                    }
                });
            }
        });
    }
}
