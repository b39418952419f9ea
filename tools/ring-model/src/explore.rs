// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every interleaving of a model.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use loom::model::Builder;

/// Runs a model; it says what it went through, and panics where it fails.
pub(crate) type Model = fn() -> String;

/// Runs `model` through every interleaving. It returns whether it went as `way` says. Where that never came about, or always,
/// something was not shown.
pub(crate) fn explore(way: &str, model: fn() -> bool) -> String {
    let (all, so) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let counts = (Arc::clone(&all), Arc::clone(&so));
    let mut builder = Builder::new();
    builder.preemption_bound = None;
    builder.check(move || {
        counts.0.fetch_add(1, Ordering::Relaxed);
        if model() {
            counts.1.fetch_add(1, Ordering::Relaxed);
        }
    });
    let (all, so) = (all.load(Ordering::Relaxed), so.load(Ordering::Relaxed));
    assert!(0 < so && so < all, "{so} of {all} interleavings {way}");
    format!("{all} interleavings, {so} of them {way}")
}
