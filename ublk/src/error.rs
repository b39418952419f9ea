// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong, with the operation that did and the kernel's own errno.

use core::fmt;
use core::time::Duration;

use crate::device_info::State;
use crate::errno::Errno;
use crate::features::{Features, Missing};
use crate::id::{DeviceId, QueueId, Tag};
use crate::params::{MissingTypes, ParamTypes};

/// Why something was not done.
///
/// An errno is always the kernel's, never one of our making, and always stands beside the operation that it answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    System {
        /// The call.
        call: SystemCall,
        /// The kernel's answer.
        errno: Errno,
    },
    /// `/dev/ublk-control` could not be opened. `ENOENT`: the driver is not loaded (`modprobe ublk_drv`) or not built.
    /// `EACCES`: the node belongs to root.
    OpenControl {
        /// The kernel's answer.
        errno: Errno,
    },
    /// `/dev/ublkcN` could not be opened. `EBUSY`: another server has it. `ENOENT`: there is no such device.
    OpenCharDevice {
        /// The device.
        device: DeviceId,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The driver refused a control command.
    Control {
        /// The command.
        command: Command,
        /// The device it was for; `None` where it was for none, or for one not yet numbered.
        device: Option<DeviceId>,
        /// The driver's answer.
        errno: Errno,
        /// What was sent.
        sent: Sent,
    },
    /// The driver refused an I/O command. After a commit, the request of that tag stays unanswered until the char device is
    /// closed.
    Io {
        /// The command.
        command: Command,
        /// The queue it was sent on.
        queue: QueueId,
        /// The tag it was for; 0 where it was for the whole queue.
        tag: Tag,
        /// The driver's answer.
        errno: Errno,
        /// What was sent.
        sent: Sent,
    },
    /// The driver lacks features that were asked for. The device was not made, or was deleted again.
    Unsupported {
        /// What was asked for and is not there.
        missing: Features,
        /// What is there.
        offered: Features,
    },
    /// The driver does not have parameters of some kind that was asked for, and leaves them out without a word. A device that was
    /// being [added](crate::Device::add) was deleted again.
    UnsupportedParams {
        /// What was asked for and is not there.
        missing: ParamTypes,
    },
    /// The device was deleted by somebody else while it was being opened, and another has its id. Nothing was done to that.
    Replaced {
        /// The id.
        device: DeviceId,
    },
    /// `/dev/ublkcN` is not the node of the device: another's, or no character device. The device was deleted again.
    WrongNode {
        /// The device.
        device: DeviceId,
    },
    /// The device does not wait for a server: with [`State::LIVE`](crate::State::LIVE) it has one that has not let go of it, with
    /// [`State::DEAD`](crate::State::DEAD) it was stopped, or never started, and can only be deleted.
    NotWaiting {
        /// The device.
        device: DeviceId,
        /// What it is doing.
        state: State,
    },
    /// A value given to this crate is outside of what the kernel takes, or a call came out of order. Nothing was sent.
    Invalid {
        /// Which value, and its rule.
        what: &'static str,
    },
    /// The kernel returned a value that cannot be right; it was not used.
    Implausible {
        /// Which value.
        what: &'static str,
        /// What it was.
        value: u64,
    },
    /// The kernel did not answer a control command in time. The command may still succeed; the buffer that was lent to
    /// it is given up, and this control handle answers nothing more. Of a command in flight ([`InFlight`](crate::InFlight)) that is
    /// so only once it is dropped.
    TimedOut {
        /// The command.
        command: Command,
        /// The device it was for; `None` where it was for none, or for one not yet numbered.
        device: Option<DeviceId>,
        /// How long the answer was waited for.
        waited: Duration,
    },
    /// This control handle gave up on an earlier command, so its buffer and its ring cannot be trusted with another. A
    /// [`Device`](crate::Device) that has it is dropped, after its queues, and deletes itself through a new one.
    ControlAbandoned,
    /// The submission queue has no free slot.
    RingFull,
    /// The kernel dropped completions for want of memory; what they completed is unknown.
    CompletionsLost {
        /// How many, since the ring was made.
        lost: u32,
    },
    /// A request was not answered in time, and the server let the device go without it: the driver answers its client with
    /// `EIO`.
    Held {
        /// The queue it was delivered on.
        queue: QueueId,
        /// Its tag.
        tag: Tag,
        /// How long it has been held since it was delivered.
        age: Duration,
    },
    /// The queue of the request that was to be answered is gone. The driver answers its client with `EIO`.
    QueueGone,
    /// A thread of the server panicked, in the target or on its behalf.
    ///
    /// Only with the feature `std`: without it nobody catches a panic.
    #[cfg(any(feature = "std", test))]
    Panicked {
        /// The queue that the thread served.
        queue: QueueId,
        /// What the panic said; empty where it said nothing that is text.
        message: Message,
    },
}

