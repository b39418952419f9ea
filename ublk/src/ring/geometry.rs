// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the words and arrays of a ring lie in its memory, as the kernel says, checked before it is believed.

use ublk_sys::{
    IORING_FEAT_EXT_ARG, IORING_FEAT_NODROP, IORING_FEAT_SINGLE_MMAP, IORING_SETUP_NO_SQARRAY, io_uring_cqe,
    io_uring_params,
};

use crate::error::Error;
use crate::units::{u64_from, usize_from};

/// The most entries that the kernel gives a submission queue (`IORING_MAX_ENTRIES`) and a completion queue.
const MAX_SUBMISSIONS: u32 = 32_768;
const MAX_COMPLETIONS: u32 = 2 * MAX_SUBMISSIONS;

/// What this crate relies on, all of it older than the first Linux that it supports.
const NEEDED: u32 = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG;

/// Offsets in bytes from the start of the ring's mapping.
///
/// Invariant G1: every word is 4-aligned, `completions` is 8-aligned, and each with its full length ends at or before
/// `ring_bytes`. No two of them overlap.
///
/// Invariant G2: `submission_entries` and `completion_entries` are powers of two, so that `entries - 1` masks a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) submission_entries: u32,
    pub(super) completion_entries: u32,
    pub(super) submission_head: usize,
    pub(super) submission_tail: usize,
    pub(super) submission_mask: usize,
    pub(super) submission_flags: usize,
    /// The array of indices into the submission entries; a ring without it takes the entries in order.
    pub(super) submission_array: Option<usize>,
    pub(super) completion_head: usize,
    pub(super) completion_tail: usize,
    pub(super) completion_mask: usize,
    pub(super) completion_overflow: usize,
    pub(super) completions: usize,
    /// Length of the mapping that holds all of these.
    pub(super) ring_bytes: usize,
    /// Length of the mapping that holds the submission entries.
    pub(super) submissions_bytes: usize,
}

