// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ublkctl explain`: what an SQE says, what the kernel would make of it, and what is wrong with it.

mod advice;
mod against;
mod dump;
mod entry;
mod fields;
mod golden;
mod line;
mod meaning;
mod numbers;
mod opcode;
mod problem;
mod report;
mod token;

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;

use clap::ArgMatches;
use rustix::fs::FileType;
use serde_json::Value;
use ublk::diagnosis::{Environment, Sqe};
use ublk::{Command, DeviceInfo, Errno};
use ublk_sys::ublksrv_ctrl_dev_info;

use dump::Dump;
use entry::{Entries, Entry};
use golden::Golden;
use meaning::Meaning;
use problem::Problem;
use report::{Compared, Paint, Part, Report};

/// Bytes; `None` is one that differs from run to run.
type Bytes = Vec<Option<u8>>;

/// What is larger holds more than SQEs.
const MOST_BYTES: u64 = 16 << 20;

/// Bytes of the struct that ADD_DEV reads.
const INFO_BYTES: usize = size_of::<ublksrv_ctrl_dev_info>();

/// Bytes of a `struct ublksrv_io_cmd`.
const IO_BYTES: usize = size_of::<ublk_sys::ublksrv_io_cmd>();

/// What is given beside the SQEs.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    dev_info: Option<Bytes>,
    params: Option<Bytes>,
    io_cmd: Option<Bytes>,
    errno: Option<Errno>,
    against: Option<Golden>,
}

/// All that there is to say of an input.
#[derive(Debug)]
pub struct Explanation {
    reports: Vec<Report>,
    /// A sentence for each thing that is no SQE.
    complaints: Vec<String>,
    /// How many slots of a ring have nothing in them.
    empty_slots: usize,
}

/// Runs `ublkctl explain`, and returns its exit status.
///
/// # Errors
///
/// What could not be read or written.
pub fn run(matches: &ArgMatches) -> io::Result<u8> {
    let wanted = Wanted::of(matches).map_err(io::Error::other)?;
    let file = matches.get_one::<PathBuf>("FILE");
    let input = match file {
        Some(path) if path.as_os_str() != "-" => {
            let named = |error: io::Error| io::Error::other(format!("{}: {error}", path.display()));
            Some(read(File::open(path).map_err(named)?).map_err(named)?)
        }
        None if wanted.has_buffer() && !is_piped() => None,
        // Of nothing at all the buffers are left.
        None => Some(read(io::stdin().lock())?).filter(|input| !(wanted.has_buffer() && input.is_empty())),
        Some(_) => Some(read(io::stdin().lock())?),
    };
    let found = Explanation::of(input.as_deref(), &wanted);
    let mut out = io::stdout().lock();
    if matches.get_flag("json") {
        writeln!(out, "{:#}", found.to_json())?;
    } else {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        out.write_all(found.to_text(io::stdout().is_terminal() && !no_color).as_bytes())?;
    }
    out.flush()?;
    for complaint in &found.complaints {
        writeln!(io::stderr(), "ublkctl explain: {complaint}")?;
    }
    Ok(found.status())
}

/// Whether somebody gave standard input: a pipe or a file.
fn is_piped() -> bool {
    let about = rustix::fs::fstat(io::stdin());
    about.is_ok_and(|about| matches!(FileType::from_raw_mode(about.st_mode), FileType::Fifo | FileType::RegularFile))
}

fn read(from: impl Read) -> io::Result<Vec<u8>> {
    let mut input = Vec::new();
    from.take(MOST_BYTES + 1).read_to_end(&mut input)?;
    if u64::try_from(input.len()).is_ok_and(|len| len > MOST_BYTES) {
        return Err(io::Error::other("the input has more than 16 MiB: give the part of it that has the SQEs"));
    }
    Ok(input)
}

