// SPDX-License-Identifier: MIT OR Apache-2.0
//! An entry's numbers.

use ublk::diagnosis::Sqe;

use crate::explain::fields::{self, Cmd, Field};
use crate::explain::filled;

/// An entry for the diagnosis, with something fair for what differs from run to run.
pub(super) fn sqe_of(bytes: &[Option<u8>]) -> Option<Sqe> {
    Sqe::from_bytes(&filled(bytes))
}

/// What the fields of the buffer depend on.
pub(super) fn cmd_of(sqe: &Sqe) -> Cmd {
    let number = |name: &str| value(sqe, name).unwrap_or(0);
    let small = |name: &str| u16::try_from(number(name)).unwrap_or(u16::MAX);
    Cmd {
        len: small("cmd.len"),
        path_len: small("cmd.dev_path_len"),
        nr_elem: small("cmd.nr_elem"),
        elem_bytes: u8::try_from(number("cmd.elem_bytes")).unwrap_or(u8::MAX),
    }
}

/// The value of an entry's field, if it has one of that name.
pub(super) fn value(sqe: &Sqe, name: &str) -> Option<u64> {
    let bytes: Vec<Option<u8>> = sqe.as_bytes().iter().copied().map(Some).collect();
    let all = fields::of_entry(sqe.command(), is_io(sqe), bytes.len());
    let field: &Field = all.iter().find(|field| field.name == name)?;
    field.value(&bytes)
}

/// Whether it is an I/O command, or as far as its number tells meant as one.
pub(super) fn is_io(sqe: &Sqe) -> bool {
    match sqe.command() {
        Some(command) => command.is_io(),
        // The driver's control commands end before 0x20, where those for I/O start.
        None => sqe.cmd_op().to_le_bytes().first().is_some_and(|number| *number >= 0x20),
    }
}
