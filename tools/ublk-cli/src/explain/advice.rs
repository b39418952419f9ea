// SPDX-License-Identifier: MIT OR Apache-2.0
//! What to capture instead, where an input has no SQE in it.

use crate::explain::dump::{Dump, as_text};
use crate::explain::plural;

/// How gdb shows the entry that comes next.
const IN_GDB: &str = "in gdb, just before io_uring_enter, x/128bx at the entry that comes next, which is at the address of the array \
                      of SQEs plus 128 times (tail & ring_mask); in a ring without IORING_SETUP_SQE128 both are 64";

/// Why there is no SQE in an input, and what to capture instead.
pub(super) fn advice(input: &[u8], dump: &Dump) -> String {
    let Some(text) = as_text(input).filter(|text| !text.trim().is_empty()) else {
        return "the input is empty: an SQE has 64 or 128 bytes".to_owned();
    };
    let has = |words: &[&str]| text.lines().any(|line| words.iter().any(|word| line.contains(word)));
    if let Some(address) = text.lines().find_map(pointer) {
        return format!(
            "gdb printed where the entry is, and not what is in it: capture `x/128bx {address}` (x/64bx in a ring without \
             IORING_SETUP_SQE128)"
        );
    }
    if has(&["opcode = "]) {
        return format!(
            "gdb prints the fields of struct io_uring_sqe and their unions, and not the command, which is behind them. Capture \
             its bytes: {IN_GDB}"
        );
    }
    if has(&["io_uring_enter(", "io_uring_setup(", "io_uring_register("]) {
        return format!(
            "strace shows system calls, and an SQE is the argument of none: it is in memory that the process shares with the \
             kernel, of which io_uring_enter says only how many entries there are. Capture its bytes: {IN_GDB}; or have the program \
             print them"
        );
    }
    if has(&["io_uring_submit_req:", "io_uring_submit_sqe:", "io_uring_complete:", "io_uring_queue_async_work:"]) {
        return format!(
            "the kernel's tracepoints say which operation it was, and not the bytes of its entry. Capture those: {IN_GDB}"
        );
    }
    if has(&["Cannot access memory at address"]) {
        return "gdb could not read there: attach to the process that has the ring, and take the address of its mapping of the \
                entries (the offset of mmap is 0x10000000, IORING_OFF_SQES)"
            .to_owned();
    }
    let found = match (dump.longest_left_out, dump.malformed.as_ref()) {
        (_, Some(malformed)) => malformed.clone(),
        (0, None) => "it has no bytes".to_owned(),
        (count, None) => format!("it has no more than {} of them", plural(count, "byte")),
    };
    format!(
        "there is no SQE in the input, which would be 64 or 128 bytes that stand together: {found}; `ublkctl explain --help` names the shapes that are read"
    )
}

/// The address in `$1 = (struct io_uring_sqe *) 0x7ffff7fbd000`.
fn pointer(line: &str) -> Option<&str> {
    let (_, address) = line.split_once("io_uring_sqe *) 0x")?;
    let digits = address.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(address.len());
    let from = line.len() - address.len() - 2;
    line.get(from..from + 2 + digits)
}
