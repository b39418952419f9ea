// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which field each byte is in, by the names that the goldens have.

use ublk::Command;
use ublk_sys::layout::{Layout, TABLES};

use crate::explain::Bytes;

/// A byte range with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) offset: usize,
    pub(super) len: usize,
}

impl Field {
    fn new(name: impl Into<String>, offset: usize, len: usize) -> Field {
        Field { name: name.into(), offset, len }
    }

    /// Its bytes.
    pub(super) fn of<'b>(&self, bytes: &'b [Option<u8>]) -> &'b [Option<u8>] {
        self.offset.checked_add(self.len).and_then(|end| bytes.get(self.offset..end)).unwrap_or(&[])
    }

    /// Its value; `None` where it is longer than 8 bytes, or where a byte differs from run to run.
    pub(super) fn value(&self, bytes: &[Option<u8>]) -> Option<u64> {
        let bytes: Vec<u8> = self.of(bytes).iter().copied().collect::<Option<_>>()?;
        Some(match *bytes.as_slice() {
            [a] => a.into(),
            [a, b] => u16::from_ne_bytes([a, b]).into(),
            [a, b, c, d] => u32::from_ne_bytes([a, b, c, d]).into(),
            _ => u64::from_ne_bytes(bytes.try_into().ok()?),
        })
    }
}

/// The members of C's `struct io_uring_sqe` that a command uses, up to the command itself.
const HEAD: [&str; 13] = [
    "opcode",
    "flags",
    "ioprio",
    "fd",
    "cmd_op",
    "__pad1",
    "addr",
    "len",
    "uring_cmd_flags",
    "user_data",
    "buf_index",
    "personality",
    "file_index",
];

/// Where the command stands in an entry, and the struct that it is.
pub(super) fn command_struct(command: Option<Command>) -> &'static str {
    match command {
        Some(command) if is_batch(command) => "ublk_batch_io",
        Some(command) if command.is_io() => "ublksrv_io_cmd",
        _ => "ublksrv_ctrl_cmd",
    }
}

fn is_batch(command: Command) -> bool {
    [Command::PREP_IO_CMDS, Command::COMMIT_IO_CMDS, Command::FETCH_IO_CMDS].contains(&command)
}

/// The fields of an entry of `len` bytes.
pub(super) fn of_entry(command: Option<Command>, is_io: bool, len: usize) -> Vec<Field> {
    let mut all: Vec<Field> = Vec::new();
    for name in HEAD {
        // Of a fetch of batches it is the group of its buffers.
        let name = if name == "buf_index" && command == Some(Command::FETCH_IO_CMDS) { "buf_group" } else { name };
        all.extend(member("io_uring_sqe", name).map(|(offset, len)| Field::new(name, offset, len)));
    }
    let at = member("io_uring_sqe", "cmd").map_or(48, |(offset, _)| offset);
    let of = if command.is_none() && is_io { "ublksrv_io_cmd" } else { command_struct(command) };
    all.extend(of_struct(of, at, "cmd."));
    fitted(all, len, "(zero)")
}

/// The fields of what a command points to, of `len` bytes with `path` bytes of a path in front; none where it points to nothing
/// that is known.
pub(super) fn of_buffer(command: Option<Command>, cmd: &Cmd, len: usize) -> Vec<Field> {
    let path = usize::from(cmd.path_len).min(len);
    let mut all = Vec::new();
    match command {
        Some(Command::GET_FEATURES) => all.push(Field::new("features", 0, 8)),
        Some(Command::GET_QUEUE_AFFINITY) => all.push(Field::new("cpumask", 0, usize::from(cmd.len))),
        Some(Command::ADD_DEV | Command::GET_DEV_INFO) => all = of_struct("ublksrv_ctrl_dev_info", 0, ""),
        Some(Command::GET_DEV_INFO2) => {
            if path > 0 {
                all.push(Field::new("(path)", 0, path));
            }
            all.extend(of_struct("ublksrv_ctrl_dev_info", path, ""));
        }
        Some(Command::SET_PARAMS | Command::GET_PARAMS) => all = of_struct("ublk_params", 0, ""),
        Some(Command::REG_BUF) => all = of_struct("ublk_shmem_buf_reg", 0, ""),
        Some(Command::PREP_IO_CMDS | Command::COMMIT_IO_CMDS) => all = elements(cmd),
        _ => return all,
    }
    fitted(all, len, "(not read)")
}

/// What the fields of a buffer depend on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cmd {
    pub(super) len: u16,
    pub(super) path_len: u16,
    pub(super) nr_elem: u16,
    pub(super) elem_bytes: u8,
}

