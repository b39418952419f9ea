// SPDX-License-Identifier: MIT OR Apache-2.0
//! The words that threads share here. `tools/ring-model` has loom's of the same names in this place.

pub(super) use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
