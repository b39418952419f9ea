// SPDX-License-Identifier: MIT OR Apache-2.0
//! A submission entry, as far as the model looks at it.

/// An operation: what it is called, and the buffer that it names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Op {
    pub(super) user_data: u64,
    pub(super) buffer: usize,
}

/// The crate has two kinds of entry; for the model they are one.
pub(super) trait Entry: Copy {
    fn op(&self) -> Op;
}

impl Entry for Op {
    fn op(&self) -> Op {
        *self
    }
}
