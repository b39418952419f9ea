// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the driver refuses of an I/O command, one tag's or a batch's.

use core::mem::offset_of;

use ublk_sys::{
    IORING_URING_CMD_MULTISHOT, UBLK_AUTO_BUF_REG_FALLBACK, UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK,
    UBLK_BATCH_F_HAS_BUF_ADDR, UBLK_BATCH_F_HAS_ZONE_LBA, io_uring_sqe, ublk_batch_io, ublk_elem_header,
    ublksrv_io_cmd,
};

use crate::device_info::DeviceInfo;
use crate::diagnosis::environment::TagState;
use crate::diagnosis::rule::{
    Attempt, E2BIG, EBUSY, EFAULT, EINVAL, ENOBUFS, ENODEV, ENOMEM, EOPNOTSUPP, Holds, certainly, possibly, rules, told,
};
use crate::diagnosis::seen::{Bytes, COMMAND_AT, Seen};
use crate::error::Command;
use crate::features::Features;

const FETCH: Attempt = Attempt::Command(Command::FETCH_REQ);
const COMMIT: Attempt = Attempt::Command(Command::COMMIT_AND_FETCH_REQ);
const NEED_GET_DATA: Attempt = Attempt::Command(Command::NEED_GET_DATA);
const REGISTER: Attempt = Attempt::Command(Command::REGISTER_IO_BUF);
const UNREGISTER: Attempt = Attempt::Command(Command::UNREGISTER_IO_BUF);
const PREP: Attempt = Attempt::Command(Command::PREP_IO_CMDS);
const COMMIT_BATCH: Attempt = Attempt::Command(Command::COMMIT_IO_CMDS);
const FETCH_BATCH: Attempt = Attempt::Command(Command::FETCH_IO_CMDS);

/// The commands that have the elements of a batch behind the entry's address.
const OF_ELEMENTS: &[Command] = &[Command::PREP_IO_CMDS, Command::COMMIT_IO_CMDS];
const OF_BATCHES: &[Command] = &[Command::PREP_IO_CMDS, Command::COMMIT_IO_CMDS, Command::FETCH_IO_CMDS];
const OF_BUFFERS: &[Command] = &[Command::REGISTER_IO_BUF, Command::UNREGISTER_IO_BUF];
/// The commands that only the tag's daemon may send, and that need the tag's request.
const OF_REQUESTS: &[Command] = &[Command::COMMIT_AND_FETCH_REQ, Command::NEED_GET_DATA];
/// The commands that stay pending until a request comes.
const PENDING: &[Command] = &[Command::FETCH_REQ, Command::COMMIT_AND_FETCH_REQ, Command::FETCH_IO_CMDS];

