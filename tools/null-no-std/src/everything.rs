// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a null server does not need of `ublk` without `std`, called so that the linker can say whether it may panic. Only with
//! the feature `everything`; it is not meant to be run.

use core::ffi::CStr;
use core::fmt::{self, Write};
use core::time::Duration;

use ublk::ring::{BufferUse, Entry, Op, OpFile, Restrictions, Ring};
use ublk::{
    BufferLock, Control, CpuSet, Device, DeviceId, Discard, Disk, Errno, Error, Fd, Queue, QueueId, ReadAt, ReadCursor,
    RequestFlags, RingOperation, Sectors, Tag, WriteAt, WriteZeroes, hosting,
};

/// Calls what a loop of its own calls of a queue.
pub fn of_queue(queue: &mut Queue, bytes: &[u8]) -> Result<(), Error> {
    let disk = Disk::without_cache(Sectors::new(8), Memory).discard(512, Sectors::new(8)).write_zeroes(Sectors::new(8));
    while let Some(mut request) = queue.next_request()? {
        let sum = usize::from(request.tag().raw()) + request.data().len() + request.data().iter().count();
        let mut cursor = request.cursor();
        cursor.write(bytes);
        cursor.write_zeroes(sum);
        if cursor.remaining() > sum {
            cursor.zeroed().fill(1);
        }
        if request.flags().is_empty() {
            disk.answer(request);
        } else if bytes.len() > 9 {
            request.detach().complete()?;
        } else {
            request.detach().fail(Errno::EIO)?;
        }
    }
    let oldest: Option<(Tag, Duration)> = queue.oldest();
    let longest = oldest.map(|(_, age)| age);
    if queue.owned() > 0 || queue.unanswered() > 0 {
        queue.fail_forgotten()?;
    }
    queue.wait(longest).map(|_| ())
}

/// Calls what another kind of server calls of a device and of the control device.
pub fn of_device(mut device: Device, queue: QueueId, path: &CStr) -> Result<CpuSet, Error> {
    let mut control = Control::open()?;
    let id: DeviceId = device.info().id();
    let info = control.info_at(id, path)?;
    let params = control.params(id)?.read_only().rotational();
    control.set_params(&info, &params)?;
    control.set_patience(Duration::from_secs(1), Duration::from_secs(2));
    control.set_unprivileged(Some(id));
    hosting::mark_io_flusher()?;
    hosting::adjust_oom_score(core::hint::black_box(-1000))?;
    let mut prepared = device.queue(queue)?;
    prepared.lock_buffers(BufferLock::Prefaulted)?;
    prepared.restrict(core::hint::black_box(&[RingOperation::Read, RingOperation::Sync]))?;
    drop(prepared.fetch()?);
    let cpus = control.queue_affinity(id, queue)?;
    if cpus.iter().count() > 1 {
        cpus.pin_thread()?;
    }
    device.stopper()?.stop()?;
    device.start()?;
    device.stop_while(|| cpus.contains(7))?;
    device.let_go();
    control.stop(id)?;
    control.delete(id)?;
    of_ring(path, core::hint::black_box(16))?;
    Ok(cpus)
}

/// Calls what a target calls of a ring of its own.
fn of_ring(path: &CStr, count: u16) -> Result<(), Error> {
    let file = Fd::open(path).map_err(|errno| Error::OpenControl { errno })?;
    let ring = Ring::local(count.into(), count.into())?;
    ring.register_files(count.into())?;
    ring.set_file(count.into(), &file)?;
    ring.register_buffers(count.into())?;
    ring.restrict(&Restrictions::new().operation(3).registration(6).flags(1).required_flags(0))?;
    let mut ring = ring.enable()?;
    ring.clear_file(count.into())?;
    let mut buffers = ring.register_buffer_ring(count, count, count.into(), BufferUse::Piecewise)?;
    let mut bytes = [0; 64];
    while ring.has_room(count.into()) {
        ring.push(Op::fsync(OpFile::Registered(count.into()), true).linked(), 1)?;
        ring.push(Op::fallocate(&file, 0, 0, count.into()).hard_linked().skip_success(), 2)?;
        ring.push(Op::block_discard(&file, 0, count.into()).asynchronous(), 3)?;
        ring.push(Op::cancel(3), 4)?;
        ring.push(Op::nop().provided(buffers.group()), 5)?;
        ring.submit_and_wait(None)?;
        while let Some(completion) = ring.next_completion() {
            if completion.has_more() && buffers.take(&completion, &mut bytes)?.is_some() {
                buffers.read(buffers.count(), buffers.buffer_bytes(), &mut bytes)?;
                buffers.provide(count)?;
            }
        }
    }
    Ok(())
}

/// Calls what prints an error.
pub fn of_error(error: Error, bytes: &[u8]) {
    let _ = write!(Nowhere, "{error}");
    explain(error, bytes);
}

/// Calls what explains an error and an entry.
#[cfg(feature = "everything")]
fn explain(error: Error, bytes: &[u8]) {
    use ublk::diagnosis::{Environment, Sqe, causes, causes_of_command};

    let mut environment = Environment::default();
    environment.buffer = bytes;
    for cause in causes(&error, &environment) {
        let _ = write!(Nowhere, "{cause}");
    }
    let explained = Sqe::from_bytes(bytes).map(|sqe| causes_of_command(&sqe, None, &environment).count());
    core::hint::black_box(explained);
}

#[cfg(not(feature = "everything"))]
fn explain(_: Error, _: &[u8]) {}

/// Who looks at every byte that is written, and keeps none.
struct Nowhere;

impl Write for Nowhere {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        core::hint::black_box(text);
        Ok(())
    }
}

/// A disk that does nothing, in the words of `Disk`.
struct Memory;

impl ReadAt for Memory {
    fn read_into(&self, _: u64, into: &mut ReadCursor<'_>) -> Result<(), Errno> {
        into.write(&[7; 16]);
        Ok(())
    }
}

impl WriteAt for Memory {
    fn write_from(&self, _: u64, _: &[u8]) -> Result<(), Errno> {
        Ok(())
    }
}

impl Discard for Memory {
    fn discard(&self, _: u64, _: u64) -> Result<(), Errno> {
        Ok(())
    }
}

impl WriteZeroes for Memory {
    fn write_zeroes(&self, _: u64, _: u64, _: RequestFlags) -> Result<(), Errno> {
        Ok(())
    }
}
