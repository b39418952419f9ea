// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a ring's head or tail stands.

/// A head or a tail: a counter of 32 bits that only goes forward and wraps at 2^32.
///
/// Two positions have a distance and no order, so this type has no `Ord` and no `+`: a comparison with `<` is right for
/// four billion operations, and then wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Position(u32);

impl Position {
    pub(super) const fn new(counter: u32) -> Position {
        Position(counter)
    }

    pub(super) const fn raw(self) -> u32 {
        self.0
    }

    /// The position `count` further on.
    pub(super) const fn advanced(self, count: u32) -> Position {
        Position(self.0.wrapping_add(count))
    }

    /// How far this position is ahead of `earlier`.
    pub(super) const fn since(self, earlier: Position) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// The slot of this position in an array whose length is `mask + 1`, a power of two.
    pub(super) const fn slot(self, mask: u32) -> u32 {
        self.0 & mask
    }
}

static_assertions::assert_not_impl_any!(Position: PartialOrd, core::ops::Add<u32>);

#[cfg(test)]
mod tests {
    use super::Position;

    #[test]
    fn position_survives_the_wrap_at_u32_max() {
        let before = Position::new(u32::MAX);
        let after = before.advanced(2);
        assert_eq!(after, Position::new(1));
        assert_eq!(after.since(before), 2);
        assert_eq!([before.slot(7), before.advanced(1).slot(7), after.slot(7)], [7, 0, 1]);
    }
}
