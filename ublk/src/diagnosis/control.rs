// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the driver refuses of a control command, but for the parameters of a device.

use core::mem::offset_of;

use ublk_sys::{UBLK_FEATURES_LEN, UBLK_PARAM_TYPE_BASIC, ublk_shmem_buf_reg, ublksrv_ctrl_dev_info};

use crate::device_info::State;
use crate::diagnosis::rule::{
    Answer, Attempt, EACCES, EBUSY, EEXIST, EFAULT, EINTR, EINVAL, ENODEV, ENOENT, ENOMEM, ENOSPC, EOPNOTSUPP, EPERM,
    Holds, certainly, possibly, rules, told,
};
use crate::diagnosis::seen::{Bytes, Seen};
use crate::error::Command;
use crate::features::Features;

const ADD: Attempt = Attempt::Command(Command::ADD_DEV);
const INFO_BYTES: u16 = 64;
const _: () = assert!(size_of::<ublksrv_ctrl_dev_info>() == 64);

const BASIC: u32 = UBLK_PARAM_TYPE_BASIC;

rules! {
    Attempt::EveryControl, "ublk_ctrl_uring_cmd" {
        ENODEV, "device.none", |s| if s.needs_device() { s.device_is_missing() } else { Holds::No },
            "there is no device of the id in cmd.dev_id, or it is being freed",
            "send the dev_id that ADD_DEV wrote into its buffer: ublkctl list shows those that there are";
    }
    Attempt::EveryControl, "ublk_ctrl_uring_cmd_permission" {
        EPERM, "right.cap-sys-admin", |s| if s.needs_right() { s.lacks_admin() } else { Holds::No },
            "the caller has no CAP_SYS_ADMIN in the initial user namespace, which every device that is not unprivileged takes; a container that is root of its own namespace does not have it",
            "run as root of the machine, or with that capability";
        EINVAL, "right.not-for-unprivileged" since (6, 9), |s| if s.is(Command::DEL_DEV_ASYNC) { s.is_unprivileged() } else { Holds::No },
            "the driver takes no DEL_DEV_ASYNC for an unprivileged device",
            "send DEL_DEV";
        EINVAL, "right.path-len" since (6, 3), |s| match s.path_len() {
                1..=4096 => Holds::No,
                _ if !s.needs_device() => Holds::No,
                _ if s.is(Command::GET_DEV_INFO2) => Holds::Certainly,
                _ => s.is_unprivileged(),
            },
            "the command carries no path, or one of more than 4096 bytes, and GET_DEV_INFO2 and every command to an unprivileged device need one",
            "put the path of /dev/ublkcN, with its NUL, in front of the buffer, and its length into cmd.dev_path_len, bytes 72 and 73";
        EINVAL, "right.path-in-len" since (6, 3), |s| if s.takes_path() { certainly(s.len() < s.path_len()) } else { Holds::No },
            "cmd.len is less than cmd.dev_path_len, which it includes",
            "set cmd.len to the bytes of the path and of what is behind it";
        EFAULT, "right.path-address" since (6, 3), |s| if s.takes_path() { s.bad_address() } else { Holds::No },
            "the path cannot be read at cmd.addr",
            "keep the buffer mapped, and write its address to bytes 56 to 63 of the entry";
        ENOENT, "right.path-missing" since (6, 3), |s| possibly(s.may_take_path()),
            "there is nothing at the path",
            "pass /dev/ublkcN as this process sees it; a new node takes udev a moment";
        EPERM, "right.path-of-another" since (6, 3), |s| possibly(s.may_take_path()),
            "what is at the path is not the char device of the device in cmd.dev_id",
            "pass the /dev/ublkcN of that id";
        EACCES, "right.path-forbidden" since (6, 3), |s| possibly(s.may_take_path()),
            "the caller may not search the path, or not read the node, or for a command that changes something not write it; a new node is root's until udev gives it to its owner",
            "wait for udev, or set its rule; ublk_drv itself changes no node";
    }
    Attempt::EveryControl, "ublk_ctrl_uring_cmd" {
        EOPNOTSUPP, "command.unknown", |s| certainly(s.command().is_none()),
            "the number of the command, the lowest byte of cmd_op, is none of the driver's",
            "send UBLK_U_CMD_* as <linux/ublk_cmd.h> has them";
        EOPNOTSUPP, "command.too-new", |s| s.is_too_new(),
            "the driver is older than the command",
            "run ublkctl features, which has the first Linux of each, or a newer kernel";
    }
    Attempt::Command(Command::GET_FEATURES), "ublk_ctrl_uring_cmd" {
        ENODEV, "get-features.before-6-5" until (6, 5), |_| Holds::Possibly,
            "the kernel is older than Linux 6.5, which brought GET_FEATURES",
            "run a newer kernel, or take it as no features";
    }
    Attempt::Command(Command::GET_FEATURES), "ublk_ctrl_get_features" {
        EINVAL, "get-features.len" since (6, 5), |s| certainly(s.len() != UBLK_FEATURES_LEN),
            "cmd.len, bytes 54 and 55, is not 8",
            "lend 8 bytes for the features, and set cmd.len to 8";
        EINVAL, "get-features.addr" since (6, 5), |s| certainly(s.addr() == 0),
            "cmd.addr, bytes 56 to 63, is 0",
            "write the address of 8 bytes there";
        EFAULT, "get-features.address" since (6, 5), |s| s.bad_address(),
            "nothing can be written at cmd.addr",
            "keep the buffer mapped, and write its address to bytes 56 to 63 of the entry";
    }
    ADD, "ublk_ctrl_add_dev" {
        EINVAL, "add-dev.len", |s| certainly(s.len() < INFO_BYTES),
            "cmd.len, bytes 54 and 55, is less than the 64 bytes of struct ublksrv_ctrl_dev_info",
            "set cmd.len to 64";
        EINVAL, "add-dev.addr", |s| certainly(s.addr() == 0),
            "cmd.addr, bytes 56 to 63, is 0",
            "write the address of a struct ublksrv_ctrl_dev_info there";
        EINVAL, "add-dev.queue-id", |s| certainly(s.queue_id() != u16::MAX),
            "cmd.queue_id, bytes 52 and 53, is not 0xffff, which ADD_DEV wants there",
            "set cmd.queue_id to 0xffff (-1)";
        EFAULT, "add-dev.address", |s| s.bad_address(),
            "struct ublksrv_ctrl_dev_info cannot be read or written at cmd.addr",
            "keep the buffer mapped and writable, and write its address to bytes 56 to 63 of the entry";
        EINVAL, "add-dev.queue-depth", |s| s.info(|i| !(1..=4096).contains(&i.u16(offset_of!(ublksrv_ctrl_dev_info, queue_depth)))),
            "queue_depth, bytes 2 and 3 of the device info, is not 1 to 4096",
            "ask for a depth of 1 to 4096";
        EINVAL, "add-dev.queues", |s| s.info(|i| !(1..=4096).contains(&i.u16(offset_of!(ublksrv_ctrl_dev_info, nr_hw_queues)))),
            "nr_hw_queues, bytes 0 and 1 of the device info, is not 1 to 4096",
            "ask for 1 to 4096 queues; the driver gives one for each CPU at most";
        EPERM, "add-dev.cap-sys-admin", |s| if s.info(|i| asks(i, Features::UNPRIVILEGED_DEV)) == Holds::Certainly { Holds::No } else { s.lacks_admin() },
            "adding a device that is not unprivileged takes CAP_SYS_ADMIN in the initial user namespace; a container that is root of its own namespace does not have it",
            "run as root of the machine, or ask for UBLK_F_UNPRIVILEGED_DEV";
        EINVAL, "add-dev.recovery" since (6, 13), |s| s.asks_so(|i| !fair_recovery(i)),
            "the recovery features do not go together: UBLK_F_USER_RECOVERY_REISSUE and UBLK_F_USER_RECOVERY_FAIL_IO need UBLK_F_USER_RECOVERY, and exclude each other",
            "ask for USER_RECOVERY alone, or with one of the two";
        EINVAL, "add-dev.quiesce" since (6, 16), |s| s.asks_so(|i| asks(i, Features::QUIESCE) && !asks(i, Features::USER_RECOVERY)),
            "UBLK_F_QUIESCE needs UBLK_F_USER_RECOVERY",
            "ask for both";
        EINVAL, "add-dev.unprivileged-data", |s| match s.asks_so(|i| asks(i, Features::UNPRIVILEGED_DEV) && (asks(i, Features::USER_COPY) || asks(i, Features::SUPPORT_ZERO_COPY) || asks(i, Features::AUTO_BUF_REG))) {
                // Of a caller with the capability the driver drops UNPRIVILEGED_DEV.
                Holds::Certainly => s.lacks_admin(),
                unknown => unknown,
            },
            "an unprivileged device takes none of UBLK_F_USER_COPY, UBLK_F_SUPPORT_ZERO_COPY and UBLK_F_AUTO_BUF_REG",
            "serve it in copy mode, or with UBLK_F_NEED_GET_DATA, UBLK_F_SHMEM_ZC or UBLK_F_BATCH_IO";
        EINVAL, "add-dev.integrity" since (7, 0), |s| s.asks_so(|i| asks(i, Features::INTEGRITY) && !asks(i, Features::USER_COPY)),
            "UBLK_F_INTEGRITY needs UBLK_F_USER_COPY",
            "ask for both";
        EINVAL, "add-dev.io-desc-size" since (7, 3), |s| s.asks_so(|i| {
                let size = i.u16(offset_of!(ublksrv_ctrl_dev_info, io_desc_size));
                asks(i, Features::IO_DESC_SIZE) && !((24..=256).contains(&size) && size % 8 == 0)
            }),
            "with UBLK_F_IO_DESC_SIZE, io_desc_size, bytes 6 and 7 of the device info, is 24 to 256 and a multiple of 8",
            "ask for 24, or drop the feature";
        EINVAL, "add-dev.id-differs", |s| s.info(|i| i.u32(offset_of!(ublksrv_ctrl_dev_info, dev_id)) != s.dev_id()),
            "cmd.dev_id, bytes 48 to 51, and dev_id, bytes 12 to 15 of the device info, are not the same",
            "write the id to both, or 0xffffffff (-1) for one of the driver's choice";
        EINVAL, "add-dev.id-range", |s| certainly(s.dev_id() != u32::MAX && s.dev_id() >= 1 << 20),
            "the id is 1048576 or more",
            "ask for a smaller id, or 0xffffffff (-1) for one of the driver's choice";
        Answer::Silence, "add-dev.driver-busy", |_| Holds::Possibly,
            "the driver adds no device while it waits for another to be stopped or deleted, and that one's server has a request that it does not answer",
            "end that server: ublkctl list shows the devices and their servers";
        EINTR, "add-dev.killed", |_| Holds::Possibly,
            "the process was being killed while it waited for another command to end",
            "look whether the device is there before it is added again";
        EACCES, "add-dev.ublks-max", |s| match (s.lacks_admin(), s.environment.unprivileged_devices, s.environment.unprivileged_devices_max) {
                (Holds::No, ..) => Holds::No,
                (_, Some(there), Some(most)) => certainly(there >= most),
                _ => Holds::Possibly,
            },
            "there are as many unprivileged devices as the module parameter ublks_max allows (/sys/module/ublk_drv/parameters/ublks_max)",
            "delete one, or raise it";
        EEXIST, "add-dev.id-taken", |s| possibly(s.dev_id() != u32::MAX),
            "the id is taken; a device that was deleted has it as long as somebody holds its files",
            "ask for another, or for 0xffffffff (-1), one of the driver's choice";
        ENOSPC, "add-dev.no-id", |s| possibly(s.dev_id() == u32::MAX),
            "every id is taken",
            "delete devices";
        EINVAL, "add-dev.zoned" since (6, 6), |s| match s.asks_so(|i| asks(i, Features::ZONED)) {
                Holds::Certainly if s.environment.zoned_built == Some(false) => Holds::Certainly,
                Holds::Certainly => s.asks_so(|i| !asks(i, Features::USER_COPY) && !asks(i, Features::SUPPORT_ZERO_COPY)),
                unknown => unknown,
            },
            "UBLK_F_ZONED needs UBLK_F_USER_COPY or UBLK_F_SUPPORT_ZERO_COPY, and a kernel with CONFIG_BLK_DEV_ZONED",
            "ask for one of the two beside it";
        ENOMEM, "add-dev.memory", |_| Holds::Possibly,
            "the kernel has no memory for so many queues of this depth",
            "ask for fewer queues or less depth";
        Answer::Taken, "add-dev.unknown-features", |s| s.info(|i| i.u64(offset_of!(ublksrv_ctrl_dev_info, flags)) & !known_features() != 0 && s.environment.kernel.is_none_or(|kernel| kernel <= (7, 3))),
            "flags, bytes 24 to 31 of the device info, have a bit that Linux 7.3 does not know; the driver drops it without a word",
            "compare the flags that come back with those that were asked for";
        Answer::Taken, "add-dev.dropped-features", |s| match s.environment.offered {
                Some(offered) => s.info(|i| asked(i) & known_features() & !offered.bits() != 0),
                None => Holds::No,
            },
            "a feature in flags, bytes 24 to 31 of the device info, is not offered by this driver, which drops it without a word",
            "compare the flags that come back with those that were asked for; ublkctl features has the first Linux of each";
        Answer::Taken, "add-dev.max-io", |s| s.info(|i| i.u32(offset_of!(ublksrv_ctrl_dev_info, max_io_buf_bytes)) < s.page_bytes()),
            "max_io_buf_bytes, bytes 8 to 11 of the device info, is less than a page; the driver adds the device and then refuses every SET_PARAMS for it",
            "ask for a page or more";
        Answer::Taken, "add-dev.max-io-offset", |s| s.info(|i| asks(i, Features::USER_COPY) && i.u32(offset_of!(ublksrv_ctrl_dev_info, max_io_buf_bytes)) > 32 << 20),
            "max_io_buf_bytes, bytes 8 to 11 of the device info, is more than 32 MiB, beyond which the offsets of user copy do not reach",
            "ask for 32 MiB or less";
    }
    Attempt::Command(Command::GET_DEV_INFO), "ublk_ctrl_get_dev_info" {
        EINVAL, "get-dev-info.len", |s| certainly(s.payload_len() < INFO_BYTES),
            "cmd.len, bytes 54 and 55, is less than the 64 bytes of struct ublksrv_ctrl_dev_info",
            "lend 64 bytes, and set cmd.len to 64";
        EINVAL, "get-dev-info.addr", |s| certainly(s.addr() == 0),
            "cmd.addr, bytes 56 to 63, is 0",
            "write the address of a struct ublksrv_ctrl_dev_info there";
        EFAULT, "get-dev-info.address", |s| s.bad_address(),
            "struct ublksrv_ctrl_dev_info cannot be written at cmd.addr",
            "keep the buffer mapped and writable, and write its address to bytes 56 to 63 of the entry";
    }
    Attempt::Command(Command::GET_DEV_INFO2), "ublk_ctrl_get_dev_info" {
        EINVAL, "get-dev-info2.len" since (6, 3), |s| certainly(s.payload_len() < INFO_BYTES),
            "cmd.len, bytes 54 and 55, has no room for the 64 bytes of struct ublksrv_ctrl_dev_info behind the path",
            "set cmd.len to the bytes of the path, its NUL included, and 64";
    }
    Attempt::Command(Command::GET_QUEUE_AFFINITY), "ublk_ctrl_get_queue_affinity" {
        EINVAL, "get-queue-affinity.len", |s| if s.payload_len() % 8 != 0 || s.payload_len() == 0 { Holds::Certainly } else { Holds::Possibly },
            "cmd.len, bytes 54 and 55, is not a multiple of 8, or has fewer bits than the machine can have CPUs",
            "lend 1024 bytes, which is enough for every machine";
        EINVAL, "get-queue-affinity.addr", |s| certainly(s.addr() == 0),
            "cmd.addr, bytes 56 to 63, is 0",
            "write the address of the CPU mask there";
        EINVAL, "get-queue-affinity.queue", |s| told(s.environment.device.map(|device| s.data() >= device.queues().into())),
            "cmd.data, bytes 64 to 71, is not a queue of the device; it has the queue, not cmd.queue_id",
            "write the number of the queue to cmd.data, below the nr_hw_queues that ADD_DEV gave back";
        EFAULT, "get-queue-affinity.address", |s| s.bad_address(),
            "the CPU mask cannot be written at cmd.addr",
            "keep the buffer mapped and writable, and write its address to bytes 56 to 63 of the entry";
    }
    Attempt::Command(Command::START_DEV), "ublk_ctrl_start_dev" {
        EINVAL, "start-dev.data", |s| certainly(s.process() <= 0),
            "cmd.data, bytes 64 to 71, is not the id of a process",
            "write what getpid() gives in the process that opened /dev/ublkcN to byte 64 of the entry";
        EINVAL, "start-dev.no-params", |s| told(s.environment.params_types.map(|types| types & BASIC == 0)),
            "the device has no parameters, or the last SET_PARAMS was refused, which forgets them",
            "send SET_PARAMS with UBLK_PARAM_TYPE_BASIC before";
        EINTR, "start-dev.interrupted", |_| Holds::Possibly,
            "the wait for the tags ended with the process or the ring, or START_DEV was cancelled",
            "fetch every tag of every queue, as many as ADD_DEV gave back, before START_DEV can answer";
        EINVAL, "start-dev.process" since (6, 16), |s| told(s.environment.server_process.map(|server| i64::from(server) != i64::from(s.process()))),
            "cmd.data, bytes 64 to 71, is not the process that opened /dev/ublkcN: a thread's id, a parent's, or one of another pid namespace",
            "write what getpid() gives in the process that opened /dev/ublkcN to byte 64 of the entry";
        EEXIST, "start-dev.live", |s| told(s.state_is(&[State::LIVE])),
            "the device is live already",
            "start it once";
        EEXIST, "start-dev.disk-held", |s| match s.state_is(&[State::LIVE]) {
                Some(true) => Holds::No,
                _ => told(s.environment.block_device_is_open),
            },
            "a client still has the block device of before the stop open",
            "unmount it and end its clients, or delete the device and add it anew";
        EBUSY, "start-dev.stopping" since (7, 3), |s| told(s.environment.was_stopped),
            "the device was stopped, and its server has not let go of the char device",
            "close /dev/ublkcN, its mappings and its rings, and open it anew; or delete the device";
        EINVAL, "start-dev.limits", |s| possibly(s.environment.params_types.is_none_or(|types| types & BASIC != 0)),
            "the block layer refuses the parameters, which the driver took: zones that are open but not active, a logical block above max_sectors, or integrity that contradicts itself",
            "look at the parameters: ublkctl params shows them";
    }
    Attempt::Command(Command::START_DEV), "ublk_wait_dev_ready_and_lock" {
        Answer::Silence, "start-dev.unfetched", |s| s.waits_for_tags(),
            "a tag of a queue was not fetched, and the driver waits for all of them",
            "fetch every tag of every queue, as many as ADD_DEV gave back, and look at each fetch that completed: it was refused";
        Answer::Silence, "start-dev.unserved" until (6, 16), |s| if s.waits_for_tags() == Holds::Certainly { Holds::No } else { Holds::Possibly },
            "the driver reads the partition table before it answers, and nobody serves the queues",
            "serve the queues while START_DEV is under way";
    }
    Attempt::Command(Command::TRY_STOP_DEV), "ublk_ctrl_try_stop_dev" {
        ENODEV, "try-stop-dev.no-disk" since (7, 0), |s| s.has_no_disk(),
            "the device has no block device: it was not started, or was stopped",
            "delete it";
        EBUSY, "try-stop-dev.open" since (7, 0), |s| told(s.environment.block_device_is_open),
            "a client has the block device open",
            "unmount it and end its clients, or send STOP_DEV, which does not ask";
    }
    Attempt::Command(Command::STOP_DEV), "ublk_stop_dev" {
        Answer::Silence, "stop-dev.held", |s| told(s.environment.requests_are_held),
            "the server has a request that it does not answer, and the driver waits for it",
            "answer it, or end the server: then the driver answers its client with EIO";
    }
    Attempt::Command(Command::DEL_DEV_ASYNC), "ublk_stop_dev" {
        Answer::Silence, "del-dev-async.held", |s| told(s.environment.requests_are_held),
            "the server has a request that it does not answer, and the driver waits for it",
            "answer it, or end the server: then the driver answers its client with EIO";
    }
    Attempt::Command(Command::DEL_DEV), "ublk_ctrl_del_dev" {
        Answer::Silence, "del-dev.file-held", |s| if s.environment.requests_are_held == Some(true) { Holds::No } else { told(s.environment.char_device_is_open) },
            "somebody has the char device open, and the driver waits for the last one: a descriptor, a mapping, a ring's registered file, or a child of fork",
            "close it first, in this process too, or send DEL_DEV_ASYNC, which does not wait";
        Answer::Silence, "del-dev.held", |s| told(s.environment.requests_are_held),
            "the server has a request that it does not answer, and the driver waits for it",
            "answer it, or end the server: then the driver answers its client with EIO";
        EINTR, "del-dev.interrupted", |_| Holds::Possibly,
            "the wait for the last holder of the device's files was interrupted; the deletion goes on",
            "look whether the device is gone before its id is used again";
    }
    Attempt::Command(Command::UPDATE_SIZE), "ublk_ctrl_set_size" {
        ENODEV, "update-size.no-disk" since (6, 16), |s| s.has_no_disk(),
            "the device has no block device: it was not started, or was stopped",
            "start it first; its size until then is dev_sectors of SET_PARAMS";
    }
    Attempt::Command(Command::START_USER_RECOVERY), "ublk_ctrl_start_recovery" {
        EINVAL, "start-recovery.feature", |s| told(s.device_lacks(Features::USER_RECOVERY)),
            "the device was added without UBLK_F_USER_RECOVERY",
            "delete it and add it with that feature";
        EBUSY, "start-recovery.server", |s| told(s.environment.char_device_is_open),
            "a process has the char device open: the last server has not ended, or the kernel has not let go of it yet",
            "wait until it has ended, and send the command again";
        EBUSY, "start-recovery.state", |s| told(s.state_is(&[State::QUIESCED, State::FAIL_IO]).map(|waits| !waits)),
            "the device does not wait for a new server: its state is not QUIESCED or FAIL_IO",
            "recover only what has lost its server";
    }
    Attempt::Command(Command::END_USER_RECOVERY), "ublk_ctrl_end_recovery" {
        Answer::Silence, "end-recovery.unfetched", |s| s.waits_for_tags(),
            "a tag of a queue was not fetched, and the driver waits for all of them",
            "fetch every tag of every queue, and look at each fetch that completed: it was refused";
        EINTR, "end-recovery.interrupted", |_| Holds::Possibly,
            "the wait for the tags ended with the process or the ring, or the command was cancelled",
            "fetch every tag of every queue before END_USER_RECOVERY can answer";
        EINVAL, "end-recovery.process" since (6, 16), |s| match s.environment.server_process {
                Some(server) => certainly(i64::from(server) != i64::from(s.process())),
                None => told((s.process() <= 0).then_some(true)),
            },
            "cmd.data, bytes 64 to 71, is not the process that opened /dev/ublkcN",
            "write what getpid() gives in the process that opened /dev/ublkcN to byte 64 of the entry";
        EINVAL, "end-recovery.feature", |s| told(s.device_lacks(Features::USER_RECOVERY)),
            "the device was added without UBLK_F_USER_RECOVERY",
            "delete it and add it with that feature";
        EBUSY, "end-recovery.state", |s| told(s.state_is(&[State::QUIESCED, State::FAIL_IO]).map(|waits| !waits)),
            "the device does not wait for a new server: its state is not QUIESCED or FAIL_IO",
            "send START_USER_RECOVERY first, and END_USER_RECOVERY once";
    }
    Attempt::Command(Command::QUIESCE_DEV), "ublk_ctrl_quiesce_dev" {
        EOPNOTSUPP, "quiesce-dev.feature" since (6, 16), |s| told(s.device_lacks(Features::QUIESCE)),
            "the device was added without UBLK_F_QUIESCE",
            "add it with that feature and UBLK_F_USER_RECOVERY";
        ENODEV, "quiesce-dev.no-disk" since (6, 16), |s| s.has_no_disk(),
            "the device has no block device: it was not started, or was stopped",
            "quiesce what is live";
        EBUSY, "quiesce-dev.time-out" since (6, 16), |_| Holds::Possibly,
            "the requests that the server has were not answered within the milliseconds in cmd.data, bytes 64 to 71",
            "answer them, or wait for longer; 0 is for ever";
        EINTR, "quiesce-dev.interrupted" since (6, 16), |_| Holds::Possibly,
            "the wait was interrupted by a signal",
            "send the command again";
    }
    Attempt::Command(Command::REG_BUF), "ublk_ctrl_reg_buf" {
        EOPNOTSUPP, "reg-buf.feature" since (7, 1), |s| told(s.device_lacks(Features::SHMEM_ZC)),
            "the device was added without UBLK_F_SHMEM_ZC",
            "add it with that feature";
        EFAULT, "reg-buf.address" since (7, 1), |_| Holds::Possibly,
            "struct ublk_shmem_buf_reg cannot be read at cmd.addr, or the memory that it names cannot be pinned: a file on a disk, or not mapped throughout",
            "register a whole mapping of a memfd or of huge pages";
        EINVAL, "reg-buf.flags" since (7, 1), |s| s.payload_is(|b| b.u32(offset_of!(ublk_shmem_buf_reg, flags)) & !1 != 0 || b.u32(offset_of!(ublk_shmem_buf_reg, reserved)) != 0),
            "flags or reserved of struct ublk_shmem_buf_reg have a bit that the driver does not know",
            "clear the struct before it is filled";
        EINVAL, "reg-buf.range" since (7, 1), |s| s.payload_is(|b| {
                let (addr, len, in_page) = (b.u64(offset_of!(ublk_shmem_buf_reg, addr)), b.u64(offset_of!(ublk_shmem_buf_reg, len)), u64::from(s.page_bytes()) - 1);
                len == 0 || len > 1 << 32 || (len | addr) & in_page != 0
            }),
            "the memory is not whole pages, or none, or more than 4 GiB",
            "register whole pages, 4 GiB at most at once";
        EEXIST, "reg-buf.registered" since (7, 1), |_| Holds::Possibly,
            "a page of it is registered already, by this server or by one before it",
            "unregister it first (UNREG_BUF); a registration is the device's and outlives its server";
        ENOSPC, "reg-buf.full" since (7, 1), |_| Holds::Possibly,
            "the device has 65536 registrations",
            "unregister some";
        ENOMEM, "reg-buf.memory" since (7, 1), |_| Holds::Possibly,
            "the kernel has no memory for the registration",
            "register less";
    }
    Attempt::Command(Command::UNREG_BUF), "ublk_ctrl_unreg_buf" {
        EOPNOTSUPP, "unreg-buf.feature" since (7, 1), |s| told(s.device_lacks(Features::SHMEM_ZC)),
            "the device was added without UBLK_F_SHMEM_ZC",
            "add it with that feature";
        EINVAL, "unreg-buf.index" since (7, 1), |s| certainly(s.data() > 65535),
            "cmd.data, bytes 64 to 71, is not an index: 0 to 65535",
            "write what REG_BUF answered to byte 64 of the entry";
        ENOENT, "unreg-buf.unknown" since (7, 1), |_| Holds::Possibly,
            "nothing is registered by the index in cmd.data, bytes 64 to 71",
            "write what REG_BUF answered to byte 64 of the entry";
    }
}

