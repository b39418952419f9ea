// SPDX-License-Identifier: MIT OR Apache-2.0
//! The features of a real driver: the releases that `ublk-sys` says they came with, and which go together.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test ends where something is wrong")]

#[path = "goldens/commands.rs"]
mod commands;
#[path = "goldens/golden.rs"]
mod golden;
mod harness;
#[allow(dead_code, unreachable_pub, reason = "threads that may do less are all that is used of it")]
#[path = "provoke/machine.rs"]
mod machine;
#[path = "goldens/sender.rs"]
mod sender;

use std::collections::BTreeSet;
use std::fs;
use std::thread;

use commands::{ID, PATH, Run};
use harness::nodes;
use machine::drop_capabilities;
use sender::Accepted;
use ublk::{Control, DeviceId, Error, Features, NewDevice, mode};

/// `6.12.9-amd64` is 6.12.
fn release(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_driver_has_each_feature_that_is_not_younger_than_it_and_no_other() {
    let running = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let offered = Control::open().unwrap().features().unwrap();
    // `cargo xtask abi` reads this line.
    println!("\nfeatures {:#x}", offered.bits());

    let mut expected = Features::NONE;
    for bit in 0..u64::BITS {
        let feature = Features::from_bits(1 << bit);
        if feature.since().is_some_and(|since| release(since) <= release(&running)) {
            expected = expected | feature;
        }
    }
    // What came with a newer Linux than the mirror's has no name here.
    let unknown = release(&running) > release(ublk_sys::layout::LINUX);
    assert!(offered == expected || unknown && offered.contains(expected), "{running}: {offered}, not {expected}");
}

// Which features go together.

/// What the driver made of features that were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// A device that has them all.
    Taken,
    /// A device without these, and success as the answer.
    Dropped(Features),
    /// No device.
    Refused,
}

/// Asks the driver itself, by the bytes of a golden that are not looked at before; deletes what it adds.
fn ask_driver(control: &mut sender::Control, features: Features) -> Answer {
    let mut sent = control.build("UBLK_U_CMD_ADD_DEV", Run::default());
    sent.buffer[24..32].copy_from_slice(&features.bits().to_ne_bytes());
    sent.buffer[6..8].copy_from_slice(&24_u16.to_ne_bytes());
    match control.send(&sent) {
        0 => {}
        refused => {
            assert_eq!(refused, -libc::EINVAL, "{features}");
            return Answer::Refused;
        }
    }
    let given = Features::from_bits(u64::from_ne_bytes(sent.buffer[24..32].try_into().unwrap()));
    // An unprivileged device wants the path of its node, and others do not look at it.
    let path = [PATH.as_bytes(), &[0]].concat();
    let len = u16::try_from(path.len()).unwrap().to_ne_bytes();
    let delete = control.build("UBLK_U_CMD_DEL_DEV", Run::default()).with(54, &len).with(72, &len);
    let address = u64::try_from(path.as_ptr().addr()).unwrap();
    assert_eq!(control.send(&delete.with(56, &address.to_ne_bytes())), 0, "{features}");
    let dropped = features.without(given);
    if dropped.is_empty() { Answer::Taken } else { Answer::Dropped(dropped) }
}

/// The features that say how data travels.
const MODES: [Features; 4] =
    [Features::SUPPORT_ZERO_COPY, Features::NEED_GET_DATA, Features::USER_COPY, Features::AUTO_BUF_REG];

/// Those of `features` that say how data travels.
fn mode_of(features: Features) -> Features {
    MODES.into_iter().filter(|mode| features.contains(*mode)).fold(Features::NONE, |all, mode| all | mode)
}

/// Whether there is a mode with just these features.
fn is_a_mode(features: Features) -> bool {
    let with_user_copy = |feature| feature | Features::USER_COPY;
    let modes = [
        Features::NONE,
        Features::NEED_GET_DATA,
        Features::USER_COPY,
        with_user_copy(Features::SUPPORT_ZERO_COPY),
        with_user_copy(Features::AUTO_BUF_REG),
    ];
    modes.contains(&mode_of(features))
}

/// Asks the crate, in the mode that these features say, if there is one; deletes what it adds.
fn ask_crate(control: &mut Control, features: Features) -> Result<(), Error> {
    let id = DeviceId::new(ID);
    let (mode, others) = (mode_of(features), features.without(mode_of(features)));
    let device = NewDevice::new().id(id).depth(4).features(others);
    if mode == Features::NEED_GET_DATA {
        control.add(&device.mode::<mode::GetData>())?;
    } else if mode == Features::USER_COPY {
        control.add(&device.mode::<mode::UserCopy>())?;
    } else if mode == Features::SUPPORT_ZERO_COPY | Features::USER_COPY {
        control.add(&device.mode::<mode::ZeroCopy>())?;
    } else if mode == Features::AUTO_BUF_REG | Features::USER_COPY {
        control.add(&device.mode::<mode::AutoRegister>())?;
    } else {
        control.add(&device.features(features))?;
    }
    control.delete(id)
}