impl Geometry {
    /// Checks what `io_uring_setup` returned for a ring whose submission entries have `entry_bytes` each.
    pub(super) fn check(
        params: &io_uring_params,
        asked_submissions: u32,
        asked_completions: u32,
        entry_bytes: usize,
    ) -> Result<Geometry, Error> {
        let implausible = |what, value| Err(Error::Implausible { what, value });
        if params.features & NEEDED != NEEDED {
            return implausible("io_uring features", params.features.into());
        }
        let (submissions, completions) = (params.sq_entries, params.cq_entries);
        if !submissions.is_power_of_two() || submissions < asked_submissions || submissions > MAX_SUBMISSIONS {
            return implausible("sq_entries", submissions.into());
        }
        if !completions.is_power_of_two() || completions < asked_completions || completions > MAX_COMPLETIONS {
            return implausible("cq_entries", completions.into());
        }

        let (sq, cq) = (&params.sq_off, &params.cq_off);
        let array = (params.flags & IORING_SETUP_NO_SQARRAY == 0).then_some(sq.array);
        let array_bytes = usize_from(submissions) * size_of::<u32>();
        let completions_bytes = usize_from(completions) * size_of::<io_uring_cqe>();
        let parts = [
            ("sq_off.head", sq.head, 4, 4),
            ("sq_off.tail", sq.tail, 4, 4),
            ("sq_off.ring_mask", sq.ring_mask, 4, 4),
            ("sq_off.flags", sq.flags, 4, 4),
            ("cq_off.head", cq.head, 4, 4),
            ("cq_off.tail", cq.tail, 4, 4),
            ("cq_off.ring_mask", cq.ring_mask, 4, 4),
            ("cq_off.overflow", cq.overflow, 4, 4),
            ("cq_off.cqes", cq.cqes, completions_bytes, 8),
            ("sq_off.array", array.unwrap_or(0), if array.is_some() { array_bytes } else { 0 }, 4),
        ];
        // The kernel's rings end with one of the two arrays; whatever lies behind both is a wrong offset.
        let ring_bytes = (usize_from(cq.cqes).saturating_add(completions_bytes))
            .max(array.map_or(0, |offset| usize_from(offset).saturating_add(array_bytes)));
        for (index, &(what, offset, len, align)) in parts.iter().enumerate() {
            let start = usize_from(offset);
            let misplaced = start & (align - 1) != 0 || start.checked_add(len).is_none_or(|end| end > ring_bytes);
            let overlaps = parts[..index].iter().any(|&(_, other, other_len, _)| {
                let other = usize_from(other);
                len > 0 && start < other.saturating_add(other_len) && other < start.saturating_add(len)
            });
            if misplaced || overlaps {
                return implausible(what, offset.into());
            }
        }
        // 32,768 entries of 128 bytes and 65,536 completions need 5 MiB; the words before them a few hundred bytes.
        if ring_bytes > 16 << 20 {
            return implausible("the ring's length", u64_from(ring_bytes));
        }
        Ok(Geometry {
            submission_entries: submissions,
            completion_entries: completions,
            submission_head: usize_from(sq.head),
            submission_tail: usize_from(sq.tail),
            submission_mask: usize_from(sq.ring_mask),
            submission_flags: usize_from(sq.flags),
            submission_array: array.map(usize_from),
            completion_head: usize_from(cq.head),
            completion_tail: usize_from(cq.tail),
            completion_mask: usize_from(cq.ring_mask),
            completion_overflow: usize_from(cq.overflow),
            completions: usize_from(cq.cqes),
            ring_bytes,
            submissions_bytes: usize_from(submissions) * entry_bytes,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::Geometry;
    use crate::error::Error;
    use ublk_sys::{IORING_SETUP_NO_SQARRAY, io_uring_params};

    /// What Linux 7.3 returns for a ring with the index array.
    pub(in crate::ring) fn plausible(submissions: u32, completions: u32) -> io_uring_params {
        let mut params = io_uring_params::default();
        params.sq_entries = submissions;
        params.cq_entries = completions;
        params.features = super::NEEDED;
        params.sq_off.head = 0;
        params.sq_off.tail = 4;
        params.sq_off.ring_mask = 16;
        params.sq_off.ring_entries = 24;
        params.sq_off.flags = 36;
        params.sq_off.dropped = 32;
        params.sq_off.array = 64 + completions * 16;
        params.cq_off.head = 8;
        params.cq_off.tail = 12;
        params.cq_off.ring_mask = 20;
        params.cq_off.ring_entries = 28;
        params.cq_off.overflow = 44;
        params.cq_off.cqes = 64;
        params
    }

    fn refused(change: impl FnOnce(&mut io_uring_params)) -> &'static str {
        let mut params = plausible(8, 16);
        change(&mut params);
        match Geometry::check(&params, 8, 16, 64) {
            Err(Error::Implausible { what, .. }) => what,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn what_the_kernel_returns_is_believed() {
        let geometry = Geometry::check(&plausible(8, 16), 8, 16, 128).unwrap();
        assert_eq!((geometry.ring_bytes, geometry.submissions_bytes), (64 + 256 + 32, 8 * 128));
        assert_eq!(geometry.submission_array, Some(320));
    }

    #[test]
    fn without_the_index_array_its_offset_is_not_looked_at() {
        let mut params = plausible(8, 16);
        params.flags = IORING_SETUP_NO_SQARRAY;
        params.sq_off.array = u32::MAX;
        assert_eq!(Geometry::check(&params, 8, 16, 64).unwrap().submission_array, None);
    }

    #[test]
    fn hostile_counts_are_refused() {
        assert_eq!(refused(|params| params.sq_entries = 0), "sq_entries");
        assert_eq!(refused(|params| params.sq_entries = 4), "sq_entries");
        assert_eq!(refused(|params| params.sq_entries = 12), "sq_entries");
        assert_eq!(refused(|params| params.sq_entries = 1 << 31), "sq_entries");
        assert_eq!(refused(|params| params.cq_entries = 8), "cq_entries");
        assert_eq!(refused(|params| params.cq_entries = 1 << 17), "cq_entries");
        assert_eq!(refused(|params| params.features = 0), "io_uring features");
    }

    #[test]
    fn hostile_offsets_are_refused() {
        assert_eq!(refused(|params| params.sq_off.tail = 5), "sq_off.tail");
        assert_eq!(refused(|params| params.sq_off.tail = 0), "sq_off.tail");
        assert_eq!(refused(|params| params.cq_off.tail = u32::MAX - 3), "cq_off.tail");
        assert_eq!(refused(|params| params.cq_off.cqes = 0), "cq_off.cqes");
        assert_eq!(refused(|params| params.cq_off.cqes = 60), "cq_off.cqes");
        assert_eq!(refused(|params| params.sq_off.array = 64), "sq_off.array");
        assert_eq!(refused(|params| params.sq_off.array = 1 << 30), "the ring's length");
    }
}
