// SPDX-License-Identifier: MIT OR Apache-2.0
//! The whole command line of `ublkctl`.
//!
//! The manual page and the completions are made from it (`examples/pages.rs`), so what is said here is said once.

use clap::{Arg, ArgAction, Command, value_parser};

/// `ublkctl` with every command.
#[must_use]
pub fn command() -> Command {
    Command::new("ublkctl")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Explains what the ublk driver refuses, looks at ublk devices, and makes them")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommands([explain(), doctor(), features(), list(), info(), params(), stop(), delete(), add()])
}

fn explain() -> Command {
    Command::new("explain")
        .about("Says what the bytes of an SQE mean to the kernel, and what is wrong with them")
        .long_about(
            "Says what the bytes of submission queue entries (SQEs) mean to io_uring and to the ublk driver: every \
             field by name, the command it comes to, and what is wrong with it, the likeliest first.\n\n\
             The bytes are read as people have them: xxd, xxd -p, hexdump -C, hexdump, od -An -tx1, gdb's x/128bx, \
             x/32wx, x/16gx and p/x, a Go or Rust debug print of a byte array, a golden of this project, plain hex, \
             or the raw bytes. One input may hold many SQEs of 64 or 128 bytes; a blank line, a line of text, or an \
             address that does not go on ends one. Text after # or // is not read.",
        )
        .after_long_help(
            "Exit status: 0 where the bytes are right, 1 where something is wrong, 2 where the input holds no SQE; of \
             several SQEs the worst.\n\n\
             With --against, what names one run is expected to differ: fd, user_data, device, queue and tag numbers, \
             pids and addresses, where both are zero or neither is; and sizes and values that are the caller's choice. \
             What says which command it is, and what must be zero, must not differ. Bytes that the golden has as ?? \
             are free.\n\n\
             With --json, an array with one object for each SQE: {bytes, fields: [{name, offset, len, value}], causes: \
             [{id, text, function, errno, remedy, certain}]}. The ids are stable. Colour is used on a terminal only, \
             and not with NO_COLOR.",
        )
        .args([
            Arg::new("FILE")
                .help("File with the bytes; - or nothing: standard input")
                .value_parser(value_parser!(std::path::PathBuf)),
            hex("dev-info", "The struct ublksrv_ctrl_dev_info that the command points to"),
            hex("params", "The struct ublk_params that the command points to"),
            hex("io-cmd", "The 16 bytes of a struct ublksrv_io_cmd alone; a FETCH_REQ is put around it"),
            Arg::new("errno")
                .long("errno")
                .value_name("N")
                .allow_hyphen_values(true)
                .help("The result that came back: 22, -22, EINVAL; only its causes are given"),
            Arg::new("against")
                .long("against")
                .value_name("GOLDEN")
                .help("Compares with a golden: a file, or the name of a command, such as ADD_DEV"),
            json(),
        ])
}

fn doctor() -> Command {
    Command::new("doctor")
        .about("Says what stands between this machine and a working device")
        .long_about(
            "Looks at the driver, its module parameters, the kernel's configuration, io_uring, seccomp, capabilities, \
             namespaces, limits, device nodes, udev and stale devices, then makes and removes a small null device step \
             by step.\n\nExit status: 0 where this machine is healthy, 1 where it is not.",
        )
        .arg(json())
}

fn features() -> Command {
    Command::new("features").about("Lists the driver's features, with the first Linux of each").arg(json())
}

fn list() -> Command {
    Command::new("list").about("Lists the devices of this machine").arg(json())
}

fn info() -> Command {
    Command::new("info").about("Shows what the driver says of a device").args([id(), json()])
}

fn params() -> Command {
    Command::new("params").about("Shows the parameters of a device").args([id(), json()])
}

fn stop() -> Command {
    Command::new("stop").about("Stops a device: its disk goes, its number stays").arg(id())
}

fn delete() -> Command {
    Command::new("delete").about("Deletes a device, after stopping it").arg(id())
}

fn add() -> Command {
    Command::new("add")
        .about("Makes a device and serves it in the foreground, until SIGINT or SIGTERM")
        .arg(
            Arg::new("TARGET")
                .required(true)
                .value_parser(["null", "ram"])
                // The help names them, each with what it does.
                .hide_possible_values(true)
                .help("null: reads give zeroes, writes are forgotten; ram: memory"),
        )
        .arg(
            Arg::new("size")
                .long("size")
                .value_name("MIB")
                .value_parser(value_parser!(u64).range(1..=1 << 30))
                .default_value("64")
                .help("Size in MiB"),
        )
}

/// The device that a command is for.
fn id() -> Arg {
    Arg::new("ID").required(true).value_parser(value_parser!(u32)).help("Number of the device: N of /dev/ublkcN")
}

/// Where a script would read.
fn json() -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help("Prints JSON")
}

fn hex(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("HEX").help(help).long_help(format!("{help}: hex, or @FILE"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        super::command().debug_assert();
    }
}
