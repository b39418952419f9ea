// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk that is a file, by operations of the rings, in whatever mode.

use std::fs::File;

use ublk::mode::Mode;
use ublk::{Completed, Operation, Request, RingFile, Sectors};

use super::Aligned;
use super::backing::Backing;

/// A file of so many sectors, gone from its folder when it is open.
pub fn file(size: Sectors) -> File {
    let backing = Backing::new(size.bytes());
    let file = File::options().read(true).write(true).open(&backing.path).unwrap();
    drop(backing);
    file
}

/// A byte for each place of the disk, and another for each `seed`.
pub fn pattern(len: usize, offset: usize, seed: usize) -> Aligned {
    let mut bytes = Aligned::filled(len, 0);
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::try_from((offset + index + (offset + index) / 512 * 7 + seed * 13) % 251).unwrap();
    }
    bytes
}

/// Has the ring do what the request asks for.
pub fn begin<M: Mode>(file: RingFile, request: Request<'_, M>) {
    let len = usize::try_from(request.len_bytes()).unwrap();
    let (operation, offset) = (request.operation(), request.offset_bytes());
    let mut operations = request.operations();
    match operation {
        Operation::READ => operations.read(file, offset, 0..len).unwrap(),
        Operation::WRITE => operations.write(file, offset, 0..len).unwrap(),
        Operation::FLUSH => operations.fdatasync(file).unwrap(),
        other => panic!("{other:?} was not switched on"),
    }
    operations.submit();
}

/// Goes on where a transfer was short, or answers.
pub fn go_on<M: Mode>(file: RingFile, completed: Completed<'_, M>) {
    let rest = completed.rest();
    let moved = completed.results().next().unwrap();
    if completed.error().is_some() || rest.is_empty() || moved == Ok(0) {
        return completed.finish();
    }
    let request = completed.into_request();
    let (operation, offset) = (request.operation(), request.offset_bytes() + u64::try_from(rest.start).unwrap());
    let mut operations = request.operations();
    match operation {
        Operation::READ => operations.read(file, offset, rest).unwrap(),
        _ => operations.write(file, offset, rest).unwrap(),
    }
    operations.submit();
}