impl Seen<'_> {
    /// `struct ublksrv_ctrl_dev_info`, as far as it is known.
    fn info(&self, broken: impl FnOnce(&[u8]) -> bool) -> Holds {
        self.payload_is(broken)
    }

    /// The same of features: what the driver does not know it drops before it looks.
    fn asks_so(&self, broken: impl FnOnce(&[u8]) -> bool) -> Holds {
        let Some(offered) = self.environment.offered else { return self.info(broken) };
        let at = offset_of!(ublksrv_ctrl_dev_info, flags);
        let mut copy = [0_u8; size_of::<ublksrv_ctrl_dev_info>()];
        for (to, from) in copy.iter_mut().zip(self.payload()) {
            *to = *from;
        }
        let kept = (copy.u64(at) & offered.bits()).to_ne_bytes();
        if let Some(flags) = copy.get_mut(at..at + kept.len()) {
            flags.copy_from_slice(&kept);
        }
        self.info(|_| broken(&copy))
    }

    /// Whether the driver looks for a device.
    fn needs_device(&self) -> bool {
        !self.is(Command::ADD_DEV) && !self.is(Command::GET_FEATURES)
    }

    fn device_is_missing(&self) -> Holds {
        let impossible = i32::from_ne_bytes(self.dev_id().to_ne_bytes()) < 0;
        told(if impossible { Some(true) } else { self.environment.device_exists.map(|exists| !exists) })
    }

    fn needs_right(&self) -> bool {
        self.needs_device() && self.is_unprivileged() != Holds::Certainly
    }

    fn lacks_admin(&self) -> Holds {
        told(self.environment.cap_sys_admin.map(|has| !has))
    }

    fn is_unprivileged(&self) -> Holds {
        told(self.device_lacks(Features::UNPRIVILEGED_DEV).map(|lacks| !lacks))
    }

    fn may_take_path(&self) -> bool {
        self.needs_device() && self.path_len() != 0
    }

    /// Nothing but the address itself shows that it is bad.
    fn bad_address(&self) -> Holds {
        possibly(self.len() > 0)
    }

    fn is_too_new(&self) -> Holds {
        let Some(since) = self.command().and_then(Command::since).and_then(release) else { return Holds::No };
        told(self.environment.kernel.map(|kernel| kernel < since))
    }

    /// `data[0]` as the driver reads the id of a process.
    fn process(&self) -> i32 {
        let [a, b, c, d, ..] = self.data().to_le_bytes();
        i32::from_le_bytes([a, b, c, d])
    }

    fn waits_for_tags(&self) -> Holds {
        told(self.environment.queues_are_ready.map(|ready| !ready))
    }

    fn has_no_disk(&self) -> Holds {
        told(self.state_is(&[State::DEAD]))
    }
}

/// `6.12` as two numbers.
fn release(text: &str) -> Option<(u16, u16)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn asked(info: &[u8]) -> u64 {
    info.u64(offset_of!(ublksrv_ctrl_dev_info, flags))
}

fn asks(info: &[u8], feature: Features) -> bool {
    asked(info) & feature.bits() != 0
}

fn known_features() -> u64 {
    Features::KNOWN.iter().fold(0, |all, (feature, _)| all | feature.bits())
}

fn fair_recovery(info: &[u8]) -> bool {
    let (reissue, fail) = (asks(info, Features::USER_RECOVERY_REISSUE), asks(info, Features::USER_RECOVERY_FAIL_IO));
    !(reissue || fail) || asks(info, Features::USER_RECOVERY) && !(reissue && fail)
}