rules! {
    Attempt::EveryIo, "ublk_ch_uring_cmd_local" {
        EINVAL, "io.command", |s| certainly(s.command().is_none()),
            "the number in the lowest byte of cmd_op is no I/O command that the driver knows",
            "send UBLK_U_IO_* as <linux/ublk_cmd.h> has them: FETCH_REQ is 0xc0107520";
        EINVAL, "io.buffer-command" until (6, 15), |s| certainly(s.is_one_of(OF_BUFFERS)),
            "the driver has no REGISTER_IO_BUF and UNREGISTER_IO_BUF, which came with Linux 6.15",
            "look for UBLK_F_SUPPORT_ZERO_COPY in GET_FEATURES, and use copies or UBLK_F_USER_COPY without it";
        EINVAL, "io.batch-command" until (7, 0), |s| certainly(s.is_one_of(OF_BATCHES)),
            "the driver has no commands for batches, which came with Linux 7.0",
            "look for UBLK_F_BATCH_IO in GET_FEATURES, and send FETCH_REQ and COMMIT_AND_FETCH_REQ without it";
        EINVAL, "io.queue", |s| s.device_is(|device| !s.is(Command::UNREGISTER_IO_BUF) && s.q_id() >= device.queues()),
            "q_id, bytes 48 and 49, is not below nr_hw_queues, which the driver lowers to the number of CPUs",
            "take nr_hw_queues from what ADD_DEV or GET_DEV_INFO gave back";
        EINVAL, "io.tag", |s| s.device_is(|device| s.is_of_one_tag() && s.tag() >= device.depth()),
            "tag, bytes 50 and 51, is not below queue_depth",
            "take queue_depth from what ADD_DEV or GET_DEV_INFO gave back";
        EINVAL, "io.needs-batch" since (7, 0), |s| if s.is_one_of(OF_BATCHES) { told(s.device_lacks(Features::BATCH_IO)) } else { Holds::No },
            "the device was made without UBLK_F_BATCH_IO, and takes no commands for batches",
            "ask for the feature in ADD_DEV, or send FETCH_REQ and COMMIT_AND_FETCH_REQ";
    }
    Attempt::EveryIo, "ublk_handle_non_batch_cmd" {
        EOPNOTSUPP, "io.needs-no-batch" since (7, 0), |s| if s.is_of_one_tag() && !s.is_one_of(OF_BUFFERS) { s.device_is(|device| device.features().contains(Features::BATCH_IO)) } else { Holds::No },
            "the device was made with UBLK_F_BATCH_IO, and takes commands for batches only",
            "send PREP_IO_CMDS, FETCH_IO_CMDS and COMMIT_IO_CMDS, or make the device without the feature";
    }
    Attempt::EveryIo, "ublk_validate_io_buf" {
        EINVAL, "auto-buffer.reserved" since (6, 16), |s| s.auto_buffer_is(|address| address >> 24 != 0),
            "bytes 16 to 23, addr, have more than a buffer's index and its flags: with UBLK_F_AUTO_BUF_REG they are struct ublk_auto_buf_reg, whose reserved fields have to be 0",
            "write index | flags << 16 there; the address of a buffer belongs nowhere with UBLK_F_AUTO_BUF_REG";
        EINVAL, "auto-buffer.flags" since (6, 16), |s| s.auto_buffer_is(|address| address >> 16 & 0xff & !u64::from(UBLK_AUTO_BUF_REG_FALLBACK) != 0),
            "byte 18, flags of struct ublk_auto_buf_reg, has a bit other than UBLK_AUTO_BUF_REG_FALLBACK",
            "clear it";
    }
    FETCH, "ublk_check_fetch_buf" {
        EINVAL, "fetch.addr", |s| s.copies_are(|device| s.io_addr() == 0 && !device.features().contains(Features::NEED_GET_DATA)),
            "addr, bytes 56 to 63, is 0, and the driver copies the data of requests to and from it",
            "put the address of the tag's buffer there, of max_io_buf_bytes";
        EINVAL, "fetch.addr-unused", |s| s.moves_otherwise(|_| s.io_addr() != 0),
            "addr, bytes 56 to 63, is not 0, though the device moves data in another way (UBLK_F_USER_COPY, UBLK_F_SUPPORT_ZERO_COPY or UBLK_F_AUTO_BUF_REG)",
            "write 0 there; an index for UBLK_F_AUTO_BUF_REG belongs into bytes 16 to 23";
    }
    FETCH, "__ublk_fetch" {
        ENODEV, "fetch.stopping" since (7, 3), |s| if s.tag_is(&[TagState::Idle]) == Some(false) { Holds::No } else { told(s.environment.was_stopped) },
            "the device was stopped, and the server that it had still has the char device open",
            "let go of everything that holds the char device (descriptors, mappings, rings, forked children), open it again, and fetch then";
        EINVAL, "fetch.daemon" until (6, 16), |s| if s.environment.queues_are_ready == Some(false) { Holds::No } else { told(s.environment.is_daemon.map(|is_daemon| !is_daemon)) },
            "another thread than the queue's fetched a tag of a queue that has all its tags",
            "before Linux 6.16, fetch all tags of a queue from the one thread that serves it, and each once";
        EBUSY, "fetch.pending" until (6, 16), |s| if s.environment.queues_are_ready == Some(true) { Holds::No } else { told(s.tag_is(&[TagState::Fetching])) },
            "the tag was fetched already, and waits for a request",
            "fetch each tag once; later its COMMIT_AND_FETCH_REQ does both";
        EBUSY, "fetch.ready", |s| told(s.environment.queues_are_ready),
            "every tag was fetched already, so nothing is left to fetch until the char device was closed",
            "fetch each tag once, with nr_hw_queues and queue_depth as ADD_DEV gave them back; a server that follows another has to wait until that let go, and a device that was stopped before Linux 7.3 can only be deleted";
        EINVAL, "fetch.twice" since (6, 16), |s| if s.environment.queues_are_ready == Some(true) { Holds::No } else { told(s.tag_is(&[TagState::Fetching])) },
            "the tag was fetched already, and waits for a request",
            "fetch each tag once; later its COMMIT_AND_FETCH_REQ does both";
    }
    REGISTER, "ublk_register_io_buf" {
        EINVAL, "register-buffer.feature" since (6, 15), |s| told(s.device_lacks(Features::SUPPORT_ZERO_COPY)),
            "the device was made without UBLK_F_SUPPORT_ZERO_COPY",
            "ask for it in ADD_DEV, which needs CAP_SYS_ADMIN; UBLK_F_AUTO_BUF_REG alone does not do";
        EINVAL, "register-buffer.request" since (6, 17), |s| match s.environment.tag {
                Some(TagState::Idle) => Holds::Certainly,
                Some(TagState::Fetching) => told(s.environment.is_daemon.map(|is_daemon| !is_daemon)),
                Some(TagState::Owned | TagState::WantsBuffer) => Holds::No,
                None => Holds::Possibly,
            },
            "the server has no request of that queue and tag",
            "register the buffer of a request between its completion and its commit";
    }
    Attempt::EveryIo, "ublk_ch_uring_cmd_local" {
        EINVAL, "io.never-fetched", |s| if s.is_one_of(OF_REQUESTS) { told(s.tag_is(&[TagState::Idle])) } else { Holds::No },
            "the tag has not been fetched, so there is nothing to commit",
            "send FETCH_REQ first, for each tag of each queue, and see that none was refused";
        EINVAL, "io.daemon", |s| if s.is_one_of(OF_REQUESTS) { told(s.environment.is_daemon.map(|is_daemon| !is_daemon)) } else { Holds::No },
            "the thread that sent the command is not the one that fetched the tag, and the driver takes it from that one only",
            "send every command of a tag from the thread that fetched it, and let no thread end before the server does; with IORING_SETUP_SQPOLL it is the ring's own thread";
        EBUSY, "io.not-owned", |s| match s.command() {
                Some(Command::COMMIT_AND_FETCH_REQ | Command::NEED_GET_DATA | Command::REGISTER_IO_BUF) => told(s.tag_is(&[TagState::Fetching])),
                _ => Holds::No,
            },
            "the tag waits in the driver for a request, and the server has none of it to answer",
            "commit each request once, and only after its completion came";
        EINVAL, "io.wants-buffer", |s| if s.is_one_of(&[Command::COMMIT_AND_FETCH_REQ, Command::REGISTER_IO_BUF]) { told_of(s.device_has_if_known(Features::NEED_GET_DATA), s.tag_is(&[TagState::WantsBuffer])) } else { Holds::No },
            "the tag's request is a WRITE that waits for a buffer: its completion was 1 (UBLK_IO_RES_NEED_GET_DATA)",
            "send NEED_GET_DATA with the address of a buffer, and commit when that was answered";
    }
    NEED_GET_DATA, "ublk_ch_uring_cmd_local" {
        EINVAL, "need-get-data.unasked", |s| match (s.device_lacks(Features::NEED_GET_DATA), s.environment.tag) {
                (Some(true), _) | (_, Some(TagState::Owned)) => Holds::Certainly,
                (_, Some(_)) => Holds::No,
                (_, None) => Holds::Possibly,
            },
            "the driver has not asked for a buffer: it does so by a completion of 1 (UBLK_IO_RES_NEED_GET_DATA), for a WRITE on a device with UBLK_F_NEED_GET_DATA",
            "commit the request; ADD_DEV drops UBLK_F_NEED_GET_DATA without a word next to UBLK_F_USER_COPY, UBLK_F_SUPPORT_ZERO_COPY, UBLK_F_AUTO_BUF_REG and UBLK_F_BATCH_IO";
    }
    COMMIT, "ublk_check_commit_and_fetch" {
        EINVAL, "commit.addr", |s| s.copies_are(|device| s.io_addr() == 0 && !device.features().contains(Features::NEED_GET_DATA)),
            "addr, bytes 56 to 63, is 0, and the driver copies the data of requests to and from it",
            "put the address of the tag's buffer there: a READ's data is taken from it, and the tag's next request has it";
        EINVAL, "commit.addr-of-read", |s| match s.copies_are(|device| s.io_addr() == 0 && device.features().contains(Features::NEED_GET_DATA)) {
                Holds::No => Holds::No,
                _ => possibly(s.tag_is(&[TagState::Owned]) != Some(false)),
            },
            "addr, bytes 56 to 63, is 0, and the request is a READ, whose data the driver takes from it",
            "put the address of the data there; only a WRITE may be committed without";
        EINVAL, "commit.addr-unused", |s| match s.moves_otherwise(|_| s.io_addr() != 0) {
                Holds::No => Holds::No,
                holds => if s.device_lacks(Features::ZONED) == Some(true) { holds } else { Holds::Possibly },
            },
            "addr, bytes 56 to 63, is not 0, though the device moves data in another way (UBLK_F_USER_COPY, UBLK_F_SUPPORT_ZERO_COPY or UBLK_F_AUTO_BUF_REG)",
            "write 0 there, but for the LBA that a ZONE_APPEND was given";
    }
    REGISTER, "io_buffer_register_request" {
        EINVAL, "register-buffer.data" since (6, 15), |s| possibly(s.tag_is(&[TagState::Owned]) != Some(false)),
            "the request has no data, as FLUSH, DISCARD and WRITE_ZEROES have none",
            "look at the operation in the descriptor, and register the buffers of READ and WRITE only";
        EINVAL, "register-buffer.index" since (6, 15), |s| s.buffer_index(Holds::No),
            "addr, bytes 56 to 63, is an index that is not in the ring's table of buffers, or the ring has none",
            "make the table with IORING_REGISTER_BUFFERS2 and IORING_RSRC_REGISTER_SPARSE on the ring that carries the command, large enough";
        EBUSY, "register-buffer.occupied" since (6, 15), |s| possibly(s.tag_is(&[TagState::Fetching]) != Some(true)),
            "the entry of the ring's table of buffers has a buffer already",
            "give each request under way an index of its own, and send UNREGISTER_IO_BUF before it is used again";
        ENOMEM, "register-buffer.memory" since (6, 15), |_| possibly(true),
            "the kernel has no memory for the buffer's entry",
            "give the machine, or the control group of this process, more memory";
    }
    UNREGISTER, "ublk_unregister_io_buf" {
        EINVAL, "unregister-buffer.feature" since (6, 15), |s| told(s.device_lacks(Features::SUPPORT_ZERO_COPY)),
            "the device was made without UBLK_F_SUPPORT_ZERO_COPY",
            "ask for it in ADD_DEV; with UBLK_F_AUTO_BUF_REG alone the driver unregisters by itself, when the commit comes on the ring that fetched";
    }
    UNREGISTER, "io_buffer_unregister" {
        EINVAL, "unregister-buffer.index" since (6, 15), |s| s.buffer_index(Holds::Possibly),
            "addr, bytes 56 to 63, is an index that is not in the ring's table of buffers, or that entry is empty",
            "unregister once, on the ring that registered, with the same index";
        EBUSY, "unregister-buffer.users" since (6, 15), |_| possibly(true),
            "the entry of the ring's table of buffers holds memory of the process, and no request's",
            "keep the indices of requests apart from those of IORING_REGISTER_BUFFERS_UPDATE";
    }
    Attempt::EveryIo, "ublk_check_batch_cmd" {
        E2BIG, "batch.elements" since (7, 0), |s| if s.is_one_of(OF_ELEMENTS) { s.device_is(|device| s.nr_elem() > device.depth()) } else { Holds::No },
            "nr_elem, bytes 52 and 53, is more than queue_depth",
            "send at most one element for each tag of the queue";
        EINVAL, "batch.zone-lba" since (7, 0), |s| s.batch_flag(UBLK_BATCH_F_HAS_ZONE_LBA, |device| !device.features().contains(Features::ZONED)),
            "flags, bytes 50 and 51, have UBLK_BATCH_F_HAS_ZONE_LBA, and the device has no UBLK_F_ZONED",
            "clear the flag, and take the LBA out of the elements";
        EINVAL, "batch.buffer-address" since (7, 0), |s| s.batch_flag(UBLK_BATCH_F_HAS_BUF_ADDR, |device| !copies(device)),
            "flags, bytes 50 and 51, have UBLK_BATCH_F_HAS_BUF_ADDR, though the device moves data in another way (UBLK_F_USER_COPY, UBLK_F_SUPPORT_ZERO_COPY or UBLK_F_AUTO_BUF_REG)",
            "clear the flag, and take the address out of the elements";
        EINVAL, "batch.fallback" since (7, 0), |s| s.batch_flag(UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK, |device| !device.features().contains(Features::AUTO_BUF_REG)),
            "flags, bytes 50 and 51, have UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK, and the device has no UBLK_F_AUTO_BUF_REG",
            "clear the flag";
    }
    Attempt::EveryIo, "ublk_check_batch_cmd_flags" {
        EINVAL, "batch.flags" since (7, 0), |s| certainly(s.is_one_of(OF_ELEMENTS) && s.batch_flags() & !ALL_BATCH_FLAGS != 0),
            "flags, bytes 50 and 51, have a bit that the driver does not know",
            "clear all but UBLK_BATCH_F_HAS_ZONE_LBA, UBLK_BATCH_F_HAS_BUF_ADDR and UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK";
        EINVAL, "batch.element-bytes" since (7, 0), |s| certainly(s.is_one_of(OF_ELEMENTS) && s.elem_bytes() != s.element_bytes_by_flags()),
            "elem_bytes, byte 54, is not what the flags say: 8, and 8 more for each of UBLK_BATCH_F_HAS_BUF_ADDR and UBLK_BATCH_F_HAS_ZONE_LBA",
            "write struct ublk_elem_header, then the address, then the LBA, as far as the flags have them, and their length";
    }
    Attempt::EveryIo, "ublk_walk_cmd_buf" {
        EFAULT, "batch.address" since (7, 0), |s| possibly(s.is_one_of(OF_ELEMENTS)),
            "the elements at addr, bytes 16 to 23, cannot be read",
            "put the address of nr_elem times elem_bytes bytes there, which stay until the command was submitted";
        ENOMEM, "batch.memory" since (7, 0), |s| possibly(s.is_one_of(OF_BATCHES)),
            "the kernel has no memory to keep the batch in",
            "give the machine, or the control group of this process, more memory";
        EINVAL, "batch.tag" since (7, 0), |s| if s.is_one_of(OF_ELEMENTS) { s.device_or(|device| s.elements_are(|element| element.u16(offset_of!(ublk_elem_header, tag)) >= device.depth())) } else { Holds::No },
            "the tag of an element is not below queue_depth",
            "take queue_depth from what ADD_DEV or GET_DEV_INFO gave back";
        EINVAL, "batch.addr" since (7, 0), |s| if s.is_one_of(OF_ELEMENTS) { s.device_or(|device| match (copies(device), s.batch_flags() & UBLK_BATCH_F_HAS_BUF_ADDR != 0) {
                (false, _) => Holds::No,
                (true, false) => certainly(s.nr_elem() > 0),
                (true, true) => s.elements_are(|element| element.u64(size_of::<ublk_elem_header>()) == 0),
            }) } else { Holds::No },
            "an element has no address, and the driver copies the data of requests to and from it",
            "set UBLK_BATCH_F_HAS_BUF_ADDR, and put the address of the tag's buffer behind each struct ublk_elem_header";
    }
    PREP, "__ublk_fetch" {
        ENODEV, "prep.stopping" since (7, 3), |s| told(s.environment.was_stopped),
            "the device was stopped, and the server that it had still has the char device open",
            "let go of everything that holds the char device (descriptors, mappings, rings, forked children), open it again, and prepare then";
        EBUSY, "prep.ready" since (7, 0), |s| told(s.environment.queues_are_ready),
            "every tag was prepared already, so nothing is left to prepare until the char device was closed",
            "prepare each tag once";
        EINVAL, "prep.twice" since (7, 0), |s| if s.environment.queues_are_ready == Some(true) { Holds::No } else { told(s.tag_is(&[TagState::Fetching])) },
            "a tag was prepared already, so none of the command's was",
            "prepare each tag once";
    }
    COMMIT_BATCH, "ublk_batch_commit_io_check" {
        EBUSY, "commit-batch.not-owned" since (7, 0), |s| told(s.tag_is(&[TagState::Idle, TagState::Fetching])),
            "the server has no request of the first element's tag to answer",
            "commit each request once, and only after FETCH_IO_CMDS brought its tag; a result of fewer bytes than were sent is what was done";
    }
    FETCH_BATCH, "ublk_validate_batch_fetch_cmd" {
        EINVAL, "fetch-batch.multishot" since (7, 0), |s| certainly(s.sqe.u32(offset_of!(io_uring_sqe, rw_flags)) & IORING_URING_CMD_MULTISHOT == 0),
            "bytes 28 to 31, uring_cmd_flags, lack IORING_URING_CMD_MULTISHOT",
            "set it, and IOSQE_BUFFER_SELECT in byte 1 with the group of the buffers in bytes 40 and 41";
        EINVAL, "fetch-batch.element-bytes" since (7, 0), |s| certainly(s.elem_bytes() != 2),
            "elem_bytes, byte 54, is not 2, the bytes of a tag",
            "write 2 there";
        EINVAL, "fetch-batch.flags" since (7, 0), |s| certainly(s.batch_flags() != 0),
            "flags, bytes 50 and 51, are not 0",
            "write 0 there";
    }
    FETCH_BATCH, "ublk_batch_attach" {
        ENODEV, "fetch-batch.quiesced" since (7, 0), |s| possibly(s.environment.was_stopped != Some(true)),
            "the device was quiesced, or is being recovered and its new server has not prepared every tag",
            "let go of a device that was quiesced; in recovery send PREP_IO_CMDS for every tag, and fetch when it was answered";
        ENOBUFS, "fetch-batch.buffers" since (7, 0), |_| possibly(true),
            "the group has no buffer left for the tags that came, or the completion queue has no room; no tag is lost",
            "give the buffers back, take the completions, and send the command again; two for each queue keep one waiting";
    }
    Attempt::EveryIo, "ublk_cancel_cmd" {
        ENODEV, "io.stopped", |s| possibly(s.is_one_of(PENDING)),
            "the device was stopped, deleted or quiesced, or its server lets go of it: the command ends without a request (UBLK_IO_RES_ABORT)",
            "fetch no more, answer the requests that are left, and close the char device";
    }
}

