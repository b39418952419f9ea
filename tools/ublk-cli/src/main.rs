// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ublkctl`: chooses the command, and hands its exit status on.

use std::process::ExitCode;

use ublk_cli::{arguments, devices, doctor, explain};

/// A panic says where it was, and not how it got there: without the code that looks that up, the program is a fifth smaller
/// (`cargo xtask sizes`).
#[cfg(no_backtrace)]
#[expect(unsafe_code, reason = "takes the place of the unwinder's function")]
mod no_backtrace {
    use core::ffi::{c_int, c_void};

    const URC_END_OF_STACK: c_int = 5;

    // SAFETY: it does what the C ABI of this function allows it to do on any stack: to find no frame.
    #[unsafe(no_mangle)]
    extern "C" fn _Unwind_Backtrace(_: *const c_void, _: *mut c_void) -> c_int {
        URC_END_OF_STACK
    }
}

fn main() -> ExitCode {
    // Ends here with status 2 where the arguments are wrong.
    let matches = arguments::command().get_matches();
    let (status, command) = match matches.subcommand() {
        Some(("explain", matches)) => (explain::run(matches), "explain"),
        Some(("doctor", matches)) => (doctor::run(matches), "doctor"),
        Some((command, matches)) => (devices::run(command, matches), command),
        None => return ExitCode::from(2),
    };
    match status {
        Ok(status) => ExitCode::from(status),
        // Who reads us has read enough: `ublkctl list | head -1`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write;
            // Where even that cannot be written, the status says it.
            let _ = writeln!(std::io::stderr(), "ublkctl {command}: {error}");
            ExitCode::from(2)
        }
    }
}
