// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/dev/ublk-control`: every control command, one at a time. It knows nothing of queues.
//!
//! A command is sent once. Asking again after a refusal could do a thing twice that the first attempt did half, and on a
//! kernel without the old encoding would hide the first errno behind another. The one exception is [`Control::add`] where the
//! id is just being freed.
#![expect(unsafe_code, reason = "lends the control buffer to the driver; Invariant C1 says for how long")]

mod commands;
mod in_flight;
mod recovery;

use core::mem::ManuallyDrop;
use core::time::Duration;

use ublk_sys::ublksrv_ctrl_cmd;

pub use commands::CpuSet;
pub use in_flight::{InFlight, Starting, Stopping};

use crate::char_device::Path;
use crate::deadline::Deadline;
use crate::errno::Errno;
use crate::error::{Command, Error, Sent};
use crate::features::Features;
use crate::id::DeviceId;
use crate::mapping::Mapping;
use crate::ring::{Ring, Wide, WideOp};
use crate::syscall::Fd;

/// Bytes lent to a command: a path of 4096, and behind it the largest payload (1 KiB of CPU mask).
const BUFFER_BYTES: usize = 8192;

/// Where in the buffer a payload stands: behind the longest path of a node, which some devices want in front of it.
const PAYLOAD: usize = 32;

const TOO_LONG: Error = Error::Invalid { what: "a control command's buffer has at most 8192 bytes" };

/// Entries of a control ring. One command at a time needs one; but commands that sleep run in the calling thread's io-wq,
/// whose number of workers Linux takes from the size of the first ring that the thread enters. With one worker, a command
/// that hangs would hold up every later one, on any handle: that of a new handle too.
const RING_ENTRIES: u32 = 32;

/// How long a command may take before its answer is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// The same for the commands that wait for a server (`START_DEV`): it has to have fetched every tag.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// The open control device with a ring of its own.
///
/// `Send`, not `Sync`: one command at a time, from whichever thread has it. Two descriptors and two pages; a program with
/// many devices may have one for all of them, or one for each.
///
/// One command is under way at a time, so two threads do not share a handle; each may have its own:
///
/// ```compile_fail,E0499
/// fn from_two_threads(mut control: ublk::Control, id: ublk::DeviceId) {
///     let control = &mut control;
///     std::thread::scope(|scope| {
///         scope.spawn(|| control.info(id));
///         scope.spawn(|| control.features());
///     });
/// }
/// ```
///
/// ```no_run
/// fn from_two_threads(mut control: ublk::Control, id: ublk::DeviceId) {
///     let control = &mut control;
///     std::thread::scope(|scope| {
///         scope.spawn(|| control.info(id));
///         scope.spawn(|| ublk::Control::open()?.features());
///     });
/// }
/// ```
#[derive(Debug)]
pub struct Control {
    ring: Ring<Wide>,
    fd: Fd,
    /// Invariant C1: the driver reads and writes this memory only while `lent` is true, and it is unmapped only while
    /// `lent` is false. `lent` becomes true before a command is submitted, and false when its completion was taken.
    buffer: ManuallyDrop<Mapping>,
    lent: bool,
    /// The user data of the next command, so that nothing else is taken for its completion.
    serial: u64,
    patience: Duration,
    start_patience: Duration,
    stop_patience: Duration,
    /// What the driver offers, once it was asked.
    offered: Option<Features>,
    /// The last command that was sent.
    last: Option<(Command, Sent)>,
    /// The device whose commands carry the path of its node.
    unprivileged: Option<DeviceId>,
}

static_assertions::assert_impl_all!(Control: Send);
static_assertions::assert_not_impl_any!(Control: Sync);

/// What a control command says beside its number: `struct ublksrv_ctrl_cmd` but for the buffer.
#[derive(Clone, Copy, Debug, Default)]
struct Header {
    /// The device; `None` is `u32::MAX`, "none yet".
    device: Option<DeviceId>,
    /// Bytes of the control buffer that are lent, from `buffer_offset`.
    len: u16,
    buffer_offset: usize,
    /// Bytes of the path at the start of what is lent, its NUL included.
    path_len: u16,
    /// `data[0]`.
    data: u64,
}