const ALL_BATCH_FLAGS: u16 = UBLK_BATCH_F_HAS_ZONE_LBA | UBLK_BATCH_F_HAS_BUF_ADDR | UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK;

/// Whether the driver copies data to and from the server's buffers (`ublk_dev_need_map_io`).
fn copies(device: &DeviceInfo) -> bool {
    let others = [Features::USER_COPY, Features::SUPPORT_ZERO_COPY, Features::AUTO_BUF_REG];
    !others.iter().any(|feature| device.features().contains(*feature))
}

/// It was broken if both are so, as far as they are known.
fn told_of(one: Option<bool>, other: Option<bool>) -> Holds {
    if one == Some(false) { Holds::No } else { told(other) }
}

impl Seen<'_> {
    fn q_id(&self) -> u16 {
        self.sqe.u16(COMMAND_AT + offset_of!(ublksrv_io_cmd, q_id))
    }

    fn tag(&self) -> u16 {
        self.sqe.u16(COMMAND_AT + offset_of!(ublksrv_io_cmd, tag))
    }

    fn io_addr(&self) -> u64 {
        self.sqe.u64(COMMAND_AT + offset_of!(ublksrv_io_cmd, addr))
    }

    fn batch_flags(&self) -> u16 {
        self.sqe.u16(COMMAND_AT + offset_of!(ublk_batch_io, flags))
    }

    fn nr_elem(&self) -> u16 {
        self.sqe.u16(COMMAND_AT + offset_of!(ublk_batch_io, nr_elem))
    }

    fn elem_bytes(&self) -> u8 {
        self.sqe.u8(COMMAND_AT + offset_of!(ublk_batch_io, elem_bytes))
    }

    fn element_bytes_by_flags(&self) -> u8 {
        let has = |flag: u16| u8::from(self.batch_flags() & flag != 0);
        8 + 8 * has(UBLK_BATCH_F_HAS_BUF_ADDR) + 8 * has(UBLK_BATCH_F_HAS_ZONE_LBA)
    }

    fn is_one_of(&self, commands: &[Command]) -> bool {
        self.command().is_some_and(|command| commands.contains(&command))
    }

    /// Whether the command names one tag of one queue.
    fn is_of_one_tag(&self) -> bool {
        !self.is_one_of(OF_BATCHES) && !self.is(Command::UNREGISTER_IO_BUF)
    }

    /// What the device makes of it; without a device anything can be.
    fn device_or(&self, holds: impl FnOnce(&DeviceInfo) -> Holds) -> Holds {
        self.environment.device.as_ref().map_or(Holds::Possibly, holds)
    }

    fn device_is(&self, broken: impl FnOnce(&DeviceInfo) -> bool) -> Holds {
        self.device_or(|device| certainly(broken(device)))
    }

    fn device_has_if_known(&self, features: Features) -> Option<bool> {
        self.device_lacks(features).map(|lacks| !lacks)
    }

    fn copies_are(&self, broken: impl FnOnce(&DeviceInfo) -> bool) -> Holds {
        match self.environment.device.as_ref() {
            Some(device) => certainly(copies(device) && broken(device)),
            None => possibly(self.io_addr() == 0),
        }
    }

    fn moves_otherwise(&self, broken: impl FnOnce(&DeviceInfo) -> bool) -> Holds {
        match self.environment.device.as_ref() {
            Some(device) => certainly(!copies(device) && broken(device)),
            None => possibly(self.io_addr() != 0),
        }
    }

    /// Whether `sqe.addr` is so, where it is a `struct ublk_auto_buf_reg`.
    fn auto_buffer_is(&self, broken: impl FnOnce(u64) -> bool) -> Holds {
        let is_broken = broken(self.sqe.u64(offset_of!(io_uring_sqe, addr)));
        if !is_broken || !self.is_one_of(&[Command::FETCH_REQ, Command::COMMIT_AND_FETCH_REQ]) {
            return Holds::No;
        }
        told(self.device_has_if_known(Features::AUTO_BUF_REG))
    }

    fn tag_is(&self, wanted: &[TagState]) -> Option<bool> {
        self.environment.tag.map(|tag| wanted.contains(&tag))
    }

    /// Whether the index in `addr`, of which the driver takes 32 bits, is in no table; `else_holds` where it is.
    fn buffer_index(&self, else_holds: Holds) -> Holds {
        let index = self.io_addr() & u64::from(u32::MAX);
        match self.environment.ring_buffers.map(|buffers| index >= buffers.into()) {
            Some(true) => Holds::Certainly,
            Some(false) => else_holds,
            None => Holds::Possibly,
        }
    }

    fn batch_flag(&self, flag: u16, forbids: impl FnOnce(&DeviceInfo) -> bool) -> Holds {
        if self.is_one_of(OF_ELEMENTS) && self.batch_flags() & flag != 0 { self.device_is(forbids) } else { Holds::No }
    }

    /// Whether one of a batch's elements is so, as far as they are known.
    fn elements_are(&self, broken: impl Fn(&[u8]) -> bool) -> Holds {
        if !self.is_one_of(OF_ELEMENTS) {
            return Holds::No;
        }
        if self.environment.buffer.is_empty() {
            return possibly(self.nr_elem() > 0);
        }
        let mut elements = self.environment.buffer.chunks_exact(usize::from(self.elem_bytes()).max(1));
        certainly(elements.by_ref().take(self.nr_elem().into()).any(broken))
    }
}