/// The elements of a batch: a header, and as many numbers behind it as there is room for.
fn elements(cmd: &Cmd) -> Vec<Field> {
    let mut all = Vec::new();
    let bytes = usize::from(cmd.elem_bytes).max(layout("ublk_elem_header").map_or(8, |layout| layout.size));
    for index in 0..usize::from(cmd.nr_elem) {
        let at = index * bytes;
        let header = of_struct("ublk_elem_header", at, &format!("[{index}]."));
        let behind = header.last().map_or(at, |last| last.offset + last.len);
        all.extend(header);
        for (name, offset) in ["buffer", "zone LBA"].into_iter().zip((behind..at + bytes).step_by(8)) {
            all.push(Field::new(format!("[{index}] {name}"), offset, 8));
        }
    }
    all
}

fn layout(name: &str) -> Option<&'static Layout> {
    TABLES.iter().flat_map(|table| table.structs).find(|layout| layout.name == name)
}

/// Where a member of a C struct is, and how long.
fn member(of: &str, name: &str) -> Option<(usize, usize)> {
    let fields = layout(of)?.fields;
    let member = fields.iter().flat_map(|field| field.members).find(|member| member.name == name);
    let whole = || fields.iter().find(|field| field.name == name).map(|field| (field.offset, field.size));
    member.map(|member| (member.offset, member.size)).or_else(whole)
}

/// The fields of a struct that starts at `at`; of parameters those of their groups.
fn of_struct(name: &str, at: usize, prefix: &str) -> Vec<Field> {
    let mut all = Vec::new();
    for field in layout(name).map_or(&[][..], |layout| layout.fields) {
        let group = match field.name {
            "seg" => "ublk_param_segment".to_owned(),
            "dma" => "ublk_param_dma_align".to_owned(),
            group => format!("ublk_param_{group}"),
        };
        if name == "ublk_params" && layout(&group).is_some_and(|layout| layout.size == field.size) {
            all.extend(of_struct(&group, at + field.offset, &format!("{}.", field.name)));
        } else {
            all.push(Field::new(format!("{prefix}{}", field.name), at + field.offset, field.size));
        }
    }
    all
}

/// The fields that there are bytes for, the last as far as it goes, and what is behind them.
fn fitted(mut all: Vec<Field>, len: usize, behind: &str) -> Vec<Field> {
    all.retain(|field| field.offset < len && field.len > 0);
    let mut end = 0;
    for field in &mut all {
        field.len = field.len.min(len - field.offset);
        end = end.max(field.offset + field.len);
    }
    if end < len {
        all.push(Field::new(behind, end, len - end));
    }
    all
}

/// The bytes of one struct of an entry's command area, for what stands elsewhere than it should: its fields and their values.
pub(super) fn read_at(bytes: &Bytes, of: &str, at: usize) -> Vec<(String, Option<u64>)> {
    of_struct(of, at, "").into_iter().map(|field| (field.name.clone(), field.value(bytes))).collect()
}

#[cfg(test)]
mod tests {
    use super::{Cmd, of_buffer, of_entry};
    use crate::explain::dump::Dump;
    use crate::explain::entry::Entries;
    use crate::explain::golden::GOLDENS;
    use crate::explain::numbers::{cmd_of, sqe_of};

    #[test]
    fn every_field_of_every_golden_has_the_name_and_the_place_that_the_golden_says() {
        for (name, text) in GOLDENS {
            let found = Entries::of(Dump::read(text.as_bytes()));
            let [entry] = found.entries.as_slice() else { panic!("{name}") };
            let sqe = sqe_of(&entry.bytes).unwrap();
            let mut fields = of_entry(sqe.command(), false, entry.bytes.len());
            if let Some(buffer) = &entry.buffer {
                fields.extend(of_buffer(sqe.command(), &cmd_of(&sqe), buffer.len()));
            }
            let said = text.lines().filter_map(|line| {
                let (at, rest) = line.strip_prefix("# ")?.trim_start().split_once(' ')?;
                let (len, name) = rest.trim_start().split_once(' ')?;
                let name = if name.starts_with("the path") { "(path)" } else { name };
                let name = name.split_once("  ").map_or(name, |(name, _)| name);
                let name = name.split_once(" ??").map_or(name, |(name, _)| name);
                // The longest name has one space behind it.
                let name = name.strip_suffix(" 0x1000").or(name.strip_suffix(" 0")).unwrap_or(name);
                Some((at.parse::<usize>().ok()?, len.parse::<usize>().ok()?, name.trim_end().to_owned()))
            });
            let fields: Vec<_> = fields.into_iter().map(|field| (field.offset, field.len, field.name)).collect();
            assert_eq!(fields, said.collect::<Vec<_>>(), "{name}");
        }
    }

    #[test]
    fn fields_cover_every_byte_of_what_there_is_and_no_more() {
        for len in [0, 3, 64, 80, 152, 200] {
            for command in [ublk::Command::ADD_DEV, ublk::Command::SET_PARAMS, ublk::Command::GET_DEV_INFO2] {
                let fields = of_buffer(Some(command), &Cmd { path_len: 9, ..Cmd::default() }, len);
                let mut end = 0;
                for field in &fields {
                    assert_eq!(field.offset, end, "{field:?}");
                    end += field.len;
                }
                assert_eq!(end, len, "{command:?}");
            }
        }
    }
}
