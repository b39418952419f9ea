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
        .subcommands([
            explain(),
            doctor(),
            features(),
            list(),
            info(),
            params(),
            stop(),
            delete(),
            collect(),
            resize(),
            quiesce(),
            udev_owner(),
            add(),
        ])
}

fn explain() -> Command {
    Command::new("explain")
        .about("Says what the bytes of an SQE mean to the kernel, and what is wrong with them")
        .long_about(
            "Says what the bytes of submission queue entries (SQEs) mean to io_uring and to the ublk driver: every \
             field by name, the command it comes to, and what is wrong with it, the likeliest first.\n\n\
             The bytes are read as people have them: xxd, xxd -p, hexdump -C, hexdump, od -An -tx1, gdb's x/128bx, \
             x/32wx, x/16gx and p/x, a Go or Rust debug print of a byte array, an initializer of C, Go or Rust, a \
             golden of this project, plain hex, or the raw bytes. One input may hold up to 4096 SQEs of 64 or 128 bytes; a \
             blank line, a line of text, or an address that does not go on ends one, and a * is what it stands for. \
             Text after # or // is not read. Numbers of several bytes are those of this machine's byte order.\n\n\
             With --dev-info or --params an SQE is explained with what it points to, and as one for that device. \
             Without an SQE, which is without FILE and with a standard input that is a terminal or nothing, they are \
             explained alone: as ADD_DEV and SET_PARAMS read them.",
        )
        .after_long_help(
            "Exit status: 0 where the bytes are right, 1 where something is wrong, which with --errno it is, 2 where \
             something in the input is no SQE, or the arguments are wrong; of several SQEs the worst.\n\n\
             With --against, what must not differ is what says which command it is, and what must be zero. What names \
             one run may: fd, user_data, device, queue and tag numbers; and values that are the caller's choice, or \
             that the kernel does not read. Processes, addresses and sizes may differ as long as both are zero or \
             neither is. A byte that the golden has as ?? is free, but in an address.\n\n\
             With --json, an array with one object for each SQE: {bytes, line, command, meaning, fields: [{name, offset, \
             len, value}], causes: [{id, text, function, errno, remedy, certain}], buffer: {bytes, fields}, against: \
             {golden, differences: [{part, field, offset, golden, here, expected}]}}. The ids are stable; a value is a \
             number, of more than 8 bytes an array of them, and null where the input has ??. What is no SQE is said on \
             standard error. Colour is used on a terminal only, and not with NO_COLOR.",
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
            "Looks at the driver, its module parameters, the kernel's configuration, device nodes, io_uring, seccomp, \
             security modules, capabilities, namespaces, limits, udev and devices that nobody serves. Then it makes a \
             null device of one queue and one tag, reads a block of it, and removes it again, step by step, and shows \
             of each step what was sent, what came back, and how long it took.",
        )
        .after_long_help(
            "Exit status: 0 where this machine is healthy, 1 where it is not, 2 where the arguments are wrong.\n\n\
             With --json, an object: {healthy, release, causes: [{id, text, remedy, function, certain}], checks: [{id, \
             verdict, seen, cause}], steps: [{name, ok, microseconds, seen, command, header, buffer, error, cause}]}. \
             The likeliest cause of the first problem stands first; a verdict is ok, problem or unknown; what could \
             not be found out does not make a machine unhealthy. The ids are stable.\n\n\
             Every step waits for 10 seconds at most, and whatever step fails, the device is deleted.",
        )
        .args([
            Arg::new("dry-run").long("dry-run").action(ArgAction::SetTrue).help("Looks, and makes no device"),
            json(),
        ])
}

fn features() -> Command {
    Command::new("features")
        .about("Lists the driver's features and commands, with the first Linux of each")
        .long_about(
            "Lists every feature that this program knows, with the first Linux that has it, and whether this driver has \
             it; bits that it does not know; and which commands the driver has, as far as its features and the kernel's \
             release tell. No command is sent to find out but GET_FEATURES.",
        )
        .after_long_help(
            "Exit status: 0, or 1 where the driver could not be asked.\n\n\
             With --json, an object: {release, bits, features: [{name, bit, since, offered}], unknown: [bit], commands: \
             [{name, number, since, offered}]}.",
        )
        .arg(json())
}

