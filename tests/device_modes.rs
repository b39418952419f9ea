// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every way in which the data of a request can travel, on a real driver; what an older one lacks is refused by name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]
#![allow(clippy::print_stdout, reason = "a test says what was refused and what was counted")]

mod harness;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use harness::file_target::{begin, file, go_on, pattern};
use harness::{Aligned, Served, nodes, serve, serve_events};
use ublk::mode::{self, Mode, UserCopied};
use ublk::{
    Cache, Control, Errno, Error, Event, Fd, NewDevice, Operation, Params, Request, RingFile, Sectors, Stopped,
};

const SECTORS: u64 = 16384;

fn params() -> Params {
    Params::new(Sectors::new(SECTORS), Cache::Volatile)
}

/// What `Device::add` says where this driver has no such mode; `None` where it has.
fn refusal<M: Mode>() -> Option<Error> {
    let before = nodes();
    let refused = serve(NewDevice::new().mode::<M>(), params(), |request| request.complete());
    match refused {
        Ok(served) => {
            served.stop().unwrap();
            None
        }
        Err(error) => {
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("since Linux 6."), "{text}");
            assert_eq!(nodes(), before, "nothing is left");
            println!("figure: refused: {text}");
            Some(error)
        }
    }
}

/// The answer of a disk that is a file: by operations of the ring, in whatever mode.
fn answer<M: Mode>(file: RingFile, event: Event<'_, M>) {
    match event {
        Event::Request(request) => begin(file, request),
        Event::Completed(completed) => go_on(file, completed),
    }
}

fn serve_file<M: Mode>(file: &File) -> Served {
    let owned = Mutex::new(Fd::from(OwnedFd::from(file.try_clone().unwrap())));
    let device = NewDevice::new().mode::<M>().operations(2).depth(16);
    serve_events(
        device,
        params(),
        move |queue| queue.register_file(&owned.lock().unwrap()),
        |file, event| answer(*file, event),
    )
    .unwrap()
}

/// Writes and reads of every size from a sector on, through a disk that is a file.
fn a_file_is_served<M: Mode>() {
    let file = file(Sectors::new(SECTORS));
    let served = serve_file::<M>(&file);
    let disk = served.open_direct();
    for (seed, (len, offset)) in
        [(512, 0), (4096, 4096), (1536, 512), (65536, 1 << 20), (512 << 10, 2 << 20), (1 << 20, 4 << 20)]
            .into_iter()
            .enumerate()
    {
        let (wanted, place) = (pattern(len, offset, seed), u64::try_from(offset).unwrap());
        disk.write_all_at(&wanted, place).unwrap();
        let mut stored = vec![0; len];
        file.read_exact_at(&mut stored, place).unwrap();
        assert!(stored == wanted[..], "what was written is in the file, {len} bytes at {offset}");
        let mut read = Aligned::filled(len, 0xee);
        disk.read_exact_at(&mut read, place).unwrap();
        assert!(read[..] == wanted[..], "and is read back, {len} bytes at {offset}");
    }
    disk.sync_data().unwrap();
    drop(disk);
    assert_eq!(served.stop(), Ok(Stopped::Handle));
}

/// The file ends within the disk: what is behind it reads as zeroes, and never as what the place of the data held before.
fn behind_the_end_of_the_file_are_zeroes<M: Mode>() {
    let file = file(Sectors::new(SECTORS));
    let served = serve_file::<M>(&file);
    let disk = served.open_direct();
    disk.write_all_at(&Aligned::filled(256 << 10, 0xaa), 0).unwrap();
    file.set_len(100_000).unwrap();
    let mut read = Aligned::filled(256 << 10, 0x55);
    disk.read_exact_at(&mut read, 0).unwrap();
    assert!(read[..100_000].iter().all(|byte| *byte == 0xaa));
    assert!(read[100_000..].iter().all(|byte| *byte == 0));
    drop(disk);
    served.stop().unwrap();
}

macro_rules! in_each_mode {
    ($($mode:ident: $served:ident, $ends:ident;)*) => {$(
        #[test]
        #[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
        fn $served() {
            if refusal::<mode::$mode>().is_none() {
                a_file_is_served::<mode::$mode>();
            }
        }

        #[test]
        #[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
        fn $ends() {
            if refusal::<mode::$mode>().is_none() {
                behind_the_end_of_the_file_are_zeroes::<mode::$mode>();
            }
        }
    )*};
}

in_each_mode! {
    Copy: a_file_is_served_in_copy_mode, behind_the_end_of_a_file_are_zeroes_in_copy_mode;
    GetData: a_file_is_served_in_chosen_buffers, behind_the_end_of_a_file_are_zeroes_in_chosen_buffers;
    UserCopy: a_file_is_served_in_user_copy, behind_the_end_of_a_file_are_zeroes_in_user_copy;
    ZeroCopy: a_file_is_served_in_zero_copy, behind_the_end_of_a_file_are_zeroes_in_zero_copy;
    AutoRegister: a_file_is_served_with_automatic_registration, behind_the_end_of_a_file_are_zeroes_with_automatic_registration;
}

