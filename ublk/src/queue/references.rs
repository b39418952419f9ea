// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many references there are to what threads share, so that the last one to go ends it.
//!
//! `tools/ring-model` compiles this file with loom's atomics, and weakens its orderings: every such copy has to fail.

use core::sync::atomic::Ordering;

use crate::queue::atomic::AtomicU32;

/// A count of references.
#[derive(Debug)]
pub(super) struct References {
    count: AtomicU32,
}

impl References {
    /// Of the first one.
    pub(super) fn one() -> References {
        References { count: AtomicU32::new(1) }
    }

    /// Counts one more. Called by whoever has one.
    pub(super) fn add(&self) {
        // ORDERING: a new reference comes from one that lives, so that nothing can end meanwhile.
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one less. Whether that was the last: then it ends what was shared, and any other looks at it no more.
    #[must_use]
    pub(super) fn remove(&self) -> bool {
        // ORDERING: Release, so that all that this reference did is done before the last one ends what was shared; Acquire, so
        // that the last one ends it after all that the others did.
        self.count.fetch_sub(1, Ordering::AcqRel) == 1
    }
}
