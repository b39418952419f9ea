// SPDX-License-Identifier: MIT OR Apache-2.0
//! A refused command as the rules look at it.

use core::fmt;
use core::mem::offset_of;

use ublk_sys::{IORING_OP_URING_CMD, io_uring_sqe, ublksrv_ctrl_cmd};

use crate::device_info::State;
use crate::diagnosis::environment::Environment;
use crate::diagnosis::rule::{Attempt, Holds, Rule, certainly};
use crate::error::{Command, Sent};
use crate::features::Features;

/// Bytes of a plain entry.
pub(super) const PLAIN_BYTES: usize = size_of::<io_uring_sqe>();

/// Bytes of a wide entry (`IORING_SETUP_SQE128`).
pub(super) const WIDE_BYTES: usize = 2 * PLAIN_BYTES;

/// Where the driver reads the command: the `cmd` of C's `struct io_uring_sqe`.
pub(super) const COMMAND_AT: usize = offset_of!(io_uring_sqe, addr3);

/// One entry of a submission queue, as the kernel reads it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sqe {
    bytes: [u8; WIDE_BYTES],
    is_wide: bool,
}

static_assertions::assert_impl_all!(Sqe: Send, Sync);

impl Sqe {
    /// No entry at all: what was tried was not a command.
    pub(super) const NONE: Sqe = Sqe { bytes: [0; WIDE_BYTES], is_wide: true };

    /// The entry of these bytes, which have to be 64 or 128.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Sqe> {
        let is_wide = bytes.len() == WIDE_BYTES;
        if !is_wide && bytes.len() != PLAIN_BYTES {
            return None;
        }
        let mut sqe = Sqe { is_wide, ..Sqe::NONE };
        sqe.put(0, bytes);
        Some(sqe)
    }

    /// The entry that this crate made for a command, but for descriptor and user data, of which no rule asks.
    pub(super) fn of(command: Command, sent: &Sent) -> Sqe {
        let mut sqe = Sqe { is_wide: !command.is_io(), ..Sqe::NONE };
        sqe.put(offset_of!(io_uring_sqe, opcode), &[IORING_OP_URING_CMD]);
        sqe.put(offset_of!(io_uring_sqe, off), &command.raw().to_ne_bytes());
        let area = sent.area();
        sqe.put(COMMAND_AT, if sqe.is_wide { area } else { area.get(..PLAIN_BYTES - COMMAND_AT).unwrap_or(&[]) });
        sqe
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }

    /// Its bytes, 64 or 128.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..if self.is_wide { WIDE_BYTES } else { PLAIN_BYTES }).unwrap_or(&[])
    }

    /// What stands in `cmd_op`, bytes 8 to 11.
    #[must_use]
    pub fn cmd_op(&self) -> u32 {
        self.u32(offset_of!(io_uring_sqe, off))
    }

    /// The command that the driver takes it for: it looks at the number, the lowest byte of `cmd_op`, only. `None`: no command of
    /// Linux 7.3 has that number.
    #[must_use]
    pub fn command(&self) -> Option<Command> {
        Command::of_number(self.cmd_op().to_le_bytes()[0])
    }

    pub(super) fn is_wide(&self) -> bool {
        self.is_wide
    }

    pub(super) fn has(&self, from: usize, to: usize) -> bool {
        self.bytes.get(from..to).is_some_and(|bytes| bytes.iter().any(|byte| *byte != 0))
    }
}

/// As rows of hexadecimal digits would be too long: how many bytes, and the command.
impl fmt::Debug for Sqe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sqe({} bytes, cmd_op {:#x})", self.as_bytes().len(), self.cmd_op())
    }
}

/// Integers in bytes; 0 beyond their end.
pub(super) trait Bytes {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N];

    fn u8(&self, at: usize) -> u8 {
        u8::from_ne_bytes(self.bytes(at))
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_ne_bytes(self.bytes(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.bytes(at))
    }

    fn i32(&self, at: usize) -> i32 {
        i32::from_ne_bytes(self.bytes(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.bytes(at))
    }
}

impl Bytes for [u8] {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let found = at.checked_add(N).and_then(|end| self.get(at..end));
        found.and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
    }
}

impl Bytes for Sqe {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes.as_slice().bytes(at)
    }
}

/// A refused command, or another attempt, with what is known beside it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'e> {
    attempt: Attempt,
    /// Whether this crate made the entry and the ring, so that nothing but the command can be wrong in them.
    is_ours: bool,
    pub(super) sqe: Sqe,
    pub(super) environment: Environment<'e>,
}

