// SPDX-License-Identifier: MIT OR Apache-2.0
//! What there is to say of one SQE, or of one buffer alone, as text and as JSON.

use serde_json::{Value, json};
use ublk::{Command, DeviceId, Errno, Features};

use crate::explain::against::Difference;
use crate::explain::entry::place;
use crate::explain::fields::Field;
use crate::explain::meaning::{said_result, short, signed};
use crate::explain::problem::Problem;
use crate::explain::{Bytes, hex, opcode, plural};

/// One SQE with what it points to, or such a buffer alone.
#[derive(Clone, Debug)]
pub(super) struct Report {
    /// What the bytes are: `SQE`, or the C name of a struct.
    pub(super) of: &'static str,
    pub(super) line: usize,
    pub(super) command: Option<Command>,
    pub(super) part: Part,
    pub(super) buffer: Option<Part>,
    /// What the kernel makes of it.
    pub(super) meaning: String,
    pub(super) problems: Vec<Problem>,
    /// What came back, if that was said.
    pub(super) errno: Option<Errno>,
    pub(super) against: Option<Compared>,
}

/// Bytes and the names of their fields.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) bytes: Bytes,
    pub(super) fields: Vec<Field>,
}

/// What differs from a golden.
#[derive(Clone, Debug)]
pub(super) struct Compared {
    pub(super) with: String,
    pub(super) differences: Vec<Difference>,
}

/// How what is wrong and what is right is told apart on a terminal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    pub(super) is_on: bool,
}

impl Paint {
    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn red(self, text: &str) -> String {
        self.with("31;1", text)
    }

    fn green(self, text: &str) -> String {
        self.with("32;1", text)
    }