static_assertions::assert_impl_all!(Error: Send, Sync);

/// What was sent with a command that was refused, and what was known then: what `diagnosis` looks at. Without the feature
/// `explain` it is empty.
///
/// It explains an error and is no part of which error it is: any two are equal, so that errors can be compared without it.
#[derive(Clone, Copy, Default)]
pub struct Sent {
    #[cfg(feature = "explain")]
    area: [u8; 32],
    #[cfg(feature = "explain")]
    offered: Option<Features>,
}

static_assertions::assert_impl_all!(Sent: Send, Sync);

#[cfg(feature = "explain")]
impl Sent {
    /// These bytes of the command area, when the driver was known to offer these features.
    #[must_use]
    pub const fn new(area: [u8; 32], offered: Option<Features>) -> Sent {
        Sent { area, offered }
    }

    /// Bytes 48 to 79 of the submission queue entry: `struct ublksrv_ctrl_cmd`, or `struct ublksrv_io_cmd` and zeroes. Of a
    /// commit the result is not kept, and is 0 here.
    #[must_use]
    pub const fn area(&self) -> &[u8; 32] {
        &self.area
    }

    /// The features that the driver offers, if this control handle had asked before.
    #[must_use]
    pub const fn offered(&self) -> Option<Features> {
        self.offered
    }

    pub(crate) fn of_words(words: [u64; 4], offered: Option<Features>) -> Sent {
        let mut area = [0; 32];
        for (to, byte) in area.iter_mut().zip(words.iter().flat_map(|word| word.to_ne_bytes())) {
            *to = byte;
        }
        Sent { area, offered }
    }
}

#[cfg(not(feature = "explain"))]
impl Sent {
    pub(crate) fn of_words(_: [u64; 4], _: Option<Features>) -> Sent {
        Sent {}
    }
}

impl PartialEq for Sent {
    fn eq(&self, _: &Sent) -> bool {
        true
    }
}

impl Eq for Sent {}

/// The bytes in hex, as they stand in the entry.
impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[cfg(feature = "explain")]
        self.area.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("")
    }
}

/// Why there is no thread. EAGAIN is the one errno that pthread_create(3) documents for want of one.
#[cfg(feature = "std")]
pub(crate) fn no_thread(error: &std::io::Error) -> Error {
    SystemCall::Thread.failed(error.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw))
}

/// A text of a bounded length, kept in place: what a panic said.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Message {
    bytes: [u8; Message::MAX_BYTES],
    len: u8,
    cut: bool,
}

static_assertions::assert_impl_all!(Message: Send, Sync);

impl Message {
    /// Bytes that fit; what is longer is cut. As many as let [`Error`] have 96 bytes.
    pub const MAX_BYTES: usize = 91;

    /// This text, or as many of its first characters as fit.
    #[must_use]
    pub fn new(text: &str) -> Message {
        let mut message = Message { bytes: [0; Message::MAX_BYTES], len: 0, cut: false };
        for character in text.chars() {
            let start = usize::from(message.len);
            let end = start + character.len_utf8();
            let (Some(room), Ok(len)) = (message.bytes.get_mut(start..end), u8::try_from(end)) else {
                message.cut = true;
                break;
            };
            character.encode_utf8(room);
            message.len = len;
        }
        message
    }

    /// The text that fitted.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let text = self.bytes.get(..usize::from(self.len)).unwrap_or(&[]);
        // It was put together from whole characters.
        core::str::from_utf8(text).unwrap_or("")
    }

    /// Whether there was more than fits.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.cut
    }
}