impl<'e> Seen<'e> {
    pub(super) fn new(attempt: Attempt, sqe: Sqe, environment: Environment<'e>) -> Seen<'e> {
        let is_ours = attempt != Attempt::Entry;
        let attempt = match (attempt, sqe.command()) {
            (Attempt::Entry, Some(command)) => Attempt::Command(command),
            (Attempt::Entry, None) if is_io_number(sqe.cmd_op()) => Attempt::EveryIo,
            (Attempt::Entry, None) => Attempt::EveryControl,
            (attempt, _) => attempt,
        };
        Seen { attempt, is_ours, sqe, environment }
    }

    /// Whether `rule` was broken here.
    pub(super) fn holds(&self, rule: &Rule) -> Holds {
        let is_another_kernels = self.environment.kernel.is_some_and(|kernel| !rule.is_in(kernel));
        if is_another_kernels || !self.is_about(rule.attempt) {
            return Holds::No;
        }
        match (rule.holds)(self) {
            // Of an older kernel, and nobody said that this is one.
            Holds::Certainly if rule.until.is_some() && self.environment.kernel.is_none() => Holds::Possibly,
            holds => holds,
        }
    }

    fn is_about(&self, rules: Attempt) -> bool {
        match (rules, self.attempt) {
            (Attempt::Entry, Attempt::Command(_) | Attempt::EveryControl | Attempt::EveryIo) => true,
            (Attempt::Descriptor, Attempt::OpenControl | Attempt::OpenCharDevice | Attempt::System(_)) => true,
            // What the driver reads where the command should be is not the command.
            (Attempt::Command(_) | Attempt::EveryControl | Attempt::EveryIo, _) if self.is_command_at_64() => false,
            (Attempt::EveryControl, Attempt::Command(command)) => !command.is_io(),
            (Attempt::EveryIo, Attempt::Command(command)) => command.is_io(),
            (rules, tried) => rules == tried,
        }
    }

    pub(super) fn is_ours(&self) -> bool {
        self.is_ours
    }

    /// Whether it is a control command, or as far as its number tells meant as one.
    pub(super) fn is_control(&self) -> bool {
        match self.attempt {
            Attempt::Command(command) => !command.is_io(),
            attempt => attempt == Attempt::EveryControl,
        }
    }

    pub(super) fn command(&self) -> Option<Command> {
        match self.attempt {
            Attempt::Command(command) => Some(command),
            _ => None,
        }
    }

    pub(super) fn is(&self, command: Command) -> bool {
        self.command() == Some(command)
    }

    /// Whether the command was written behind the first 64 bytes of a wide entry, and where the driver reads it is nothing.
    ///
    /// Nothing is a fair `dev_id`, queue and tag 0 too, so what stands at 64 has to be more than `data[0]` can be.
    pub(super) fn is_command_at_64(&self) -> bool {
        let (sqe, at) = (&self.sqe, PLAIN_BYTES);
        if !sqe.is_wide || sqe.has(COMMAND_AT, at) || !sqe.has(at, WIDE_BYTES) {
            return false;
        }
        // As far as the driver reads the struct at its right place; `data[0]` is its first 8 bytes behind 64.
        let end = COMMAND_AT + size_of::<ublksrv_ctrl_cmd>();
        let data_is_enough = match self.command() {
            Some(Command::START_DEV | Command::END_USER_RECOVERY | Command::QUIESCE_DEV) => sqe.u32(at + 4) == 0,
            Some(Command::UPDATE_SIZE | Command::UNREG_BUF) => true,
            _ => false,
        };
        !(data_is_enough && !sqe.has(at + 8, end) && !sqe.has(end, WIDE_BYTES))
    }

    /// `struct ublksrv_ctrl_cmd`.
    pub(super) fn dev_id(&self) -> u32 {
        self.sqe.u32(COMMAND_AT + offset_of!(ublksrv_ctrl_cmd, dev_id))
    }

    pub(super) fn queue_id(&self) -> u16 {
        self.sqe.u16(COMMAND_AT + offset_of!(ublksrv_ctrl_cmd, queue_id))
    }

    pub(super) fn len(&self) -> u16 {
        self.sqe.u16(COMMAND_AT + offset_of!(ublksrv_ctrl_cmd, len))
    }

    pub(super) fn addr(&self) -> u64 {
        self.sqe.u64(COMMAND_AT + offset_of!(ublksrv_ctrl_cmd, addr))
    }

    pub(super) fn data(&self) -> u64 {
        self.sqe.u64(COMMAND_AT + offset_of!(ublksrv_ctrl_cmd, data))
    }

    pub(super) fn path_len(&self) -> u16 {
        self.sqe.u16(COMMAND_AT + offset_of!(ublksrv_ctrl_cmd, dev_path_len))
    }

    /// Whether the driver takes a path in front of the buffer.
    pub(super) fn takes_path(&self) -> bool {
        self.is(Command::GET_DEV_INFO2) || self.device_has(Features::UNPRIVILEGED_DEV)
    }

    /// Bytes of the buffer without the path.
    pub(super) fn payload_len(&self) -> u16 {
        if self.takes_path() { self.len().saturating_sub(self.path_len()) } else { self.len() }
    }

    /// What is known of the buffer, without the path.
    pub(super) fn payload(&self) -> &'e [u8] {
        let path = if self.takes_path() { self.path_len() } else { 0 };
        self.environment.buffer.get(path.into()..).unwrap_or(&[])
    }

    /// Whether the buffer is so, as far as it is known.
    pub(super) fn payload_is(&self, broken: impl FnOnce(&[u8]) -> bool) -> Holds {
        let payload = self.payload();
        if payload.is_empty() { Holds::Possibly } else { certainly(broken(payload)) }
    }

    pub(super) fn device_has(&self, features: Features) -> bool {
        self.environment.device.is_some_and(|device| device.features().contains(features))
    }

    /// Whether the device is known to lack a feature.
    pub(super) fn device_lacks(&self, features: Features) -> Option<bool> {
        self.environment.device.map(|device| !device.features().contains(features))
    }

    pub(super) fn state_is(&self, wanted: &[State]) -> Option<bool> {
        self.environment.device.map(|device| wanted.contains(&device.state()))
    }

    pub(super) fn page_bytes(&self) -> u32 {
        self.environment.page_bytes.filter(|bytes| bytes.is_power_of_two()).unwrap_or(4096)
    }

    pub(super) fn page_shift(&self) -> u8 {
        u8::try_from(self.page_bytes().trailing_zeros()).unwrap_or(12)
    }
}

fn is_io_number(cmd_op: u32) -> bool {
    cmd_op.to_le_bytes()[0] >= 0x20
}
