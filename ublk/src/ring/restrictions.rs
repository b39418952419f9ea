// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a ring is allowed to do.

use ublk_sys::{
    IORING_REGISTER_RING_FDS, IORING_RESTRICTION_REGISTER_OP, IORING_RESTRICTION_SQE_FLAGS_ALLOWED,
    IORING_RESTRICTION_SQE_FLAGS_REQUIRED, IORING_RESTRICTION_SQE_OP, IORING_UNREGISTER_RING_FDS, io_uring_restriction,
};

use crate::error::Error;

/// An allow-list for a ring: operations, registrations and flags (`struct io_uring_restriction`, many).
///
/// What is not on it is refused. Always on it is that the ring is registered with its thread, which is part of enabling it, and
/// ends when it is dropped.
#[derive(Clone, Copy, Debug)]
pub struct Restrictions {
    rules: [io_uring_restriction; Restrictions::MAX],
    /// May be past the end, where there was no room.
    count: usize,
}

static_assertions::assert_impl_all!(Restrictions: Send, Sync);

impl Restrictions {
    /// How many rules there can be, with the two that are always there.
    pub const MAX: usize = 32;

    /// Nothing is allowed.
    #[must_use]
    pub fn new() -> Restrictions {
        let none = Restrictions { rules: [io_uring_restriction::default(); Restrictions::MAX], count: 0 };
        // Their numbers fit the eight bits that are for them.
        let [register, ..] = IORING_REGISTER_RING_FDS.to_le_bytes();
        let [unregister, ..] = IORING_UNREGISTER_RING_FDS.to_le_bytes();
        none.registration(register).registration(unregister)
    }

    /// Allows this operation: one of `IORING_OP_*`.
    #[must_use]
    pub fn operation(self, opcode: u8) -> Restrictions {
        self.with(IORING_RESTRICTION_SQE_OP, opcode)
    }

    /// Allows this registration: one of `IORING_REGISTER_*`, by its lowest byte.
    #[must_use]
    pub fn registration(self, opcode: u8) -> Restrictions {
        self.with(IORING_RESTRICTION_REGISTER_OP, opcode)
    }

    /// Allows operations these flags: bits of `IOSQE_*`. The last call counts.
    #[must_use]
    pub fn flags(self, allowed: u8) -> Restrictions {
        self.with(IORING_RESTRICTION_SQE_FLAGS_ALLOWED, allowed)
    }

    /// Requires these flags of every operation: bits of `IOSQE_*`. The last call counts.
    #[must_use]
    pub fn required_flags(self, required: u8) -> Restrictions {
        self.with(IORING_RESTRICTION_SQE_FLAGS_REQUIRED, required)
    }

    fn with(mut self, kind: u16, which: u8) -> Restrictions {
        if let Some(rule) = self.rules.get_mut(self.count) {
            rule.opcode = kind;
            rule.register_op = which;
        }
        self.count = self.count.saturating_add(1);
        self
    }

    /// Whether there was room for all rules.
    #[cfg(test)]
    pub(crate) fn is_complete(&self) -> bool {
        self.rules().is_ok()
    }

    /// All rules; an error where there were too many.
    pub(super) fn rules(&self) -> Result<&[io_uring_restriction], Error> {
        self.rules.get(..self.count).ok_or(Error::Invalid { what: "a ring has at most 32 restrictions" })
    }
}

impl Default for Restrictions {
    fn default() -> Restrictions {
        Restrictions::new()
    }
}

#[cfg(test)]
mod tests {
    use super::Restrictions;
    use crate::error::Error;

    #[test]
    fn each_rule_says_what_it_is_about_and_one_too_many_is_refused() {
        let some = Restrictions::new().operation(46).registration(6).flags(1).required_flags(2);
        let rules: std::vec::Vec<(u16, u8)> =
            some.rules().unwrap().iter().map(|rule| (rule.opcode, rule.register_op)).collect();
        assert_eq!(rules, [(0, 20), (0, 21), (1, 46), (0, 6), (2, 1), (3, 2)]);
        let full = (2..Restrictions::MAX).fold(Restrictions::new(), |rules, _| rules.operation(0));
        assert_eq!(full.rules().unwrap().len(), Restrictions::MAX);
        assert!(matches!(full.operation(0).rules(), Err(Error::Invalid { .. })));
    }
}