/// The text on one line, with an ellipsis where it was cut.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, line) in self.as_str().lines().enumerate() {
            if number > 0 {
                f.write_str(" ")?;
            }
            f.write_str(line.trim())?;
        }
        if self.cut { f.write_str("…") } else { Ok(()) }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// A system call, and for `io_uring_register` the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SystemCall {
    /// `io_uring_setup(2)`. `EPERM`: `kernel.io_uring_disabled`, or a seccomp filter. `ENOSYS`: not built in, or a
    /// filter. `EINVAL`: a set-up flag that this kernel does not have. `ENOMEM`: no memory; on Linux 6.18 also the
    /// locked-memory limit of a process without `CAP_IPC_LOCK`, which on 6.12 and 7.3 does not matter.
    IoUringSetup,
    /// `io_uring_enter(2)`.
    IoUringEnter,
    /// `io_uring_register(2)` with `IORING_REGISTER_ENABLE_RINGS`. `EEXIST`: another thread enabled it.
    EnableRings,
    /// `io_uring_register(2)` with `IORING_REGISTER_FILES2`. `EINVAL`: no slots at all, or more than 1,048,576. `EMFILE`: more than
    /// this process may have descriptors. `EBUSY`: the ring has a table of files. `ENOMEM`: no memory. `EEXIST`, here and in
    /// each registration below: another thread enabled the ring. `EACCES`, likewise: the ring is restricted, and may
    /// not do this.
    RegisterFiles,
    /// `io_uring_register(2)` with `IORING_REGISTER_FILES_UPDATE`. `ENXIO`: the ring has no table of files. `EINVAL`: the slot is
    /// past its end. `EOVERFLOW`: it is the last that 32 bits can name. `EBADF`: the descriptor is that of a ring. `ENOMEM`: no memory.
    UpdateFiles,
    /// `io_uring_register(2)` with `IORING_REGISTER_BUFFERS2`. `EINVAL`: no slots at all, or more than 16,384. `EBUSY`: the ring has a
    /// table of buffers. `ENOMEM`: no memory.
    RegisterBuffers,
    /// `io_uring_register(2)` with `IORING_REGISTER_PBUF_RING`. `EINVAL`: the number of entries is no power of two or above
    /// 32,768, or the kernel is older than Linux 6.12 and does not use up buffers piece by piece. `EEXIST`: also where the
    /// group has buffers already. `ENOMEM`: no memory, or the locked-memory limit.
    RegisterBufferRing,
    /// `io_uring_register(2)` with `IORING_REGISTER_RESTRICTIONS`. `EBUSY`: the ring is restricted already. `EINVAL`: there
    /// is something that this kernel does not know. `ENOMEM`: no memory.
    Restrict,
    /// `mmap(2)` of anonymous memory. `ENOMEM`: the address space is limited. `EAGAIN`, here and below: `mlockall(2)` was
    /// called, and the locked-memory limit reached.
    MmapAnonymous,
    /// `mmap(2)` of the ring's own memory.
    MmapRing,
    /// `mmap(2)` of a queue's I/O descriptors. `EINVAL`: another process maps them already.
    MmapDescriptors,
    /// `mmap(2)` of memory that is shared with clients. `EPERM`: it is sealed against writing. `EACCES`: its descriptor cannot
    /// write, or not read.
    MmapShared,
    /// `memfd_create(2)`, or asking for a memfd's length and seals, or setting them.
    Memfd,
    /// `madvise(2)` with `MADV_DONTFORK`.
    Madvise,
    /// `fcntl(2)` with `F_DUPFD_CLOEXEC`.
    Dup,
    /// `open(2)` of a path that the caller named.
    Open,
    /// `eventfd(2)`, or reading or writing one.
    Eventfd,
    /// `signalfd(2)`, or reading one.
    Signalfd,
    /// `pthread_sigmask(3)`.
    Sigmask,
    /// `poll(2)`.
    Poll,
    /// Making a thread.
    Thread,
    /// `sched_setaffinity(2)`. `EINVAL`: the thread may run on none of the CPUs.
    SetAffinity,
    /// `fsync(2)` of a block device, or opening it for that. `EIO`: a write that a client had left to the page cache failed, and is lost.
    /// `ENOENT`, `EACCES` and the like: the block device's node cannot be opened by this process, in a sandbox or a mount namespace for
    /// instance; `ETIMEDOUT`: it came to no end in time. What was in the page cache is lost then.
    Fsync,
    /// `prctl(2)` with `PR_SET_IO_FLUSHER`. `EPERM`: the thread has no `CAP_SYS_RESOURCE`.
    IoFlusher,
    /// `mlock2(2)`. Without `CAP_IPC_LOCK`: `EPERM`, the locked-memory limit (`RLIMIT_MEMLOCK`) is 0; `ENOMEM`, it is reached.
    /// `EAGAIN`: there is not so much memory.
    LockMemory,
    /// Opening or writing `/proc/self/oom_score_adj`. `EACCES`: it was to get smaller, and there is no `CAP_SYS_RESOURCE`.
    OomScore,
}

