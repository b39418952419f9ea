// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory without an atomic in it.
#![expect(unsafe_code, reason = "a slot that several threads use; loom says where they may not")]

use loom::cell::Cell;

/// Loom fails where two accesses, one of them a write, are not ordered.
#[derive(Debug)]
pub(crate) struct Slot<T>(Cell<T>);

// SAFETY: loom runs one thread at a time. Where accesses from two are not ordered by what the model does, it panics, before
// there is one.
unsafe impl<T: Send> Sync for Slot<T> {}

impl<T: Copy> Slot<T> {
    pub(crate) fn several(count: u32, value: T) -> Vec<Slot<T>> {
        (0..count).map(|_| Slot(Cell::new(value))).collect()
    }

    pub(crate) fn get(&self) -> T {
        self.0.get()
    }

    pub(crate) fn set(&self, value: T) {
        self.0.set(value);
    }
}
