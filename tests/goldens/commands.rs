// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every command as `ublk-sys` has it, with the values of its golden; what differs from run to run is given.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is wrong")]
#![expect(unsafe_code, reason = "the bytes of a struct that has no padding")]

use core::fmt::Write;

use ublk_sys::layout::{Layout, TABLES};
use ublk_sys::{
    IORING_OP_URING_CMD, IORING_URING_CMD_MULTISHOT, IOSQE_BUFFER_SELECT, UBLK_ATTR_FUA, UBLK_ATTR_VOLATILE_CACHE,
    UBLK_BATCH_F_HAS_BUF_ADDR, UBLK_F_NO_AUTO_PART_SCAN, UBLK_F_UPDATE_SIZE, UBLK_PARAM_TYPE_BASIC,
    UBLK_PARAM_TYPE_DISCARD, io_uring_sqe, io_uring_sqe_cmd_op, ublk_batch_io, ublk_elem_header, ublk_params,
    ublk_shmem_buf_reg, ublksrv_ctrl_cmd, ublksrv_ctrl_dev_info, ublksrv_io_cmd,
};

use crate::golden::{Golden, rows};

#[path = "texts.rs"]
mod texts;

pub use texts::GOLDENS;

/// The device of the goldens: no two of its bytes are the same.
pub const ID: u32 = 0x1234;
pub const PATH: &str = "/dev/ublkc4660";
pub const DEPTH: u16 = 4;
pub const MAX_IO_BYTES: u32 = 512 << 10;
/// What the clients read and write at once.
pub const IO_BYTES: i32 = 4096;
/// The tag whose commands are the goldens.
pub const TAG: u16 = 3;
pub const NEW_SECTORS: u64 = 0x80000;
/// Entry of the ring's buffer table.
pub const BUFFER_INDEX: u16 = 5;
/// Group of provided buffers.
pub const BUFFER_GROUP: u16 = 7;
pub const SHARED_BYTES: u64 = 0x10000;

/// What differs from run to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    /// The open `/dev/ublk-control` or `/dev/ublkcN`.
    pub fd: i32,
    /// The server's process.
    pub process: u32,
    /// The buffer of each tag; of them the first is the shared memory that is registered.
    pub addresses: [u64; 4],
}

/// A byte range with its name.
#[derive(Clone, Debug)]
struct Field {
    at: usize,
    len: usize,
    name: String,
    /// What is there, if that differs from run to run.
    varies: Option<&'static str>,
}

/// A command that can be sent.
#[derive(Clone, Debug)]
pub struct Built {
    pub name: String,
    pub sqe: Vec<u8>,
    /// What it points to. It stays where it is, as its address stands in the command.
    pub buffer: Vec<u8>,
    fields: Vec<Field>,
    buffer_fields: Vec<Field>,
}