impl Wanted {
    /// What the command line says.
    fn of(matches: &ArgMatches) -> Result<Wanted, String> {
        let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
        let bytes = |name: &str| text(name).map(|given| given_bytes(name, given)).transpose();
        let wanted = Wanted {
            dev_info: bytes("dev-info")?,
            params: bytes("params")?,
            io_cmd: bytes("io-cmd")?,
            errno: text("errno").map(errno).transpose()?,
            against: text("against").map(Golden::named).transpose()?,
        };
        match &wanted.io_cmd {
            Some(bytes) if bytes.len() != IO_BYTES => {
                Err(format!("--io-cmd: {}, and a struct ublksrv_io_cmd has 16", plural(bytes.len(), "byte")))
            }
            _ => Ok(wanted),
        }
    }

    /// With this result that came back.
    #[must_use]
    pub fn with_errno(mut self, errno: Errno) -> Wanted {
        self.errno = Some(errno);
        self
    }

    /// Compared with the golden of this command.
    ///
    /// # Errors
    ///
    /// There is neither such a command nor such a file, as a sentence.
    pub fn against(mut self, golden: &str) -> Result<Wanted, String> {
        self.against = Some(Golden::named(golden)?);
        Ok(self)
    }

    /// With a buffer of each kind: the first bytes of these.
    #[must_use]
    pub fn with_buffers(mut self, bytes: &[u8]) -> Wanted {
        let first = |len: usize| bytes.iter().copied().take(len).map(Some).collect::<Bytes>();
        (self.dev_info, self.params) = (Some(first(usize::MAX)), Some(first(usize::MAX)));
        self.io_cmd = Some(first(IO_BYTES)).filter(|bytes| bytes.len() == IO_BYTES);
        self
    }

    fn has_buffer(&self) -> bool {
        self.dev_info.is_some() || self.params.is_some() || self.io_cmd.is_some()
    }

    /// The device that `--dev-info` describes.
    fn device(&self) -> Option<DeviceInfo> {
        let bytes = self.dev_info.as_ref().filter(|bytes| bytes.len() >= INFO_BYTES)?;
        let fields = fields::of_buffer(Some(Command::ADD_DEV), &fields::Cmd::default(), INFO_BYTES);
        let value = |name: &str| fields.iter().find(|field| field.name == name)?.value(bytes);
        let mut info = ublksrv_ctrl_dev_info::default();
        info.nr_hw_queues = u16::try_from(value("nr_hw_queues")?).ok()?;
        info.queue_depth = u16::try_from(value("queue_depth")?).ok()?;
        info.max_io_buf_bytes = u32::try_from(value("max_io_buf_bytes")?).ok()?;
        info.dev_id = u32::try_from(value("dev_id")?).ok()?;
        info.flags = value("flags")?;
        Some(DeviceInfo::from_raw(info))
    }

    /// What is known beside an entry.
    fn environment<'b>(&self, command: Option<Command>, buffer: &'b [u8]) -> Environment<'b> {
        let mut environment = Environment::default();
        environment.buffer = buffer;
        // What was asked of ADD_DEV says what the device is, but not whether it is live or what holds it.
        if command.is_some_and(|it| it.is_io() || [Command::SET_PARAMS, Command::GET_QUEUE_AFFINITY].contains(&it)) {
            environment.device = self.device();
        }
        environment
    }

    /// What an entry points to: as it was given, or as it stood behind the entry.
    fn buffer_of(&self, command: Option<Command>, entry: &Entry) -> Option<Bytes> {
        let given = match command {
            Some(Command::ADD_DEV | Command::GET_DEV_INFO) => self.dev_info.as_ref(),
            Some(Command::SET_PARAMS | Command::GET_PARAMS) => self.params.as_ref(),
            _ => None,
        };
        given.or(entry.buffer.as_ref()).cloned()
    }
}