fn list() -> Command {
    Command::new("list")
        .about("Lists the devices of this machine")
        .long_about(
            "Lists the devices of this machine: state, queues and depth, the process that serves each, size and features.\n\n\
             A device is stale where its state is DEAD and no process has its char device open or mapped. That is looked \
             up in /proc, because opening the char device would take it from a server that is about to. It takes root and \
             the initial pid namespace to see every process; else a device without a server is listed as unknown. A device \
             that was added this moment looks stale until its server has opened it.",
        )
        .after_long_help(
            "Exit status: 0, or 1 where the driver could not be asked. A device that refuses is listed with the reason.\n\n\
             With --json, an array: [{id, char_device, block_device, state, queues, depth, server, server_alive, holders, \
             stale, size_bytes, flags, features, error}]; what is not known is null.",
        )
        .arg(json())
}

fn info() -> Command {
    Command::new("info")
        .about("Shows what the driver says of a device (GET_DEV_INFO)")
        .after_long_help(
            "Exit status: 0, or 1 where the driver refused.\n\nWith --json, an object with the fields of struct \
             ublksrv_ctrl_dev_info by their C names, and state_name and features.",
        )
        .args([id(), json()])
}

fn params() -> Command {
    Command::new("params")
        .about("Shows the parameters of a device (GET_PARAMS)")
        .after_long_help(
            "Exit status: 0, or 1 where the driver refused.\n\nWith --json, an object with the fields of struct \
             ublk_params by their C names; a part whose bit is not in types is null.",
        )
        .args([id(), json()])
}

fn stop() -> Command {
    Command::new("stop")
        .about("Stops a device: its disk goes, its number stays")
        .long_about(
            "Stops a device whose disk nobody has open: the disk /dev/ublkbN goes, its number and its char device stay. What \
             was written is written back first, so its server has to serve on meanwhile: what that cannot be done for, or not in time, is \
             left alone.\n\n\
             Whether the disk is open is the driver's to say from Linux 7.0 on. Before, the disk is opened exclusively, which \
             tells of a mounted file system and not of a program that reads or writes; a disk that waits for its next server is then \
             left alone.\n\n\
             With --force it is stopped all the same, and standard error says what was given up.",
        )
        .after_long_help(STOPPING)
        .args([id(), force(), timeout()])
}

fn delete() -> Command {
    Command::new("delete")
        .about("Deletes a device, after stopping it")
        .long_about(
            "Stops a device as stop does, if it has a disk, deletes it, and waits until its number is free: until nobody has its \
             char device or its disk open any more.",
        )
        .after_long_help(STOPPING)
        .args([id(), force(), timeout()])
}

fn force() -> Arg {
    Arg::new("force")
        .long("force")
        .action(ArgAction::SetTrue)
        .help("Also where somebody has the disk open, or what was written cannot be written back")
}

fn collect() -> Command {
    Command::new("collect")
        .about("Deletes the devices that nobody serves any more")
        .long_about(
            "Deletes the devices whose server is gone, all or those of the given numbers. Whether a server is gone is told by \
             opening the device's char device, which one process can have at a time: twice, a second apart, so that a device \
             which is just being added is left alone. A device that waits for its next server is left too, with its disk and \
             its clients, unless --recoverable is given.",
        )
        .after_long_help(
            "Exit status: 0, or 1 where something could not be looked at or deleted.\n\nWith --json, an array of {id, state, \
             deleted, number_free}.",
        )
        .args([
            Arg::new("ID").help("Number of a device: N of /dev/ublkcN").num_args(0..).value_parser(value_parser!(u32)),
            Arg::new("recoverable")
                .long("recoverable")
                .action(ArgAction::SetTrue)
                .help("Also those that wait for their next server"),
            json(),
        ])
}

fn resize() -> Command {
    Command::new("resize")
        .about("Gives a live disk another size (UPDATE_SIZE, Linux 6.16)")
        .long_about(
            "Gives the disk of a live device another size. What serves it has to be ready for that before: the driver only \
             tells the clients.",
        )
        .after_long_help("Exit status: 0, or 1 where it was refused; the reason stands on standard error.")
        .args([
            id(),
            Arg::new("SIZE")
                .required(true)
                .value_parser(size)
                .help("Size of the disk: bytes, or with K, M, G or T; whole logical blocks"),
            timeout(),
        ])
}

fn quiesce() -> Command {
    Command::new("quiesce")
        .about("Has a device's server let go of it (QUIESCE_DEV, Linux 6.16)")
        .long_about(
            "Has the driver take no further requests to the server of a device that was added with UBLK_F_QUIESCE, and end its \
             idle fetches. The driver tells a server nothing of a tag that it owns just then: it is asked again until the server has \
             let go. The device then waits for its next server, and clients wait with it.",
        )
        .after_long_help(
            "Exit status: 0 when the server has let go, or 1 where the driver refused, or the server has not let go in time; the \
             reason stands on standard error. A device whose server has not let go stays quiesced: clients wait, until the \
             server ends or this is called again and succeeds.",
        )
        .args([id(), timeout()])
}