impl Built {
    /// Overwrites bytes of the command.
    pub fn with(mut self, at: usize, bytes: &[u8]) -> Built {
        self.sqe[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// The command for another tag.
    pub fn of_tag(self, tag: u16) -> Built {
        self.with(50, &tag.to_ne_bytes())
    }

    pub fn is_control(&self) -> bool {
        self.sqe.len() == 128
    }

    /// The golden that this comes to, `said` being the comment at its top.
    pub fn text(&self, said: &str) -> String {
        let mut text = format!(
            "# {said}\n# Hex, 16 bytes a row; ?? differs from run to run, and stands for what its field is said to be.\n"
        );
        for (part, bytes, fields) in [("sqe", &self.sqe, &self.fields), ("buffer", &self.buffer, &self.buffer_fields)] {
            if bytes.is_empty() {
                continue;
            }
            write!(text, "\n{part}\n{}\n#   at bytes field\n", rows(&masked(bytes, fields))).unwrap();
            for field in fields {
                write!(text, "# {:4} {:5} {:32}", field.at, field.len, field.name).unwrap();
                match (field.varies, value(&bytes[field.at..field.at + field.len])) {
                    (Some(what), _) => text += &format!(" ?? {what}"),
                    (None, Some(value)) => text += &value,
                    (None, None) => {}
                }
                text.truncate(text.trim_end().len());
                text += "\n";
            }
        }
        text
    }

    pub fn golden(&self) -> Golden {
        Golden { sqe: masked(&self.sqe, &self.fields), buffer: masked(&self.buffer, &self.buffer_fields) }
    }
}

fn masked(bytes: &[u8], fields: &[Field]) -> Vec<Option<u8>> {
    let mut masked: Vec<Option<u8>> = bytes.iter().copied().map(Some).collect();
    for field in fields.iter().filter(|field| field.varies.is_some()) {
        masked[field.at..field.at + field.len].fill(None);
    }
    masked
}

/// The value of a field of up to 8 bytes, in hex where it is large.
fn value(bytes: &[u8]) -> Option<String> {
    let value = match *bytes {
        [a] => u64::from(a),
        [a, b] => u16::from_ne_bytes([a, b]).into(),
        [a, b, c, d] => u32::from_ne_bytes([a, b, c, d]).into(),
        _ => u64::from_ne_bytes(bytes.try_into().ok()?),
    };
    Some(if value < 256 { format!(" {value}") } else { format!(" {value:#x}") })
}

fn bytes_of<T: Copy>(value: &T) -> Vec<u8> {
    // SAFETY: the mirror's structs have no padding, which `assert_layout!` proves of each: every byte is initialised.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) }.to_vec()
}

fn layout(name: &str) -> &'static Layout {
    TABLES.iter().flat_map(|table| table.structs).find(|layout| layout.name == name).unwrap()
}

/// The fields of a struct that stands at `at`.
fn fields(name: &str, at: usize, prefix: &str) -> Vec<Field> {
    let mut all = Vec::new();
    for field in layout(name).fields {
        let of_params = match field.name {
            "seg" => Some("ublk_param_segment".to_owned()),
            "dma" => Some("ublk_param_dma_align".to_owned()),
            group => Some(format!("ublk_param_{group}")),
        };
        let group = of_params.filter(|_| name == "ublk_params" && field.size > 4);
        match group {
            Some(group) => all.extend(fields(&group, at + field.offset, &format!("{}.", field.name))),
            None => all.push(Field {
                at: at + field.offset,
                len: field.size,
                name: format!("{prefix}{}", field.name),
                varies: None,
            }),
        }
    }
    all
}

fn vary(fields: &mut [Field], name: &str, what: &'static str) {
    fields.iter_mut().find(|field| field.name == name).unwrap().varies = Some(what);
}

/// The 48 bytes before the command area, and what they are called.
fn head(cmd_op: u32, run: &Run, node: &'static str) -> (io_uring_sqe, Vec<Field>) {
    let mut sqe = io_uring_sqe::default();
    sqe.opcode = IORING_OP_URING_CMD;
    sqe.fd = run.fd;
    sqe.off = io_uring_sqe_cmd_op(cmd_op);
    let names = [
        (0, 1, "opcode"),
        (1, 1, "flags"),
        (2, 2, "ioprio"),
        (4, 4, "fd"),
        (8, 4, "cmd_op"),
        (12, 4, "__pad1"),
        (16, 8, "addr"),
        (24, 4, "len"),
        (28, 4, "uring_cmd_flags"),
        (32, 8, "user_data"),
        (40, 2, "buf_index"),
        (42, 2, "personality"),
        (44, 4, "file_index"),
    ];
    let mut all: Vec<Field> =
        names.map(|(at, len, name)| Field { at, len, name: name.to_owned(), varies: None }).into();
    vary(&mut all, "fd", node);
    vary(&mut all, "user_data", "what comes back in the completion");
    (sqe, all)
}

/// A command to the control device: 128 bytes, of which the struct has 32 from byte 48.
fn control(name: &str, run: &Run, data: u64, buffer: (Vec<u8>, Vec<Field>)) -> Built {
    let (sqe, mut all) = head(constant(name), run, "the open /dev/ublk-control");
    let mut sent = ublksrv_ctrl_cmd::default();
    sent.dev_id = ID;
    // "No queue": the driver wants it so from ADD_DEV, and looks at it nowhere else.
    sent.queue_id = u16::MAX;
    sent.len = buffer.0.len().try_into().unwrap();
    sent.data = [data];
    if name == "UBLK_U_CMD_GET_DEV_INFO2" {
        sent.dev_path_len = (PATH.len() + 1).try_into().unwrap();
    }
    if name == "UBLK_U_CMD_GET_FEATURES" {
        sent.dev_id = u32::MAX;
    }
    all.extend(fields("ublksrv_ctrl_cmd", 48, "cmd."));
    if !buffer.0.is_empty() {
        sent.addr = address(&buffer.0);
        vary(&mut all, "cmd.addr", "the address of the buffer below");
    }
    all.push(Field { at: 80, len: 48, name: "(zero)".into(), varies: None });
    let mut bytes = bytes_of(&sqe);
    bytes.truncate(48);
    bytes.extend(bytes_of(&sent));
    bytes.resize(128, 0);
    Built { name: name.to_owned(), sqe: bytes, buffer: buffer.0, fields: all, buffer_fields: buffer.1 }
}

/// A command to a char device: 64 bytes, of which the struct has the last 16.
fn io<T: Copy>(name: &str, run: &Run, sent: &T, of: &str, change: impl FnOnce(&mut io_uring_sqe)) -> Built {
    let (mut sqe, mut all) = head(constant(name), run, "the open /dev/ublkcN");
    change(&mut sqe);
    all.extend(fields(of, 48, "cmd."));
    let mut bytes = bytes_of(&sqe);
    bytes.truncate(48);
    bytes.extend(bytes_of(sent));
    assert_eq!(bytes.len(), 64);
    Built { name: name.to_owned(), sqe: bytes, buffer: Vec::new(), fields: all, buffer_fields: Vec::new() }
}

/// One tag's I/O command.
fn of_tag(name: &str, run: &Run, result: i32, addr: u64) -> Built {
    let mut sent = ublksrv_io_cmd::default();
    (sent.tag, sent.result, sent.addr) = (TAG, result, addr);
    let mut built = io(name, run, &sent, "ublksrv_io_cmd", |_| ());
    if addr != BUFFER_INDEX.into() {
        vary(&mut built.fields, "cmd.addr", "the address of the tag's buffer, of max_io_buf_bytes");
    }
    built
}

/// A command for several tags: its elements are behind the SQE's address.
fn batch(name: &str, run: &Run, result: i32) -> Built {
    let (mut elements, mut names) = (Vec::new(), Vec::new());
    for (tag, address) in (0..DEPTH).zip(run.addresses) {
        let mut element = ublk_elem_header::default();
        (element.tag, element.result) = (tag, result);
        names.extend(fields("ublk_elem_header", elements.len(), &format!("[{tag}].")));
        elements.extend(bytes_of(&element));
        let what = Some("the address of the tag's buffer, of max_io_buf_bytes");
        names.push(Field { at: elements.len(), len: 8, name: format!("[{tag}] buffer"), varies: what });
        elements.extend(address.to_ne_bytes());
    }
    let mut sent = ublk_batch_io::default();
    sent.flags = UBLK_BATCH_F_HAS_BUF_ADDR;
    (sent.nr_elem, sent.elem_bytes) = (DEPTH, 16);
    let mut built = io(name, run, &sent, "ublk_batch_io", |sqe| sqe.addr = address(&elements));
    vary(&mut built.fields, "addr", "the address of the buffer below");
    (built.buffer, built.buffer_fields) = (elements, names);
    built
}

fn address(bytes: &[u8]) -> u64 {
    bytes.as_ptr().addr().try_into().unwrap()
}

fn constant(name: &str) -> u32 {
    let mut all = TABLES.iter().flat_map(|table| table.constants).flat_map(|group| *group);
    all.find(|constant| constant.name == name).unwrap().value.try_into().unwrap()
}

/// The name of each command, as the mirror has them: a new one is missed here until it has its golden.
pub fn names() -> Vec<&'static str> {
    let all = TABLES.iter().flat_map(|table| table.constants).flat_map(|group| *group).map(|constant| constant.name);
    all.filter(|name| name.starts_with("UBLK_U_")).collect()
}