/// Hex in any shape, or `@FILE`.
fn given_bytes(name: &str, given: &str) -> Result<Bytes, String> {
    let from_file = given.strip_prefix('@').map(|path| {
        let named = |error| format!("--{name} {path}: {error}");
        read(File::open(path).map_err(named)?).map_err(named)
    });
    let input = from_file.unwrap_or_else(|| Ok(given.as_bytes().to_vec()))?;
    let dump = Dump::read(&input);
    match dump.runs.as_slice() {
        [run] => Ok(run.bytes.clone()),
        [] => Err(match dump.longest_left_out {
            0 => format!("--{name}: there are no bytes in it"),
            count => format!("--{name}: {} are too few", plural(count, "byte")),
        }),
        _ => Err(format!("--{name}: there is more than one buffer in it")),
    }
}

/// `22`, `-22`, `EINVAL` or `-EINVAL`.
fn errno(text: &str) -> Result<Errno, String> {
    /// The largest number that the kernel gives as an errno.
    const MOST: i32 = 4095;
    let bare = text.strip_prefix('-').unwrap_or(text).to_ascii_uppercase();
    let number = match bare.as_str() {
        "ENOTSUP" => Some(Errno::EOPNOTSUPP.raw()),
        "EWOULDBLOCK" => Some(Errno::EAGAIN.raw()),
        name => name
            .parse::<i32>()
            .ok()
            .filter(|number| (1..=MOST).contains(number))
            .or_else(|| (1..=MOST).find(|number| Errno::from_raw(*number).name() == Some(name))),
    };
    number
        .map(Errno::from_raw)
        .ok_or_else(|| format!("--errno {text}: not the name of an errno, nor its number, 1 to {MOST}"))
}

impl Explanation {
    /// Of an input, and of what is given beside it; without an input of that alone.
    #[must_use]
    pub fn of(input: Option<&[u8]>, wanted: &Wanted) -> Explanation {
        let mut found = Explanation { reports: Vec::new(), complaints: Vec::new(), empty_slots: 0 };
        if let Some(io_cmd) = &wanted.io_cmd {
            found.reports.extend(explain(&around_io_cmd(io_cmd), wanted));
        }
        let Some(input) = input else {
            found.reports.extend(wanted.dev_info.as_ref().and_then(|info| explain_dev_info(info, wanted)));
            found.reports.extend(wanted.params.as_ref().and_then(|params| explain_params(params, wanted)));
            return found;
        };
        let dump = Dump::read(input);
        if dump.runs.is_empty() || input.is_empty() {
            found.complaints.push(advice::advice(input, &dump));
            return found;
        }
        let Entries { entries, complaints, empty_slots } = Entries::of(dump);
        (found.complaints, found.empty_slots) = (complaints, empty_slots);
        found.reports.extend(entries.iter().filter_map(|entry| explain(entry, wanted)));
        found
    }

    /// 0 where the bytes are right, 1 where something is wrong, 2 where something is no SQE.
    #[must_use]
    pub fn status(&self) -> u8 {
        if !self.complaints.is_empty() || self.reports.is_empty() {
            2
        } else {
            u8::from(self.reports.iter().any(Report::is_wrong))
        }
    }

    /// An object for each SQE.
    #[must_use]
    pub fn to_json(&self) -> Value {
        self.reports.iter().map(Report::to_json).collect()
    }

    /// For people; with colour for a terminal.
    #[must_use]
    pub fn to_text(&self, is_coloured: bool) -> String {
        let paint = Paint { is_on: is_coloured };
        let mut text = self.reports.iter().map(|report| report.to_text(paint)).collect::<Vec<_>>().join("\n");
        if self.empty_slots > 0 {
            text += &format!("\n{} of zeroes left out\n", plural(self.empty_slots, "slot"));
        }
        text
    }
}

/// A FETCH_REQ with these 16 bytes.
fn around_io_cmd(io_cmd: &Bytes) -> Entry {
    let mut bytes: Bytes = synthesized(Command::FETCH_REQ).into_iter().take(48).collect();
    bytes.extend(io_cmd);
    Entry { line: 0, bytes, buffer: None }
}