impl Control {
    /// Opens `/dev/ublk-control`.
    ///
    /// # Errors
    ///
    /// - [`Error::OpenControl`]: `ENOENT`, the driver is not loaded; `EACCES`, the node belongs to root.
    /// - [`Error::System`]: the ring could not be made, see [`Ring::wide`].
    ///
    /// # Kernel
    ///
    /// Since Linux 6.0. The node is a misc device, `ublk_misc` in `drivers/block/ublk_drv.c`.
    pub fn open() -> Result<Control, Error> {
        let fd = Fd::open(c"/dev/ublk-control").map_err(|errno| Error::OpenControl { errno })?;
        let buffer = ManuallyDrop::new(Mapping::anonymous(BUFFER_BYTES)?);
        let ring = match Ring::wide(RING_ENTRIES, RING_ENTRIES) {
            Ok(ring) => ring,
            Err(error) => {
                drop(ManuallyDrop::into_inner(buffer));
                return Err(error);
            }
        };
        Ok(Control {
            ring,
            fd,
            buffer,
            lent: false,
            serial: 1,
            patience: PATIENCE,
            start_patience: START_PATIENCE,
            stop_patience: PATIENCE,
            offered: None,
            last: None,
            unprivileged: None,
        })
    }

    /// Sets how long a command may take before it fails with [`Error::TimedOut`]: 30 s unless set, and 60 s for
    /// [`start`](Control::start).
    pub fn set_patience(&mut self, command: Duration, start: Duration) {
        self.patience = command;
        self.start_patience = start;
    }

    /// Sets how long a stop may take without progress ([`stop_while`](Control::stop_while)): 30 s unless set.
    pub fn set_stop_patience(&mut self, patience: Duration) {
        self.stop_patience = patience;
    }

    /// Until when something is waited for that takes as long as a command may.
    pub(crate) fn command_deadline(&self) -> Deadline {
        Deadline::after(self.patience)
    }

    /// How long a stop may take without progress.
    #[cfg(feature = "std")]
    pub(crate) const fn stop_patience(&self) -> Duration {
        self.stop_patience
    }

    /// Has every command for this device say the path of its char device, `/dev/ublkcN`, by which the driver finds out whether
    /// the caller may control it. So it wants it of an unprivileged device ([`NewDevice::unprivileged`](crate::NewDevice::unprivileged)),
    /// from everybody. A handle that added one does so already; `None` ends it.
    pub fn set_unprivileged(&mut self, device: Option<DeviceId>) {
        self.unprivileged = device;
    }

    /// The same command, with the path of its device's node in front of what it lends.
    fn with_path(&self, header: Header) -> Result<Header, Error> {
        let (Some(id), 0) = (header.device.filter(|_| header.device == self.unprivileged), header.path_len) else {
            return Ok(header);
        };
        let path = Path::of(id);
        let bytes = path.as_c_str().to_bytes_with_nul();
        let start = PAYLOAD.checked_sub(bytes.len()).ok_or(TOO_LONG)?;
        self.buffer()?.write_bytes(start, bytes).ok_or(TOO_LONG)?;
        let path_len = u16::try_from(bytes.len()).map_err(|_| TOO_LONG)?;
        Ok(Header { len: header.len + path_len, buffer_offset: start, path_len, ..header })
    }

    /// Whether this handle gave up on a command, so that it answers nothing more.
    #[must_use]
    pub const fn is_abandoned(&self) -> bool {
        self.lent
    }

    /// The last command that was sent, as it stood in its entry; `None` before the first. For programs that show what they do.
    #[must_use]
    pub const fn last_sent(&self) -> Option<(Command, Sent)> {
        self.last
    }

    /// Copies what was lent to the last command to the start of `into`, as it is now: what was sent, or where the driver answers
    /// in it, its answer. Says how many bytes that are: 0 for a command without a buffer, and for one that was not answered.
    ///
    /// Only with the feature `explain`.
    #[cfg(feature = "explain")]
    pub fn last_buffer(&self, into: &mut [u8]) -> usize {
        let Some((_, sent)) = self.last.filter(|_| !self.lent) else { return 0 };
        let [_, _, _, _, _, _, l0, l1, a0, a1, a2, a3, a4, a5, a6, a7, ..] = *sent.area();
        let address = u64::from_ne_bytes([a0, a1, a2, a3, a4, a5, a6, a7]);
        let offset = self.buffer.address(0, 0).and_then(|start| usize::try_from(address.checked_sub(start)?).ok());
        let len = into.len().min(u16::from_ne_bytes([l0, l1]).into());
        let copied = into.get_mut(..len).and_then(|into| self.buffer.read_bytes(offset?, into));
        copied.map_or(0, |()| len)
    }

    /// The buffer, which is nobody's but ours: an earlier command that was given up may still use it.
    fn buffer(&self) -> Result<&Mapping, Error> {
        if self.lent { Err(Error::ControlAbandoned) } else { Ok(&self.buffer) }
    }