/// The device that ADD_DEV is asked for.
pub fn dev_info() -> ublksrv_ctrl_dev_info {
    let mut info = ublksrv_ctrl_dev_info::default();
    (info.nr_hw_queues, info.queue_depth, info.max_io_buf_bytes, info.dev_id) = (1, DEPTH, MAX_IO_BYTES, ID);
    info.flags = UBLK_F_UPDATE_SIZE | UBLK_F_NO_AUTO_PART_SCAN;
    info
}

/// Its parameters: 128 MiB, a volatile cache, discard and write-zeroes.
fn params() -> ublk_params {
    let mut params = ublk_params::default();
    params.len = size_of::<ublk_params>().try_into().unwrap();
    params.types = UBLK_PARAM_TYPE_BASIC | UBLK_PARAM_TYPE_DISCARD;
    params.basic.attrs = UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA;
    (params.basic.logical_bs_shift, params.basic.physical_bs_shift) = (9, 12);
    (params.basic.io_opt_shift, params.basic.io_min_shift) = (12, 9);
    params.basic.max_sectors = MAX_IO_BYTES / 512;
    params.basic.dev_sectors = 0x40000;
    params.discard.discard_granularity = 4096;
    params.discard.max_discard_sectors = 0x800;
    params.discard.max_write_zeroes_sectors = 0x1000;
    params.discard.max_discard_segments = 1;
    params
}