/// More requests than buffers, from 8 clients at once: those that find none wait, and each gets its own data.
#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn requests_share_fewer_buffers_than_there_are_tags() {
    let memory = Mutex::new(vec![0_u8; usize::try_from(SECTORS * 512).unwrap()]);
    let device = NewDevice::new().mode::<mode::GetData>().buffers(2).depth(32);
    let served = serve(device, params(), move |mut request: Request<'_, mode::GetData>| {
        let mut memory = memory.lock().unwrap();
        let start = usize::try_from(request.offset_bytes()).unwrap();
        let bytes = &mut memory[start..start + usize::try_from(request.len_bytes()).unwrap()];
        match request.operation() {
            Operation::READ => assert_eq!(request.cursor().write(bytes), bytes.len()),
            Operation::WRITE => bytes.copy_from_slice(request.data()),
            _ => {}
        }
        request.complete();
    })
    .unwrap();
    std::thread::scope(|scope| {
        for client in 0..8_usize {
            let disk = served.open_direct();
            scope.spawn(move || {
                for round in 0..60 {
                    let (len, offset) = (4096 << (round % 4), (client << 20) + (round % 7) * 65536);
                    let (wanted, place) = (pattern(len, offset, client * 100 + round), u64::try_from(offset).unwrap());
                    disk.write_all_at(&wanted, place).unwrap();
                    let mut read = Aligned::filled(len, 0xee);
                    disk.read_exact_at(&mut read, place).unwrap();
                    assert!(read[..] == wanted[..], "client {client}, round {round}");
                }
            });
        }
    });
    assert_eq!(served.stop(), Ok(Stopped::Handle));
}

/// A RAM disk that copies by call.
fn copies_by_call<M: UserCopied>() {
    let memory = Mutex::new(vec![0_u8; usize::try_from(SECTORS * 512).unwrap()]);
    let served = serve(NewDevice::new().mode::<M>().depth(4), params(), move |mut request: Request<'_, M>| {
        let mut memory = memory.lock().unwrap();
        let (start, len) =
            (usize::try_from(request.offset_bytes()).unwrap(), usize::try_from(request.len_bytes()).unwrap());
        match request.operation() {
            Operation::READ => request.write_at(0, &memory[start..start + len]).unwrap(),
            Operation::WRITE => request.read_at(0, &mut memory[start..start + len]).unwrap(),
            _ => {}
        }
        assert_eq!(request.read_at(len, &mut [0]), Err(Errno::EINVAL));
        assert_eq!(request.write_at(len, &[0]), Err(Errno::EINVAL));
        request.complete();
    })
    .unwrap();
    let disk = served.open_direct();
    for (seed, len) in [512, 4096, 512 << 10].into_iter().enumerate() {
        let wanted = pattern(len, 8192, seed);
        disk.write_all_at(&wanted, 8192).unwrap();
        let mut read = Aligned::filled(len, 0xee);
        disk.read_exact_at(&mut read, 8192).unwrap();
        assert!(read[..] == wanted[..]);
    }
    drop(disk);
    served.stop().unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn bytes_are_copied_by_call_wherever_a_mode_has_the_calls() {
    copies_by_call::<mode::UserCopy>();
    if refusal::<mode::ZeroCopy>().is_none() {
        copies_by_call::<mode::ZeroCopy>();
    }
    if refusal::<mode::AutoRegister>().is_none() {
        copies_by_call::<mode::AutoRegister>();
    }
}

/// A target that fills nothing, or only a part, or leaves a hole.
fn never_gives_stale_bytes<M: UserCopied>() {
    let served = serve(NewDevice::new().mode::<M>().depth(1), params(), |mut request: Request<'_, M>| {
        if request.operation() == Operation::READ {
            match request.offset_bytes() {
                65536 => request.write_at(0, &[0x11; 700]).unwrap(),
                131_072 => request.write_at(4096, &[0x22; 512]).unwrap(),
                _ => {}
            }
        }
        request.complete();
    })
    .unwrap();
    let disk = served.open_direct();
    let read = |offset| {
        let mut read = Aligned::filled(8192, 0x55);
        disk.read_exact_at(&mut read, offset).map(|()| read)
    };
    assert!(read(0).unwrap().iter().all(|byte| *byte == 0));
    let part = read(65536).unwrap();
    assert!(part[..700].iter().all(|byte| *byte == 0x11) && part[700..].iter().all(|byte| *byte == 0));
    assert_eq!(read(131_072).err().and_then(|error| error.raw_os_error()), Some(Errno::EIO.raw()), "a hole fails");
    drop(disk);
    served.stop().unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_read_gives_no_byte_that_nobody_put_there() {
    never_gives_stale_bytes::<mode::UserCopy>();
    if refusal::<mode::ZeroCopy>().is_none() {
        never_gives_stale_bytes::<mode::ZeroCopy>();
    }
    if refusal::<mode::AutoRegister>().is_none() {
        never_gives_stale_bytes::<mode::AutoRegister>();
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_mode_is_said_by_its_type_and_not_by_a_feature() {
    let before = nodes();
    let mut control = Control::open().unwrap();
    let device = NewDevice::new().features(ublk::Features::USER_COPY);
    assert!(matches!(control.add(&device), Err(Error::Invalid { .. })));
    assert_eq!(nodes(), before);
}