static_assertions::assert_impl_all!(SystemCall: Send, Sync);

impl fmt::Display for SystemCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SystemCall::IoUringSetup => "io_uring_setup",
            SystemCall::IoUringEnter => "io_uring_enter",
            SystemCall::EnableRings => "io_uring_register(IORING_REGISTER_ENABLE_RINGS)",
            SystemCall::RegisterFiles => "io_uring_register(IORING_REGISTER_FILES2)",
            SystemCall::UpdateFiles => "io_uring_register(IORING_REGISTER_FILES_UPDATE)",
            SystemCall::RegisterBuffers => "io_uring_register(IORING_REGISTER_BUFFERS2)",
            SystemCall::RegisterBufferRing => "io_uring_register(IORING_REGISTER_PBUF_RING)",
            SystemCall::Restrict => "io_uring_register(IORING_REGISTER_RESTRICTIONS)",
            SystemCall::MmapAnonymous => "mmap of memory",
            SystemCall::MmapRing => "mmap of the ring",
            SystemCall::MmapDescriptors => "mmap of the I/O descriptors",
            SystemCall::MmapShared => "mmap of shared memory",
            SystemCall::Memfd => "memfd_create, or what belongs to it",
            SystemCall::Madvise => "madvise(MADV_DONTFORK)",
            SystemCall::Dup => "fcntl(F_DUPFD_CLOEXEC)",
            SystemCall::Open => "open",
            SystemCall::Eventfd => "eventfd",
            SystemCall::Signalfd => "signalfd",
            SystemCall::Sigmask => "pthread_sigmask",
            SystemCall::Poll => "poll",
            SystemCall::Thread => "making a thread",
            SystemCall::SetAffinity => "sched_setaffinity",
            SystemCall::Fsync => "writing back the page cache of the block device",
            SystemCall::IoFlusher => "prctl(PR_SET_IO_FLUSHER)",
            SystemCall::LockMemory => "mlock2",
            SystemCall::OomScore => "writing /proc/self/oom_score_adj",
        })
    }
}

impl SystemCall {
    /// The error of this call with this errno.
    pub(crate) const fn failed(self, errno: Errno) -> Error {
        Error::System { call: self, errno }
    }
}

/// A command of the driver, as it stands in `cmd_op` at bytes 8 to 11 of the SQE (`UBLK_U_CMD_*`, `UBLK_U_IO_*`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Command(u32);

static_assertions::assert_impl_all!(Command: Send, Sync);

macro_rules! commands {
    ($($name:ident = $value:ident,)*) => {
        impl Command {
            $(
                #[doc = concat!("`", stringify!($value), "`.")]
                pub const $name: Command = Command(ublk_sys::$value);
            )*

            /// The C name, where this crate knows it.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $(ublk_sys::$value => Some(stringify!($value)),)*
                    _ => None,
                }
            }

            /// The first Linux whose driver has the command in the encoding that this crate uses, which is that of Linux
            /// 6.4; `None` where this crate does not know the command.
            #[must_use]
            pub const fn since(self) -> Option<&'static str> {
                match self.0 {
                    $(ublk_sys::$value => const { ublk_sys::layout::since(stringify!($value)) },)*
                    _ => None,
                }
            }

            /// The command whose number this is: the lowest byte of `cmd_op`, which is all that the driver looks at, but for
            /// `GET_FEATURES` and the batch commands.
            #[must_use]
            pub const fn of_number(number: u8) -> Option<Command> {
                $(if ublk_sys::$value.to_le_bytes()[0] == number {
                    return Some(Command::$name);
                })*
                None
            }
        }
    };
}