    /// Sends one command and waits for its completion.
    fn send(&mut self, command: Command, header: Header, patience: Duration) -> Result<(), Error> {
        self.begin(command, header, patience)?.wait()
    }

    /// Sends one command, and waits for nothing.
    fn begin(&mut self, command: Command, header: Header, patience: Duration) -> Result<InFlight<'_>, Error> {
        let header = self.with_path(header)?;
        let lent_bytes = usize::from(header.len);
        let mut sent = ublksrv_ctrl_cmd::default();
        sent.dev_id = header.device.map_or(u32::MAX, DeviceId::raw);
        // The driver wants "no queue" from ADD_DEV, and looks at it nowhere else.
        sent.queue_id = u16::MAX;
        sent.len = header.len;
        let address = self.buffer()?.address(header.buffer_offset, lent_bytes);
        if lent_bytes > 0 {
            sent.addr = address.ok_or(TOO_LONG)?;
        }
        sent.data = [header.data];
        sent.dev_path_len = header.path_len;

        let words = words(&sent);
        self.submit(command, words)?;
        let sent = Sent::of_words(words, self.offered);
        self.last = Some((command, sent));
        Ok(InFlight::new(self, command, header.device, (words, sent), patience))
    }

    /// Submits a command with the words that [`begin`](Control::begin) has made: for the first time, or once more where it was not run.
    fn submit(&mut self, command: Command, words: [u64; 4]) -> Result<(), Error> {
        // SAFETY: what the driver may read or write are the `len` bytes at `addr` of the words, which `begin` has placed within
        // `self.buffer`, and nobody else calls this but the `InFlight` that it has made: C1 keeps that memory from everybody else until
        // the completion was taken, and for good if it never is. Commands without a buffer have length 0. The memory that REG_BUF names
        // in its buffer is pinned and not accessed. `self.fd` stays open as long as `self`.
        let op = unsafe { WideOp::uring_cmd(&self.fd, command.raw(), words) };
        self.ring.push(op, self.serial)?;
        self.lent = true;
        self.ring.submit()?;
        Ok(())
    }

    /// The answer to the command that was sent, if it is there.
    fn answer(&mut self) -> Option<Result<u32, Errno>> {
        while let Some(completion) = self.ring.next_completion() {
            if completion.user_data == self.serial {
                self.lent = false;
                self.serial = self.serial.wrapping_add(1);
                return Some(Errno::check(completion.result));
            }
        }
        None
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if !self.lent {
            // SAFETY: `buffer` is not used again: this is the drop of the value that holds it. By C1 the driver does not
            // use it either.
            unsafe { ManuallyDrop::drop(&mut self.buffer) };
        }
    }
}

/// The 32 bytes of the struct, as the words of the command area.
fn words(sent: &ublksrv_ctrl_cmd) -> [u64; 4] {
    let [d0, d1, d2, d3] = sent.dev_id.to_ne_bytes();
    let [q0, q1] = sent.queue_id.to_ne_bytes();
    let [l0, l1] = sent.len.to_ne_bytes();
    let [p0, p1] = sent.dev_path_len.to_ne_bytes();
    let [data] = sent.data;
    [
        u64::from_ne_bytes([d0, d1, d2, d3, q0, q1, l0, l1]),
        sent.addr,
        data,
        u64::from_ne_bytes([p0, p1, 0, 0, 0, 0, 0, 0]),
    ]
}

#[cfg(test)]
mod tests {
    use super::words;
    use ublk_sys::ublksrv_ctrl_cmd;

    #[test]
    fn each_field_of_a_command_stands_at_its_byte() {
        let mut sent = ublksrv_ctrl_cmd::default();
        sent.dev_id = 0x0403_0201;
        sent.queue_id = 0xffff;
        sent.len = 0x0807;
        sent.addr = 0x1112_1314_1516_1718;
        sent.data = [0x2122_2324_2526_2728];
        sent.dev_path_len = 0x3132;
        let bytes: std::vec::Vec<u8> = words(&sent).iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(bytes[0..4], sent.dev_id.to_ne_bytes());
        assert_eq!(bytes[4..6], [0xff, 0xff]);
        assert_eq!(bytes[6..8], sent.len.to_ne_bytes());
        assert_eq!(bytes[8..16], sent.addr.to_ne_bytes());
        assert_eq!(bytes[16..24], sent.data[0].to_ne_bytes());
        assert_eq!(bytes[24..26], sent.dev_path_len.to_ne_bytes());
        assert_eq!(bytes[26..32], [0; 6]);
    }
}
