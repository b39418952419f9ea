// SPDX-License-Identifier: MIT OR Apache-2.0
//! In place of the crate's atomics: loom's.

pub(super) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