commands! {
    GET_QUEUE_AFFINITY = UBLK_U_CMD_GET_QUEUE_AFFINITY,
    GET_DEV_INFO = UBLK_U_CMD_GET_DEV_INFO,
    ADD_DEV = UBLK_U_CMD_ADD_DEV,
    DEL_DEV = UBLK_U_CMD_DEL_DEV,
    START_DEV = UBLK_U_CMD_START_DEV,
    STOP_DEV = UBLK_U_CMD_STOP_DEV,
    SET_PARAMS = UBLK_U_CMD_SET_PARAMS,
    GET_PARAMS = UBLK_U_CMD_GET_PARAMS,
    GET_DEV_INFO2 = UBLK_U_CMD_GET_DEV_INFO2,
    GET_FEATURES = UBLK_U_CMD_GET_FEATURES,
    DEL_DEV_ASYNC = UBLK_U_CMD_DEL_DEV_ASYNC,
    START_USER_RECOVERY = UBLK_U_CMD_START_USER_RECOVERY,
    END_USER_RECOVERY = UBLK_U_CMD_END_USER_RECOVERY,
    UPDATE_SIZE = UBLK_U_CMD_UPDATE_SIZE,
    QUIESCE_DEV = UBLK_U_CMD_QUIESCE_DEV,
    TRY_STOP_DEV = UBLK_U_CMD_TRY_STOP_DEV,
    REG_BUF = UBLK_U_CMD_REG_BUF,
    UNREG_BUF = UBLK_U_CMD_UNREG_BUF,
    FETCH_REQ = UBLK_U_IO_FETCH_REQ,
    COMMIT_AND_FETCH_REQ = UBLK_U_IO_COMMIT_AND_FETCH_REQ,
    NEED_GET_DATA = UBLK_U_IO_NEED_GET_DATA,
    REGISTER_IO_BUF = UBLK_U_IO_REGISTER_IO_BUF,
    UNREGISTER_IO_BUF = UBLK_U_IO_UNREGISTER_IO_BUF,
    PREP_IO_CMDS = UBLK_U_IO_PREP_IO_CMDS,
    COMMIT_IO_CMDS = UBLK_U_IO_COMMIT_IO_CMDS,
    FETCH_IO_CMDS = UBLK_U_IO_FETCH_IO_CMDS,
}

impl Command {
    /// Whether it is sent to a char device, `/dev/ublkcN`; the others are sent to `/dev/ublk-control`.
    #[must_use]
    pub const fn is_io(self) -> bool {
        self.0.to_le_bytes()[0] >= 0x20
    }

    /// The 32 bits of `cmd_op`.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "command {:#x}", self.0),
        }
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// ` for device N`, or nothing.
struct ForDevice(Option<DeviceId>);

impl fmt::Display for ForDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(device) => write!(f, " for device {device}"),
            None => Ok(()),
        }
    }
}

/// Ends a sentence with the cause, where that is one or a choice of few.
#[cfg(feature = "explain")]
fn end(f: &mut fmt::Formatter<'_>, error: &Error) -> fmt::Result {
    use crate::diagnosis::{Environment, causes};

    const FEW: usize = 3;
    let causes = causes(error, &Environment::default());
    let count = causes.clone().count();
    for (number, cause) in causes.enumerate() {
        if count == 1 || cause.is_certain() {
            return write!(f, "; {cause}");
        } else if count <= FEW {
            write!(f, "{}{}", if number == 0 { "; " } else { ", or " }, cause.text())?;
        }
    }
    Ok(())
}

#[cfg(not(feature = "explain"))]
fn end(_: &mut fmt::Formatter<'_>, _: &Error) -> fmt::Result {
    Ok(())
}

