// SPDX-License-Identifier: MIT OR Apache-2.0
//! Until when something is waited for.

use core::time::Duration;

use crate::syscall;

/// A moment after which nothing is waited for any more.
///
/// In nanoseconds of the monotonic clock, which last for 584 years. Sums and differences of [`Duration`] have a panic in
/// them that the compiler does not always see to be out of reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline(u64);

impl Deadline {
    /// The moment when `patience` from now is over.
    pub(crate) fn after(patience: Duration) -> Deadline {
        Deadline(nanoseconds(syscall::monotonic()).saturating_add(nanoseconds(patience)))
    }

    pub(crate) fn is_over(self) -> bool {
        self.time_left().is_zero()
    }

    pub(crate) fn time_left(self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(nanoseconds(syscall::monotonic())))
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::Deadline;
    use core::time::Duration;

    #[test]
    fn a_deadline_without_end_is_never_over_and_one_of_nothing_at_once() {
        assert!(!Deadline::after(Duration::MAX).is_over());
        assert!(Deadline::after(Duration::ZERO).is_over());
        assert_eq!(Deadline::after(Duration::ZERO).time_left(), Duration::ZERO);
    }
}