/// A command in which nothing is wrong but that it says nothing yet.
fn synthesized(command: Command) -> Bytes {
    let mut bytes = vec![Some(0); 128];
    put(&mut bytes, 0, &[ublk_sys::IORING_OP_URING_CMD]);
    put(&mut bytes, 8, &command.raw().to_ne_bytes());
    bytes
}

fn put(bytes: &mut Bytes, at: usize, new: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(new) {
        *to = Some(*from);
    }
}

/// A control command that points to a buffer of so many bytes.
fn pointing(command: Command, dev_id: u32, len: usize) -> Entry {
    let mut bytes = synthesized(command);
    put(&mut bytes, 48, &dev_id.to_ne_bytes());
    put(&mut bytes, 52, &u16::MAX.to_ne_bytes());
    put(&mut bytes, 54, &u16::try_from(len).unwrap_or(u16::MAX).to_ne_bytes());
    put(&mut bytes, 56, &(1_u64 << 20).to_ne_bytes());
    Entry { line: 0, bytes, buffer: None }
}

/// The device info that ADD_DEV would be sent with.
fn explain_dev_info(info: &Bytes, wanted: &Wanted) -> Option<Report> {
    let fields = fields::of_buffer(Some(Command::ADD_DEV), &fields::Cmd::default(), info.len());
    let id = fields.iter().find(|field| field.name == "dev_id").and_then(|field| field.value(info));
    let id = id.and_then(|id| u32::try_from(id).ok()).unwrap_or(u32::MAX);
    let mut report = explain(&pointing(Command::ADD_DEV, id, info.len().max(INFO_BYTES)), wanted)?;
    report.of = "struct ublksrv_ctrl_dev_info";
    report.part = Part { bytes: info.clone(), fields };
    report.buffer = None;
    report.meaning = "what ADD_DEV reads where its command points to it".to_owned();
    report.against = None;
    Some(report)
}

/// The parameters that SET_PARAMS would be sent with.
fn explain_params(params: &Bytes, wanted: &Wanted) -> Option<Report> {
    let id = wanted.device().map_or(0, |device| device.id().raw());
    let mut report = explain(&pointing(Command::SET_PARAMS, id, params.len()), wanted)?;
    report.of = "struct ublk_params";
    report.part = report.buffer.take()?;
    report.meaning = "what SET_PARAMS reads where its command points to it, each struct at its own offset".to_owned();
    report.against = None;
    Some(report)
}

/// Everything about one entry.
fn explain(entry: &Entry, wanted: &Wanted) -> Option<Report> {
    let sqe = numbers::sqe_of(&entry.bytes)?;
    let command = sqe.command();
    let fields = fields::of_entry(command, numbers::is_io(&sqe), entry.bytes.len());
    let buffer = wanted.buffer_of(command, entry).map(|bytes| {
        let fields = fields::of_buffer(command, &numbers::cmd_of(&sqe), bytes.len());
        Part { bytes, fields }
    });
    let mut problems = Vec::new();
    let bytes = buffer.as_ref().map(|buffer| filled(&buffer.bytes)).unwrap_or_default();
    let is_cut = is_cut(&sqe, wanted);
    // What is cut off is not zero.
    let known = if is_cut { &[] } else { bytes.as_slice() };
    let rules = Problem::all_of(&sqe, wanted.errno, &wanted.environment(command, known));
    let is_at_64 = Problem::all_of(&sqe, None, &Environment::default()).iter().any(|it| it.id == problem::AT_64);
    let is_command = sqe.as_bytes().first().is_some_and(|opcode| opcode::is_command(*opcode));
    problems.extend(rules);
    if is_command && !is_at_64 {
        problems.extend(cut(&sqe, wanted, buffer.as_ref(), is_cut));
        problems.extend(other_device(&sqe, wanted));
    }
    let meaning = Meaning { sqe: &sqe, bytes: &entry.bytes, fields: &fields, is_at_64 }.sentence();
    let against = wanted.against.as_ref().map(|golden| Compared {
        with: golden.name.clone(),
        differences: against::differences(
            golden,
            &sqe,
            (&entry.bytes, &fields),
            buffer.as_ref().map(|buffer| (buffer.bytes.as_slice(), buffer.fields.as_slice())),
        ),
    });
    Some(Report {
        of: "SQE",
        line: entry.line,
        command,
        part: Part { bytes: entry.bytes.clone(), fields },
        buffer,
        meaning,
        problems,
        errno: wanted.errno,
        against,
    })
}