/// One sentence: what failed, the errno's name, and with the feature `explain` the cause and what to do, where that is one or
/// a choice of few.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::System { call, errno } => {
                write!(f, "{call} failed: {errno}")?;
                end(f, self)
            }
            Error::OpenControl { errno } => {
                write!(f, "cannot open /dev/ublk-control: {errno}")?;
                end(f, self)
            }
            Error::OpenCharDevice { device, errno } => {
                write!(f, "cannot open /dev/ublkc{device}: {errno}")?;
                end(f, self)
            }
            Error::Control { command, device, errno, .. } => {
                write!(f, "the driver refused {command}{}", ForDevice(device))?;
                if let (Errno::EOPNOTSUPP, Some(release)) = (errno, command.since()) {
                    write!(f, ", which is in Linux {release}")?;
                }
                write!(f, ": {errno}")?;
                end(f, self)
            }
            Error::Io { command, queue, tag, errno, .. } => {
                write!(f, "the driver refused {command} for queue {queue}, tag {tag}: {errno}")?;
                if command == Command::COMMIT_AND_FETCH_REQ {
                    f.write_str("; the request stays unanswered until the server lets go of the char device")?;
                }
                end(f, self)
            }
            Error::Unsupported { missing, offered } => {
                write!(f, "the driver does not give {}; it gives {offered}", Missing(missing))
            }
            Error::UnsupportedParams { missing } => {
                write!(f, "the driver does not take {}, and leaves it out", MissingTypes(missing))
            }
            Error::Replaced { device } => {
                write!(f, "device {device} was deleted by somebody else, and another has its id")
            }
            Error::WrongNode { device } => {
                write!(
                    f,
                    "/dev/ublkc{device} is not the node of device {device}; see what made it, or whose /dev this is"
                )
            }
            Error::NotWaiting { device, state } => {
                write!(f, "device {device} does not wait for a server: it is {state}")?;
                f.write_str(match state {
                    State::LIVE => ", and its server has not let go of it",
                    State::DEAD => ", and can only be deleted",
                    _ => "",
                })
            }
            Error::Invalid { what } => f.write_str(what),
            Error::Implausible { what, value } => {
                write!(f, "the kernel returned {value:#x} as {what}, which cannot be right and was not used")
            }
            Error::TimedOut { command, device, waited } => {
                let waited_ms = waited.as_millis();
                write!(
                    f,
                    "the driver did not answer {command}{} in {waited_ms} ms; it may still be done",
                    ForDevice(device)
                )?;
                f.write_str(late(command))?;
                end(f, self)
            }
            Error::ControlAbandoned => {
                f.write_str("this control handle gave up on an earlier command and takes no other; open a new one")
            }
            Error::RingFull => f.write_str("the submission queue is full"),
            Error::CompletionsLost { lost } => write!(f, "the kernel dropped {lost} completions for want of memory"),
            Error::Held { queue, tag, age } => write!(
                f,
                "a request was not answered in time: queue {queue}, tag {tag}, held for {} ms; its client gets EIO",
                age.as_millis()
            ),
            Error::QueueGone => {
                f.write_str("the queue of this request is gone; the driver answers its client with EIO")
            }
            #[cfg(any(feature = "std", test))]
            Error::Panicked { queue, message } => {
                write!(f, "the thread of queue {queue} panicked")?;
                if message.as_str().is_empty() { Ok(()) } else { write!(f, ": {message}") }
            }
        }
    }
}

/// What else may come of a command that was not answered in time.
const fn late(command: Command) -> &'static str {
    match command {
        Command::ADD_DEV => " and leave a device",
        Command::STOP_DEV | Command::DEL_DEV | Command::DEL_DEV_ASYNC => {
            ", and this process cannot exit before, not even by SIGKILL"
        }
        _ => "",
    }
}

