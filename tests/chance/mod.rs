// SPDX-License-Identifier: MIT OR Apache-2.0
//! Chance that can be had again: numbers that follow from a seed.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

use std::time::SystemTime;

/// `splitmix64`.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    pub fn seed_of_the_clock() -> u64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        u64::from(now.map_or(0, |now| now.subsec_nanos()))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below that.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Another source, for another thread.
    pub fn split(&mut self) -> Chance {
        Chance(self.next())
    }
}