    fn with(self, style: &str, text: &str) -> String {
        if self.is_on { format!("\u{1b}[{style}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

impl Report {
    /// Whether something is wrong: with a result that came back, something was.
    pub(super) fn is_wrong(&self) -> bool {
        let differs = |compared: &Compared| compared.differences.iter().any(|difference| !difference.may);
        self.errno.is_some() || !self.problems.is_empty() || self.against.as_ref().is_some_and(differs)
    }

    pub(super) fn to_json(&self) -> Value {
        let fields = |part: &Part| part.fields.iter().map(|field| field_json(field, &part.bytes)).collect::<Vec<_>>();
        let against = self.against.as_ref().map(|compared| {
            let differences: Vec<Value> = compared.differences.iter().map(Difference::to_json).collect();
            json!({"golden": compared.with, "differences": differences})
        });
        json!({
            "bytes": hex(&self.part.bytes),
            "line": (self.line > 0).then_some(self.line),
            "command": self.command.and_then(Command::name),
            "meaning": self.meaning,
            "fields": fields(&self.part),
            "causes": self.problems.iter().map(Problem::to_json).collect::<Vec<_>>(),
            "buffer": self.buffer.as_ref().map(|buffer| json!({"bytes": hex(&buffer.bytes), "fields": fields(buffer)})),
            "against": against,
        })
    }

    pub(super) fn to_text(&self, paint: Paint) -> String {
        let from = if self.line > 0 { format!(", from {}", place(self.line)) } else { String::new() };
        let title = format!("{}: {}{from}", self.of, plural(self.part.bytes.len(), "byte"));
        let mut text = format!("{}\n", paint.bold(&title));
        text += &self.table(&self.part, false);
        if let Some(buffer) = &self.buffer {
            let title = format!("\nwhat it points to: {}", plural(buffer.bytes.len(), "byte"));
            text += &format!("{}\n{}", paint.bold(&title), self.table(buffer, true));
        }
        if let Some(compared) = &self.against {
            text += &compared.to_text(paint);
        }
        text += &format!("\nkernel: {}\n", self.meaning);
        if let Some(errno) = self.errno {
            text += &format!("result: -{errno}\n");
        }
        let (first, also) = match self.problems.first().map(|problem| problem.certain) {
            Some(true) => ("wrong:", "also: "),
            _ => ("maybe:", "or:   "),
        };
        for (index, problem) in self.problems.iter().enumerate() {
            let label = if index == 0 { paint.red(first) } else { paint.bold(also) };
            text += &format!("{label}  {}\n        to do: {}\n        ", problem.text, problem.remedy);
            text += problem.id;
            if let Some(function) = problem.function {
                text += &format!(", {function}()");
            }
            text += &match problem.errno {
                Some(errno) => format!(", -{errno}\n"),
                None => "\n".to_owned(),
            };
        }
        if self.problems.is_empty() {
            text += &match self.errno {
                Some(errno) => {
                    format!("{}  nothing that is known of gives {errno} to these bytes\n", paint.red("wrong:"))
                }
                None => format!("{}  nothing is wrong with these bytes\n", paint.green("right:")),
            };
        }
        text
    }

    fn table(&self, part: &Part, is_buffer: bool) -> String {
        let mut text = "    at bytes field                            value\n".to_owned();
        for field in &part.fields {
            let value = field.value(&part.bytes);
            let shown = match value {
                Some(value) if value < 256 => value.to_string(),
                Some(value) => format!("{value:#x}"),
                None => said_bytes(field.of(&part.bytes)),
            };
            let note = value.and_then(|value| self.note(&field.name, value, is_buffer));
            let note = note.map(|note| format!("  {note}")).unwrap_or_default();
            text += &format!("  {:4} {:5} {:32} {shown}{note}\n", field.offset, field.len, field.name);
        }
        text
    }

    /// A value in words, where it has some.
    fn note(&self, name: &str, value: u64, is_buffer: bool) -> Option<String> {
        let low = u32::try_from(value).unwrap_or(0);
        let is_entry = !is_buffer && self.of == "SQE";
        if !is_entry {
            return match name {
                "flags" if self.command != Some(Command::REG_BUF) && value != 0 => {
                    Some(Features::from_bits(value).to_string())
                }
                "dev_id" if low == u32::MAX => Some("the driver's choice".to_owned()),
                "ublksrv_pid" if low > 1 << 31 => Some(signed(low).to_string()),
                _ if name.ends_with(".result") && low > 1 << 31 => Some(said_result(signed(low))),
                _ => None,
            };
        }
        match name {
            "opcode" => Some(opcode::name(u8::try_from(value).ok()?).unwrap_or("none that Linux 7.3 has").to_owned()),
            "cmd_op" => self.command.map(|command| short(command).to_owned()),
            "ioprio" | "__pad1" | "personality" if value != 0 => Some("has to be 0".to_owned()),
            "addr" | "len" if value != 0 && !self.is_batch() => Some("not read by this command".to_owned()),
            "cmd.dev_id" if low == u32::MAX => Some("the driver's choice, or none".to_owned()),
            "cmd.queue_id" if value == 0xffff => Some("none".to_owned()),
            "cmd.result" if low > 1 << 31 => Some(said_result(signed(low))),
            "cmd.dev_id" => Some(format!("/dev/ublkc{}", DeviceId::new(low))),
            _ => None,
        }
    }

    fn is_batch(&self) -> bool {
        let all = [Command::PREP_IO_CMDS, Command::COMMIT_IO_CMDS];
        // With `UBLK_F_AUTO_BUF_REG` the address is read too, which the entry does not tell.
        let maybe = [Command::FETCH_REQ, Command::COMMIT_AND_FETCH_REQ];
        self.command.is_some_and(|command| all.contains(&command) || maybe.contains(&command))
    }
}

impl Compared {
    fn to_text(&self, paint: Paint) -> String {
        let mut text = format!("\n{}\n", paint.bold(&format!("against {}", self.with)));
        for difference in &self.differences {
            let at = if difference.is_in_buffer { "buffer byte" } else { "byte" };
            let may = if difference.may { "may differ" } else { "has to be the same" };
            let may = if difference.may { may.to_owned() } else { paint.red(may) };
            text += &format!("  {at} {}, {}: {may}\n", difference.offset, difference.field);
            text += &format!("    golden  {}\n", said_bytes(&difference.golden));
            text += &format!("    here    {}\n", said_bytes(&difference.here));
        }
        if self.differences.is_empty() {
            text += "  no byte differs\n";
        }
        text
    }
}

/// Bytes one by one, or that they are many of the same kind.
fn said_bytes(bytes: &[Option<u8>]) -> String {
    match bytes {
        [] => "(nothing)".to_owned(),
        [first, .., last] if bytes.len() > 16 && first == last && bytes.iter().all(|byte| byte == first) => {
            format!("{} times {}", bytes.len(), hex(&[*first]))
        }
        _ => bytes.iter().map(|byte| hex(&[*byte])).collect::<Vec<_>>().join(" "),
    }
}

/// A field with its value: a number, an array of them beyond 8 bytes, null where it differs from run to run.
fn field_json(field: &Field, bytes: &[Option<u8>]) -> Value {
    let value = match field.value(bytes) {
        Some(value) => json!(value),
        None => field.of(bytes).iter().copied().collect::<Option<Vec<u8>>>().map_or(Value::Null, |bytes| json!(bytes)),
    };
    json!({"name": field.name, "offset": field.offset, "len": field.len, "value": value})
}