/// Each feature alone, and each two, with `base` too.
fn singles_and_pairs(base: Features) -> BTreeSet<u64> {
    let known: Vec<Features> = Features::KNOWN.iter().map(|(feature, _)| *feature).collect();
    known.iter().flat_map(|one| known.iter().map(|other| (base | *one | *other).bits())).collect()
}

/// What Linux 6.12 takes from everybody without any effect, and newer ones refuse.
fn is_lenient(offered: Features, features: Features) -> bool {
    let recovery = Features::USER_RECOVERY;
    let without_recovery = features.contains(Features::USER_RECOVERY_REISSUE) && !features.contains(recovery);
    let unprivileged = features.contains(Features::UNPRIVILEGED_DEV | recovery);
    !offered.contains(Features::USER_RECOVERY_FAIL_IO) && (without_recovery || unprivileged)
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_crate_refuses_each_pair_of_features_that_the_driver_refuses_or_drops_and_no_other_slow() {
    let mut raw = sender::Control::open(&Accepted::default());
    let mut control = Control::open().unwrap();
    let offered = control.features().unwrap();
    let running = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let (mut asked, mut taken, mut dropped, mut refused, mut lenient, mut no_mode) = (0, 0, 0, 0, 0, 0);
    let mut wrong = Vec::new();
    // With these two more go together than alone.
    let bases = [Features::NONE, Features::USER_RECOVERY, Features::USER_COPY];
    let combinations: BTreeSet<u64> = bases.into_iter().flat_map(singles_and_pairs).collect();
    for features in combinations.into_iter().map(Features::from_bits) {
        let answer = ask_driver(&mut raw, features);
        let said = ask_crate(&mut control, features);
        asked += 1;
        match answer {
            Answer::Taken => taken += 1,
            Answer::Dropped(_) => dropped += 1,
            Answer::Refused => refused += 1,
        }
        let missing = features.without(offered);
        let agree = match said {
            Ok(()) => answer == Answer::Taken,
            // No mode has just these: two of the modes, or one of those that have user copy beside them without it.
            Err(Error::Invalid { what }) if !is_a_mode(features) && features.conflict() != Some(what) => {
                no_mode += 1;
                what.contains("NewDevice::mode") || features.contains(Features::UNPRIVILEGED_DEV)
            }
            // By name, and before anything was sent: with the rule that is broken, or because the crate serves none.
            Err(Error::Invalid { what }) if answer == Answer::Taken => {
                lenient += 1;
                is_lenient(offered, features) && features.conflict() == Some(what)
            }
            Err(Error::Invalid { what }) => {
                features.conflict() == Some(what) || features.contains(Features::UNPRIVILEGED_DEV)
            }
            // What the driver does not have: named with the Linux that has it.
            Err(Error::Unsupported { missing: named, offered: given }) => {
                let newer = |(feature, _): &(Features, &str)| release(feature.since().unwrap()) > release(&running);
                let named_ones = || Features::KNOWN.iter().filter(|(feature, _)| named.contains(*feature));
                named == missing && given == offered && !missing.is_empty() && named_ones().all(newer)
            }
            Err(_) => false,
        };
        if !agree {
            wrong.push(format!("{features}: the driver {answer:?}, the crate {said:?}"));
        }
    }
    println!(
        "figure: features asked for together: {asked}, taken {taken}, dropped {dropped}, refused {refused}, \
         taken by the driver and refused by name {lenient}, of no mode {no_mode}"
    );
    assert!(wrong.is_empty(), "{} of {asked}\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_an_unprivileged_device_cannot_have_is_what_the_driver_refuses_or_drops() {
    let offered = Control::open().unwrap().features().unwrap();
    let told = thread::spawn(|| {
        drop_capabilities();
        let mut raw = sender::Control::open(&Accepted::default());
        let combinations = singles_and_pairs(Features::UNPRIVILEGED_DEV).into_iter().map(Features::from_bits);
        combinations.map(|features| (features, ask_driver(&mut raw, features))).collect::<Vec<_>>()
    });
    let mut taken = 0;
    let mut wrong = Vec::new();
    let told = told.join().unwrap();
    for (features, answer) in &told {
        let conflict = features.conflict();
        let missing = features.without(offered);
        let agree = match (answer, conflict) {
            (Answer::Taken, None) => missing.is_empty(),
            (Answer::Taken, Some(_)) => is_lenient(offered, *features),
            (Answer::Dropped(dropped), None) => *dropped == missing,
            (Answer::Refused, None) => false,
            (_, Some(_)) => true,
        };
        taken += u32::from(*answer == Answer::Taken);
        if !agree {
            wrong.push(format!("{features}: the driver {answer:?}, the crate {conflict:?}"));
        }
    }
    println!("figure: features of unprivileged devices asked for together: {}, taken {taken}", told.len());
    assert!(wrong.is_empty(), "{} of {}\n{}", wrong.len(), told.len(), wrong.join("\n"));
    assert_eq!(nodes(), [""; 0]);
}
