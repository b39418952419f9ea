// SPDX-License-Identifier: MIT OR Apache-2.0
//! The project's own commands, called as `cargo xtask COMMAND`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to its user")]

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

mod abi;
mod archive;
#[path = "../../../tests/chance/mod.rs"]
mod chance;
mod checks;
mod cpio;
mod demo;
mod failure;
mod fuzz;
mod guest_agent;
mod guest_btf;
mod guest_power;
mod guest_replay;
mod guest_report;
mod guest_tests;
mod headers;
mod initramfs;
mod kernel;
mod kvm;
mod libtest;
mod liburing;
mod machine;
mod machine_tests;
mod modules;
mod msrv;
mod musl;
mod orderings;
mod packages;
mod pages;
mod paths;
mod power;
mod replay;
mod sizes;
mod tally;
mod targets;
mod test;
mod tool;
mod torture;
mod vm;
mod workspace;
mod write_log;

const HELP: &str = "\
The project's own commands. Each fetches and builds what it needs, under target/.

cargo xtask demo [--here]
    Serves a RAM disk, makes a file system on it, copies the kernel's header files in, checks the file system, and
    compares every file: in a virtual machine, or with --here on this machine's own driver (it asks first).

cargo xtask test [--quick] [FILTER]
    Checks form, lints and documents, runs every test that can run here, and the ring and device tests in virtual
    machines; beside them it fuzzes for a minute. --quick: on one kernel, not with the oldest compiler, and no fuzzing.
    FILTER: only tests with that in their names.

cargo xtask abi [--record]
    Compares ublk-sys with the headers of every series that the archive has, as a C compiler reads them, with what the
    drivers of every kernel say that they can, and with the records of both in tests/abi/records. --record: writes the
    records, and the table in ABI.md, anew.

cargo xtask paths [--full] [--kernel SERIES]
    Has fio write, read, trim and verify over the examples loop and stripe in every way in which data can travel, makes file
    systems on loop, fills and checks them, and counts the syncs: in virtual machines with the oldest and the newest kernel,
    a row of a table for each. --full: each way with 1 and 4 queues, 1 and 64 requests at a time, and every file system.
    --kernel: on one of the kernels.

cargo xtask torture [--seed N] [--minutes N] [--kernel SERIES] [FILTER]
    Kills servers under load 200 times in each recovery that a kernel has, relieves them 100 times in each, has commands race over one
    device and one id thousands of times, makes and deletes 1,000 devices, has every system call of a server fail once with each
    errno, and counts what came of it: in virtual machines
    with the oldest and the newest kernel. It takes long. --seed: where chance starts; the clock says where not.
    --minutes: again and again, until so much time is over. FILTER: only tests with that in their names.

cargo xtask power [--cuts N] [--seed N] [--kernel SERIES]
    Cuts the power of a machine N times (50) while disks of loop are written in it, and compares what is there when it comes
    back with what was acknowledged: each write before a FLUSH, each write with FUA, each file that was fsynced. Where loop
    serves past the page cache the volatile cache is the device's behind it: what comes to that is logged, and N power cuts are
    replayed from the log. A disk whose FLUSH does nothing has to fail both.

cargo xtask orderings
    Checks the memory orderings of the ring and of the mailbox with loom, and that each is needed: weakened in a copy,
    it has to fail.

cargo xtask sizes
    Builds the null servers, with and without std, and ublkctl as static files, prints how large they are, and shows that
    the server without std can reach no panic.

cargo xtask pages
    Makes the manual page and the completions (bash, zsh, fish) of ublkctl from its own command line, in target/pages, and
    checks that they are whole.

cargo xtask fuzz [--seconds N]
    Gives arbitrary bytes to the diagnosis, for N seconds (60), and shows the input that makes it fail.

cargo xtask targets
    Checks the crates for machines of another kind (aarch64, s390x, armv7, i686), as far as the toolchain has them or rustup
    can add them: each compiles with every assertion of the mirror, or is refused in one sentence.

cargo xtask vm [OPTION]... [-- COMMAND [ARG]...]
    Boots a stock Debian kernel in a virtual machine and runs COMMAND there as root, with this project's release
    programs and examples and ublkctl on the PATH, and busybox for all else: --add brings this machine's own programs.
    Output and exit status are COMMAND's; 125 says that the machine failed.
    Without COMMAND: a shell, on a terminal.
    --kernel SERIES            the newest kernel of that series, such as 6.12; else the newest that the project lists
    --kernel host              this machine's own kernel
    --kernel-image FILE        a kernel of your own, with --modules FOLDER for its modules
    --smp N  --mem SIZE        processors (2) and memory (1G)
    --icount                   one processor whose clock counts instructions: timings repeat, and take long
    --timeout SECONDS          end COMMAND after that time (600) and show where it hangs
    --disk SIZE                an empty disk (/dev/vda, ...); may be repeated
    --add FILE[:GUESTPATH]     a file, a folder, or a program with its libraries; may be repeated
    --verbose                  show the guest's console on standard error
";

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let command = arguments.next().unwrap_or_default();
    let arguments: Vec<OsString> = arguments.collect();
    let (name, outcome) = match command.to_str().unwrap_or_default() {
        "vm" => ("xtask vm", vm::Wanted::parse(arguments).and_then(|wanted| vm::run(&wanted))),
        "demo" => ("xtask demo", demo::Wanted::parse(arguments).and_then(demo::run)),
        "test" => ("xtask test", test::Wanted::parse(arguments).and_then(|wanted| test::run(&wanted))),
        "abi" => ("xtask abi", abi::Wanted::parse(arguments).and_then(abi::run)),
        "orderings" => ("xtask orderings", orderings::run()),
        "targets" => ("xtask targets", targets::run()),
        "fuzz" => ("xtask fuzz", fuzz::Wanted::parse(arguments).and_then(|wanted| fuzz::run(&wanted))),
        "pages" => ("xtask pages", pages::run()),
        "paths" => ("xtask paths", paths::Wanted::parse(arguments).and_then(paths::run)),
        "torture" => ("xtask torture", torture::Wanted::parse(arguments).and_then(|wanted| torture::run(&wanted))),
        "power" => ("xtask power", power::Wanted::parse(arguments).and_then(|wanted| power::run(&wanted))),
        "sizes" => ("xtask sizes", sizes::run()),
        "guest-tests" => ("xtask guest-tests", guest_tests::run().map(|()| 0)),
        "guest-agent" => ("xtask guest-agent", guest_agent::run().map(|()| 0)),
        "guest-power" => ("xtask guest-power", guest_power::run(&arguments).map(|()| 0)),
        "guest-replay" => ("xtask guest-replay", guest_replay::run(&arguments).map(|()| 0)),
        "guest-btf" => ("xtask guest-btf", guest_btf::run().map(|()| 0)),
        "" | "help" | "--help" | "-h" => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        other => {
            eprintln!("xtask: there is no command {other}; `cargo xtask help` lists them");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            eprintln!("{name}: {failure}");
            ExitCode::from(vm::OWN_FAILURE)
        }
    }
}
