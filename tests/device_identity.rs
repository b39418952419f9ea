// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whose device it is: ids are used again, and names lead anywhere. What is not ours is left alone.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::mpsc;
use std::thread;

use harness::{nodes, quiet_device, serve};
use ublk::{Cache, Control, DeletedId, Device, DeviceId, Errno, Error, NewDevice, Params, Sectors, State, Stopped};

/// What a restarted server asks for: the same as before, id included.
fn device() -> NewDevice {
    quiet_device(8).id(DeviceId::new(77))
}

fn params() -> Params {
    Params::new(Sectors::new(2048), Cache::None)
}

fn state() -> State {
    Control::open().unwrap().info(DeviceId::new(77)).unwrap().state()
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_stopper_of_a_device_that_is_gone_leaves_its_successor_alone() {
    let first = Device::add(Control::open().unwrap(), &device(), &params()).unwrap();
    let mut stopper = first.stopper().unwrap();
    assert_eq!(first.delete(), Ok(DeletedId::Free));
    let second = serve(device(), params(), |request| request.complete()).unwrap();
    assert_eq!(stopper.stop(), Err(Error::Replaced { device: second.id() }));
    assert_eq!(state(), State::LIVE);
    assert_eq!(second.stop(), Ok(Stopped::Handle));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_device_that_somebody_else_deleted_leaves_its_successor_alone_when_it_is_dropped() {
    let mut first = Device::add(Control::open().unwrap(), &device(), &params()).unwrap();
    first.let_go();
    Control::open().unwrap().delete(DeviceId::new(77)).unwrap();
    let second = serve(device(), params(), |request| request.complete()).unwrap();
    drop(first);
    assert_eq!(state(), State::LIVE);
    assert_eq!(second.stop(), Ok(Stopped::Handle));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_device_that_was_let_go_and_deleted_leaves_its_successor_alone_when_it_is_stopped_or_started() {
    let mut first = Device::add(Control::open().unwrap(), &device(), &params()).unwrap();
    first.let_go();
    Control::open().unwrap().delete(DeviceId::new(77)).unwrap();
    let second = serve(device(), params(), |request| request.complete()).unwrap();
    let replaced = Error::Replaced { device: second.id() };
    assert_eq!(first.start(), Err(replaced));
    assert_eq!(first.stop(), Err(replaced));
    assert_eq!(first.begin_stop().map(drop), Err(replaced));
    assert_eq!(state(), State::LIVE);
    assert_eq!(second.stop(), Ok(Stopped::Handle));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_node_that_leads_to_another_device_is_refused_before_it_is_served() {
    // The buffers would be made for requests of 4 KiB, and the driver would write 1 MiB into them.
    let (large, small) = (DeviceId::new(85), DeviceId::new(87));
    let mut control = Control::open().unwrap();
    control.add(&quiet_device(4).id(large).max_io_bytes(1 << 20)).unwrap();
    let name = "/dev/ublkc87";
    symlink("/dev/ublkc85", name).unwrap();
    let added = Device::add(Control::open().unwrap(), &quiet_device(4).id(small).max_io_bytes(4096), &params());
    fs::remove_file(name).unwrap();
    assert_eq!(added.unwrap_err(), Error::WrongNode { device: small });
    assert!(control.info(small).is_err());
    assert_eq!(control.info(large).unwrap().state(), State::DEAD);
    control.delete(large).unwrap();

    // A file that is no device at all.
    fs::write(name, "not a device").unwrap();
    let added = Device::add(Control::open().unwrap(), &quiet_device(4).id(small), &params());
    fs::remove_file(name).unwrap();
    assert_eq!(added.unwrap_err(), Error::WrongNode { device: small });
    assert_eq!(nodes(), Vec::<String>::new());
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn whoever_waits_for_the_node_of_a_device_that_is_deleted_meanwhile_waits_no_longer() {
    // Links that lead nowhere are in the places of the nodes.
    let (kept, deleted) = (DeviceId::new(88), DeviceId::new(89));
    let mut control = Control::open().unwrap();
    let (says, heard) = mpsc::channel();
    thread::scope(|scope| {
        for id in [kept, deleted] {
            symlink("/dev/nowhere", format!("/dev/ublkc{id}")).unwrap();
            let says = says.clone();
            scope.spawn(move || {
                let added = Device::add(Control::open().unwrap(), &quiet_device(4).id(id), &params());
                says.send((id, added.map(drop))).unwrap();
            });
            while !harness::exists(&mut control, id) {
                thread::yield_now();
            }
        }
        control.delete(deleted).unwrap();
        // The one that began before waits as long as nodes may take.
        for id in [deleted, kept] {
            let nothing = Error::OpenCharDevice { device: id, errno: Errno::ENOENT };
            assert_eq!(heard.recv().unwrap(), (id, Err(nothing)));
            fs::remove_file(format!("/dev/ublkc{id}")).unwrap();
        }
    });
    assert!(!harness::exists(&mut control, kept));
}