/// The command of this name.
pub fn build(name: &str, run: &Run) -> Built {
    let nothing = || (Vec::new(), Vec::new());
    let simple = |data| control(name, run, data, nothing());
    let info = || (vec![0; size_of::<ublksrv_ctrl_dev_info>()], fields("ublksrv_ctrl_dev_info", 0, ""));
    let of_process = || {
        let mut built = simple(run.process.into());
        vary(&mut built.fields, "cmd.data", "the process that opened /dev/ublkcN");
        built
    };
    match name {
        "UBLK_U_CMD_GET_FEATURES" => {
            let field = Field { at: 0, len: 8, name: "features".into(), varies: None };
            control(name, run, 0, (vec![0; 8], vec![field]))
        }
        "UBLK_U_CMD_ADD_DEV" => {
            let mut buffer = (bytes_of(&dev_info()), info().1);
            vary(&mut buffer.1, "ublksrv_flags", "the server's own, given back by GET_DEV_INFO");
            control(name, run, 0, buffer)
        }
        "UBLK_U_CMD_GET_DEV_INFO" => control(name, run, 0, info()),
        "UBLK_U_CMD_GET_DEV_INFO2" => {
            let mut bytes = PATH.as_bytes().to_vec();
            bytes.push(0);
            let path = Field { at: 0, len: bytes.len(), name: format!("the path {PATH} and its NUL"), varies: None };
            let names = [vec![path], fields("ublksrv_ctrl_dev_info", bytes.len(), "")].concat();
            bytes.extend(info().0);
            control(name, run, 0, (bytes, names))
        }
        "UBLK_U_CMD_GET_QUEUE_AFFINITY" => {
            let mask = Field { at: 0, len: 1024, name: "cpumask".into(), varies: None };
            control(name, run, 0, (vec![0; 1024], vec![mask]))
        }
        "UBLK_U_CMD_SET_PARAMS" => control(name, run, 0, (bytes_of(&params()), fields("ublk_params", 0, ""))),
        "UBLK_U_CMD_GET_PARAMS" => {
            let mut asked = ublk_params::default();
            asked.len = params().len;
            control(name, run, 0, (bytes_of(&asked), fields("ublk_params", 0, "")))
        }
        "UBLK_U_CMD_START_DEV" | "UBLK_U_CMD_END_USER_RECOVERY" => of_process(),
        "UBLK_U_CMD_STOP_DEV"
        | "UBLK_U_CMD_TRY_STOP_DEV"
        | "UBLK_U_CMD_DEL_DEV"
        | "UBLK_U_CMD_DEL_DEV_ASYNC"
        | "UBLK_U_CMD_START_USER_RECOVERY"
        // data[0] is the index that REG_BUF gave, the first.
        | "UBLK_U_CMD_UNREG_BUF" => simple(0),
        "UBLK_U_CMD_UPDATE_SIZE" => simple(NEW_SECTORS),
        // Milliseconds.
        "UBLK_U_CMD_QUIESCE_DEV" => simple(10_000),
        "UBLK_U_CMD_REG_BUF" => {
            let mut sent = ublk_shmem_buf_reg::default();
            (sent.addr, sent.len) = (run.addresses[0], SHARED_BYTES);
            let mut names = fields("ublk_shmem_buf_reg", 0, "");
            vary(&mut names, "addr", "the address of shared memory");
            control(name, run, 0, (bytes_of(&sent), names))
        }
        "UBLK_U_IO_FETCH_REQ" | "UBLK_U_IO_NEED_GET_DATA" => of_tag(name, run, 0, run.addresses[usize::from(TAG)]),
        "UBLK_U_IO_COMMIT_AND_FETCH_REQ" => of_tag(name, run, IO_BYTES, run.addresses[usize::from(TAG)]),
        "UBLK_U_IO_REGISTER_IO_BUF" | "UBLK_U_IO_UNREGISTER_IO_BUF" => of_tag(name, run, 0, BUFFER_INDEX.into()),
        "UBLK_U_IO_PREP_IO_CMDS" => batch(name, run, 0),
        "UBLK_U_IO_COMMIT_IO_CMDS" => batch(name, run, IO_BYTES),
        "UBLK_U_IO_FETCH_IO_CMDS" => {
            let mut sent = ublk_batch_io::default();
            sent.elem_bytes = 2;
            let mut built = io(name, run, &sent, "ublk_batch_io", |sqe| {
                sqe.flags = IOSQE_BUFFER_SELECT;
                sqe.rw_flags = IORING_URING_CMD_MULTISHOT;
                sqe.buf_index = BUFFER_GROUP;
            });
            built.fields.iter_mut().find(|field| field.name == "buf_index").unwrap().name = "buf_group".into();
            built
        }
        _ => panic!("{name} is not built here yet"),
    }
}

/// The golden of a command.
pub fn golden(name: &str) -> Golden {
    Golden::parse(GOLDENS.iter().find(|(other, _)| *other == name).unwrap().1)
}