impl core::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::{Command, Error, Message};
    use crate::{Features, ParamTypes, QueueId};
    use std::format;

    #[cfg(feature = "explain")]
    use {super::Sent, crate::DeviceId, crate::Errno};

    #[cfg(feature = "explain")]
    fn refused(command: Command, device: Option<DeviceId>, errno: Errno) -> Error {
        // As ADD_DEV is sent.
        let mut area = [0; 32];
        area[..8].copy_from_slice(&[3, 0, 0, 0, 0xff, 0xff, 64, 0]);
        area[15] = 1;
        Error::Control { command, device, errno, sent: Sent::new(area, None) }
    }

    #[cfg(feature = "explain")]
    #[test]
    fn an_error_names_the_operation_and_the_errno() {
        let error = refused(Command::ADD_DEV, Some(DeviceId::new(3)), Errno::EEXIST);
        assert_eq!(
            format!("{error}"),
            "the driver refused UBLK_U_CMD_ADD_DEV for device 3: EEXIST (17); the id is taken; a device that was deleted has \
             it as long as somebody holds its files: ask for another, or for 0xffffffff (-1), one of the driver's choice"
        );
        let choice = refused(Command::START_DEV, Some(DeviceId::new(3)), Errno::EEXIST);
        assert_eq!(
            format!("{choice}"),
            "the driver refused UBLK_U_CMD_START_DEV for device 3: EEXIST (17); the device is live already, or a client \
             still has the block device of before the stop open"
        );
        let bare = refused(Command::ADD_DEV, Some(DeviceId::new(3)), Errno::EINVAL);
        assert_eq!(format!("{bare}"), "the driver refused UBLK_U_CMD_ADD_DEV for device 3: EINVAL (22)");
    }

    #[cfg(feature = "explain")]
    #[test]
    fn a_command_that_the_driver_is_too_old_for_says_which_linux_has_it() {
        let error = refused(Command::DEL_DEV_ASYNC, None, Errno::EOPNOTSUPP);
        assert_eq!(
            format!("{error}"),
            "the driver refused UBLK_U_CMD_DEL_DEV_ASYNC, which is in Linux 6.9: EOPNOTSUPP (95); the driver is older than \
             the command: run ublkctl features, which has the first Linux of each, or a newer kernel"
        );
        for (value, name) in [(Command::ADD_DEV, "6.4"), (Command::GET_FEATURES, "6.5"), (Command::FETCH_REQ, "6.4")] {
            assert_eq!(value.since(), Some(name));
        }
    }

    #[cfg(feature = "explain")]
    #[test]
    fn a_command_that_was_not_answered_says_what_may_still_come_of_it() {
        let late = |command| Error::TimedOut { command, device: None, waited: core::time::Duration::from_secs(1) };
        assert_eq!(
            format!("{}", late(Command::ADD_DEV)),
            "the driver did not answer UBLK_U_CMD_ADD_DEV in 1000 ms; it may still be done and leave a device; the driver \
             adds no device while it waits for another to be stopped or deleted, and that one's server has a request that it does \
             not answer: end that server: ublkctl list shows the devices and their servers"
        );
        for command in [Command::STOP_DEV, Command::DEL_DEV, Command::DEL_DEV_ASYNC] {
            let said = format!("{}", late(command));
            assert!(
                said.contains("may still be done") && said.contains("cannot exit") && said.contains("SIGKILL"),
                "{said}"
            );
        }
        assert!(format!("{}", late(Command::GET_FEATURES)).ends_with("; it may still be done"));
    }

    #[test]
    fn a_missing_feature_is_named() {
        let error = Error::Unsupported { missing: Features::BATCH_IO, offered: Features::NONE };
        assert_eq!(format!("{error}"), "the driver does not give UBLK_F_BATCH_IO (since Linux 7.0); it gives 0");
    }

    #[test]
    fn parameters_that_the_driver_leaves_out_are_named() {
        let error = |missing| format!("{}", Error::UnsupportedParams { missing });
        assert_eq!(
            error(ParamTypes::SEGMENT | ParamTypes::INTEGRITY),
            "the driver does not take UBLK_PARAM_TYPE_SEGMENT (since Linux 6.15), UBLK_PARAM_TYPE_INTEGRITY (since Linux \
             7.0), and leaves it out"
        );
        assert!(error(ParamTypes::from_bits(1 << 20)).contains(" 0x100000,"));
    }

    #[test]
    fn an_error_stays_small() {
        assert!(size_of::<Error>() <= 96);
    }

    #[test]
    fn a_long_message_is_cut_between_two_characters() {
        let fits = "x".repeat(Message::MAX_BYTES);
        assert_eq!((Message::new(&fits).as_str(), Message::new(&fits).is_cut()), (&fits[..], false));
        let wide = Message::new(&"ä".repeat(Message::MAX_BYTES));
        assert_eq!((wide.as_str(), wide.is_cut()), (&"ä".repeat(Message::MAX_BYTES / 2)[..], true));
        assert!(format!("{wide}").ends_with("ä…"));
    }

    #[test]
    fn what_a_panic_said_stands_on_one_line() {
        let queue = QueueId::new(1);
        let said = Error::Panicked { queue, message: Message::new("assertion failed\n  left: 1\n right: 2") };
        assert_eq!(format!("{said}"), "the thread of queue 1 panicked: assertion failed left: 1 right: 2");
        let silent = Error::Panicked { queue, message: Message::new("") };
        assert_eq!(format!("{silent}"), "the thread of queue 1 panicked");
    }
}