fn udev_owner() -> Command {
    Command::new("udev-owner")
        .about("Gives a node of an unprivileged device to the user who added it: for a rule of udev's")
        .long_about(
            "Opens NODE, without following a link, asks the driver which device has the numbers of the open file, and gives \
             that file to the user and group who added the device, if it is an unprivileged one (UBLK_F_UNPRIVILEGED_DEV). Any \
             other node, whatever its name, is left alone. It is run by root, by udev: 61-ublk-owner.rules, beside this \
             program's source, is such a rule.",
        )
        .after_long_help(
            "Exit status: 0, also where there was nothing to do; 1 where NODE is no device, or the driver or the node \
             refused, with the reason on standard error.",
        )
        .arg(Arg::new("NODE").required(true).value_parser(value_parser!(std::path::PathBuf)).help("/dev/ublkcN or /dev/ublkbN"))
}

const STOPPING: &str = "\
Exit status: 0, or 1 where the driver refused or did not answer in time; the reason stands on standard error. There is no device \
of that number: 1.

A command that was not answered in time may still be done. Where the server sits on a request, this process ends only when the \
server answers it or lets go.";

fn add() -> Command {
    let number = |name: &'static str, value, help: &'static str| Arg::new(name).long(name).value_name(value).help(help);
    Command::new("add")
        .about("Makes a device and serves it in the foreground, until SIGINT or SIGTERM")
        .long_about(
            "Makes a device and serves it in the foreground, until SIGINT or SIGTERM (the first ends it when nobody has the disk \
             open, the second at once), or until it is stopped from outside. \
             Then it is deleted. When the disk can be used, its path is printed on standard output.",
        )
        .after_long_help(
            "Exit status: 0 after it was stopped, by a signal or from outside; 1 where the device could not be made or \
             served, with the reason on standard error; 2 where the arguments are wrong.\n\n\
             With --json, one line when the disk can be used: {id, block_device, char_device, pid, queues, depth, \
             size_bytes}; and one at the end: {id, stopped}.",
        )
        .args([
            Arg::new("TARGET").required(true).value_parser(["null", "ram"]).hide_possible_values(true).help(
                "null: reads give zeroes, writes are forgotten; ram: memory, of which only what was written is taken",
            ),
            number("size", "BYTES", "Size of the disk: bytes, or with K, M, G or T")
                .value_parser(size)
                .default_value("256M"),
            number("queues", "N", "Queues, a thread for each").value_parser(value_parser!(u16)).default_value("1"),
            number("depth", "N", "Requests that a queue holds at once")
                .value_parser(value_parser!(u16))
                .default_value("128"),
            number("id", "N", "Be /dev/ublkbN; else the driver chooses").value_parser(value_parser!(u32)),
            number("block-size", "BYTES", "Logical block: 512, 1024, 2048 or 4096")
                .value_parser(value_parser!(u32))
                .default_value("512"),
            Arg::new("read-only").long("read-only").action(ArgAction::SetTrue).help("Refuses writes"),
            json(),
        ])
}

/// How long a command may take.
fn timeout() -> Arg {
    Arg::new("timeout")
        .long("timeout")
        .value_name("SECONDS")
        .value_parser(value_parser!(u32).range(1..))
        .default_value("30")
        .help("Gives up after this time")
}

/// The size of a disk: a whole number of sectors, in bytes, or with K, M, G or T behind it for powers of 1024.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let factor: u64 = match text.strip_prefix(digits).unwrap_or_default().to_ascii_uppercase().as_str() {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        _ => return Err("a size is a number of bytes, or has K, M, G or T behind it".to_owned()),
    };
    let number = digits.parse::<u64>().map_err(|_| "a size is a whole number".to_owned())?;
    let bytes = number.checked_mul(factor).ok_or_else(|| "a disk has below 2^64 bytes".to_owned())?;
    if bytes == 0 || bytes % 512 != 0 {
        return Err("a disk is a whole number of sectors of 512 bytes, and not empty".to_owned());
    }
    Ok(bytes)
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

    #[test]
    fn a_size_is_a_whole_number_of_sectors_with_a_unit_or_none() {
        assert_eq!(super::size("512"), Ok(512));
        assert_eq!(super::size("3k"), Ok(3072));
        assert_eq!(super::size("2T"), Ok(2 << 40));
        for wrong in ["", "0", "M", "511", "-512", "1KK", "1.5M", "1Q", "99999999999T"] {
            assert!(super::size(wrong).is_err(), "{wrong}");
        }
    }
}
