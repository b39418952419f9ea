// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a target says that it does on its queue's ring, so that the kernel lets the ring do nothing else.

use ublk_sys::{
    IORING_OP_FALLOCATE, IORING_OP_FSYNC, IORING_OP_POLL_ADD, IORING_OP_READ, IORING_OP_READ_FIXED, IORING_OP_READV,
    IORING_OP_READV_FIXED, IORING_OP_RECV, IORING_OP_SEND, IORING_OP_TIMEOUT, IORING_OP_URING_CMD, IORING_OP_WRITE,
    IORING_OP_WRITE_FIXED, IORING_OP_WRITEV, IORING_OP_WRITEV_FIXED, IORING_REGISTER_BUFFERS_UPDATE,
    IORING_REGISTER_PBUF_RING, IORING_UNREGISTER_PBUF_RING, IOSQE_ASYNC, IOSQE_BUFFER_SELECT, IOSQE_FIXED_FILE,
    IOSQE_IO_LINK,
};

use crate::ring::Restrictions;

/// A kind of [operations](crate::Operations) that a target has on its queue's ring (`IORING_OP_*`, many).
///
/// A poll, and the command that discards blocks of a device, are no kinds of their own: a queue needs both itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RingOperation {
    /// [`read`](crate::Operations::read) and [`read_vectored`](crate::Operations::read_vectored).
    Read,
    /// [`write`](crate::Operations::write) and [`write_vectored`](crate::Operations::write_vectored).
    Write,
    /// [`fsync`](crate::Operations::fsync) and [`fdatasync`](crate::Operations::fdatasync).
    Sync,
    /// [`fallocate`](crate::Operations::fallocate).
    Fallocate,
    /// [`timeout`](crate::Operations::timeout).
    Timeout,
    /// [`send`](crate::Operations::send).
    Send,
    /// [`receive`](crate::Operations::receive).
    Receive,
}

static_assertions::assert_impl_all!(RingOperation: Send, Sync);

/// What a queue's ring is for, beside the operations of its target.
#[derive(Clone, Copy, Debug)]
pub(super) struct Purpose {
    /// Operations find data among the ring's buffers. Older kernels take no rule about such operations on several ranges.
    pub(super) has_buffers: bool,
    /// Buffers are put there while the queue serves.
    pub(super) shares: bool,
    pub(super) in_batches: bool,
}

impl Purpose {
    /// The rules for a ring of this purpose whose target has these operations.
    pub(super) fn rules(self, operations: &[RingOperation]) -> Restrictions {
        let low = |register: u32| register.to_le_bytes()[0];
        let mut flags = IOSQE_FIXED_FILE | IOSQE_IO_LINK | IOSQE_ASYNC;
        let mut rules = Restrictions::new().operation(IORING_OP_URING_CMD).operation(IORING_OP_POLL_ADD);
        if self.shares {
            rules = rules.registration(low(IORING_REGISTER_BUFFERS_UPDATE));
        }
        if self.in_batches {
            flags |= IOSQE_BUFFER_SELECT;
            rules = rules.registration(low(IORING_REGISTER_PBUF_RING));
            rules = rules.registration(low(IORING_UNREGISTER_PBUF_RING));
        }
        for (index, operation) in operations.iter().enumerate() {
            // Said twice is said once: there is room for each kind, and not for more.
            if !operations.iter().take(index).any(|before| before == operation) {
                rules = operation.opcodes(self.has_buffers).iter().fold(rules, |rules, code| rules.operation(*code));
            }
        }
        rules.flags(flags)
    }
}

impl RingOperation {
    const fn opcodes(self, has_buffers: bool) -> &'static [u8] {
        match self {
            RingOperation::Read if has_buffers => {
                &[IORING_OP_READ, IORING_OP_READV, IORING_OP_READ_FIXED, IORING_OP_READV_FIXED]
            }
            RingOperation::Read => &[IORING_OP_READ, IORING_OP_READV],
            RingOperation::Write if has_buffers => {
                &[IORING_OP_WRITE, IORING_OP_WRITEV, IORING_OP_WRITE_FIXED, IORING_OP_WRITEV_FIXED]
            }
            RingOperation::Write => &[IORING_OP_WRITE, IORING_OP_WRITEV],
            RingOperation::Sync => &[IORING_OP_FSYNC],
            RingOperation::Fallocate => &[IORING_OP_FALLOCATE],
            RingOperation::Timeout => &[IORING_OP_TIMEOUT],
            RingOperation::Send => &[IORING_OP_SEND],
            RingOperation::Receive => &[IORING_OP_RECV],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Purpose, RingOperation};

    #[test]
    fn there_is_room_for_the_rules_of_every_target_whatever_it_says_twice() {
        let all = [
            RingOperation::Read,
            RingOperation::Write,
            RingOperation::Sync,
            RingOperation::Fallocate,
            RingOperation::Timeout,
            RingOperation::Send,
            RingOperation::Receive,
        ];
        let twice = [all, all].concat();
        let most = Purpose { has_buffers: true, shares: true, in_batches: true };
        assert!(most.rules(&twice).is_complete());
        assert!(most.rules(&all.repeat(100)).is_complete());
    }
}