/// Whether a device info was given that is shorter than what ADD_DEV reads.
fn is_cut(sqe: &Sqe, wanted: &Wanted) -> bool {
    let info = wanted.dev_info.as_ref().filter(|_| sqe.command() == Some(Command::ADD_DEV));
    info.is_some_and(|info| info.len() < INFO_BYTES)
}

/// The buffer is shorter than what the driver reads of it.
fn cut(sqe: &Sqe, wanted: &Wanted, buffer: Option<&Part>, is_cut: bool) -> Option<Problem> {
    if wanted.errno.is_some() {
        return None;
    }
    let (has, read) = if is_cut {
        (wanted.dev_info.as_ref()?.len(), INFO_BYTES)
    } else {
        let given = match sqe.command()? {
            Command::SET_PARAMS => wanted.params.as_ref()?.len(),
            _ => return None,
        };
        buffer?;
        (given, usize::try_from(numbers::value(sqe, "cmd.len")?).ok()?.min(size_of::<ublk_sys::ublk_params>()))
    };
    (has < read).then(|| {
        Problem::own(
            "buffer.short",
            format!(
                "the buffer has {}, and the driver reads {read}: what stands behind it in memory too",
                plural(has, "byte")
            ),
            "make the buffer as long as the struct, and capture all of it",
        )
    })
}

/// The command is for another device than `--dev-info` describes.
fn other_device(sqe: &Sqe, wanted: &Wanted) -> Option<Problem> {
    let command = sqe.command().filter(|command| !command.is_io())?;
    if [Command::ADD_DEV, Command::GET_FEATURES].contains(&command) || wanted.errno.is_some() {
        return None;
    }
    let described = wanted.device()?.id().raw();
    let named = numbers::value(sqe, "cmd.dev_id")?;
    (described != u32::MAX && named != u64::from(described)).then(|| {
        Problem::own(
            "dev-info.other-device",
            format!(
                "cmd.dev_id, bytes 48 to 51, is {named}, and dev_id, bytes 12 to 15 of the device info, is {described}"
            ),
            "send the dev_id that ADD_DEV wrote into its buffer",
        )
    })
}

/// Bytes for the diagnosis: for those that differ from run to run such as an address, a process or a descriptor has.
fn filled(bytes: &[Option<u8>]) -> Vec<u8> {
    /// How many low bytes of it are zero: it begins a page.
    const ALIGNED: usize = 2;
    let mut unknown = 0;
    let fill = |byte: &Option<u8>| match byte {
        Some(byte) => {
            unknown = 0;
            *byte
        }
        None => {
            unknown += 1;
            u8::from((unknown - 1) % 8 >= ALIGNED)
        }
    };
    bytes.iter().map(fill).collect()
}

/// Bytes as digits, `??` for one that differs from run to run.
fn hex(bytes: &[Option<u8>]) -> String {
    bytes.iter().map(|byte| byte.map_or_else(|| "??".to_owned(), |byte| format!("{byte:02x}"))).collect()
}

fn plural(count: usize, of: &str) -> String {
    if count == 1 { format!("1 {of}") } else { format!("{count} {of}s") }
}
