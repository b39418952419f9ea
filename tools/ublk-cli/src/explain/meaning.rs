// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel makes of an entry, in one sentence.

use ublk::diagnosis::Sqe;
use ublk::{Command, Errno};

use crate::explain::fields::{self, Field};
use crate::explain::numbers::is_io;
use crate::explain::opcode;

/// An entry as the kernel reads it.
#[derive(Debug)]
pub(super) struct Meaning<'e> {
    pub(super) sqe: &'e Sqe,
    pub(super) bytes: &'e [Option<u8>],
    pub(super) fields: &'e [Field],
    /// Whether the command stands at byte 64.
    pub(super) is_at_64: bool,
}

impl Meaning<'_> {
    pub(super) fn sentence(&self) -> String {
        let opcode = self.value("opcode").and_then(|value| u8::try_from(value).ok()).unwrap_or(0);
        if !opcode::is_command(opcode) {
            return match opcode::name(opcode) {
                Some(name) => format!("io_uring runs {name} (operation {opcode}), and the driver never sees it"),
                None => format!("io_uring has no operation {opcode}, and the driver never sees it"),
            };
        }
        let cmd_op = self.sqe.cmd_op();
        let [number, kind, ..] = cmd_op.to_le_bytes();
        if ![0, b'u'].contains(&kind) {
            return format!("the driver takes {cmd_op:#x} for no command of its own");
        }
        let driver = if kind == 0 { "a driver that takes numbers of before Linux 6.4" } else { "the driver" };
        let Some(command) = self.sqe.command() else {
            let of = if is_io(self.sqe) { "I/O command" } else { "control command" };
            return format!("{driver} has no {of} of the number {number:#x}");
        };
        let name = short(command);
        if command == Command::GET_FEATURES && cmd_op != command.raw() {
            let device = self.number("cmd.dev_id");
            return format!(
                "{driver} takes it for a command to device {device}, as it takes no other number for {name}"
            );
        }
        let sentence = if self.is_at_64 {
            format!("{driver} reads {name} with {}; at byte 64 stands {}", self.read_at(48), self.read_at(64))
        } else if command.is_io() {
            format!("{driver} reads {name} for {}", self.io(command))
        } else {
            format!("{driver} reads {name}{}", self.control(command))
        };
        if self.bytes.len() == 64 && !command.is_io() {
            return format!(
                "{sentence}, if the entry goes on behind these 64 bytes: in a ring of entries of 64 bytes it is refused, and \
                 of an entry of 128 bytes all have to be given"
            );
        }
        sentence
    }

    fn value(&self, name: &str) -> Option<u64> {
        self.fields.iter().find(|field| field.name == name)?.value(self.bytes)
    }

    /// A value, or that it differs from run to run.
    fn number(&self, name: &str) -> String {
        self.value(name).map_or_else(|| "?".to_owned(), |value| value.to_string())
    }

    fn address(&self, name: &str) -> String {
        self.value(name).map_or_else(|| "?".to_owned(), |value| format!("{value:#x}"))
    }

    /// The fields of the command if it stood at `at`, but for those that are nothing in every command.
    fn read_at(&self, at: usize) -> String {
        let of = fields::command_struct(self.sqe.command());
        let shown = fields::read_at(&self.bytes.to_vec(), of, at).into_iter().filter_map(|(name, value)| {
            let value = value?;
            let is_shown = ["dev_id", "queue_id", "len", "addr", "q_id", "tag"].contains(&name.as_str());
            (is_shown || at == 64 && value != 0).then(|| match name.as_str() {
                "addr" => format!("{name} {value:#x}"),
                _ => format!("{name} {value}"),
            })
        });
        shown.collect::<Vec<_>>().join(", ")
    }

    fn control(&self, command: Command) -> String {
        let mut said = String::new();
        if command != Command::GET_FEATURES {
            said += &match self.value("cmd.dev_id") {
                Some(id) if id == u64::from(u32::MAX) && command == Command::ADD_DEV => {
                    " for a device whose id it chooses".to_owned()
                }
                _ => format!(" for device {}", self.number("cmd.dev_id")),
            };
        }
        let data = self.number("cmd.data");
        said += &match command {
            Command::START_DEV | Command::END_USER_RECOVERY => format!(", served by process {data}"),
            Command::UPDATE_SIZE => format!(", to be {data} sectors of 512 bytes"),
            Command::QUIESCE_DEV => format!(", within {data} ms"),
            Command::GET_QUEUE_AFFINITY => format!(", queue {data}"),
            Command::UNREG_BUF => format!(", registration {data}"),
            _ => String::new(),
        };
        let takes_buffer = [
            Command::ADD_DEV,
            Command::GET_DEV_INFO,
            Command::GET_DEV_INFO2,
            Command::SET_PARAMS,
            Command::GET_PARAMS,
            Command::GET_FEATURES,
            Command::GET_QUEUE_AFFINITY,
            Command::REG_BUF,
        ];
        if takes_buffer.contains(&command) {
            said += &format!(", with len {} and addr {}", self.number("cmd.len"), self.address("cmd.addr"));
        }
        match self.value("cmd.dev_path_len") {
            Some(0) | None => said,
            Some(len) => format!("{said}, of which the first {len} bytes are a path"),
        }
    }

    fn io(&self, command: Command) -> String {
        let addr = self.value("cmd.addr");
        let queue = format!("queue {}", self.number("cmd.q_id"));
        let tag = format!("{queue}, tag {}", self.number("cmd.tag"));
        let buffer = match addr {
            Some(0) => "no buffer".to_owned(),
            _ => format!("the buffer at {}", self.address("cmd.addr")),
        };
        match command {
            Command::COMMIT_AND_FETCH_REQ => {
                let result = self.value("cmd.result").and_then(|value| u32::try_from(value).ok());
                let result = result.map_or_else(|| "?".to_owned(), |value| said_result(signed(value)));
                format!("{tag}: result {result}, and {buffer}")
            }
            Command::REGISTER_IO_BUF => {
                format!("{tag}: its data becomes entry {} of the ring's table", self.number("cmd.addr"))
            }
            Command::UNREGISTER_IO_BUF => format!("entry {} of the ring's table", self.number("cmd.addr")),
            Command::PREP_IO_CMDS | Command::COMMIT_IO_CMDS => format!(
                "{queue}: {} elements of {} bytes at {}",
                self.number("cmd.nr_elem"),
                self.number("cmd.elem_bytes"),
                self.address("addr")
            ),
            Command::FETCH_IO_CMDS => format!("{queue}: tags into the buffers of group {}", self.number("buf_group")),
            _ => format!("{tag}, with {buffer}"),
        }
    }
}

/// The name of a command without what all have.
pub(super) fn short(command: Command) -> &'static str {
    let name = command.name().unwrap_or("a command");
    name.strip_prefix("UBLK_U_CMD_").or_else(|| name.strip_prefix("UBLK_U_IO_")).unwrap_or(name)
}

/// A result as the driver reads it: bytes, or an errno.
pub(super) fn said_result(value: i32) -> String {
    if value < 0 { format!("-{}", Errno::from_raw(value)) } else { value.to_string() }
}

/// 32 bits as a signed number.
pub(super) fn signed(value: u32) -> i32 {
    i32::from_ne_bytes(value.to_ne_bytes())
}
