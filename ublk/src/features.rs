// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a driver can do, and what a device was asked to do.

use core::fmt;

use crate::flag_set::flag_set;

flag_set! {
    /// Features of a driver or a device (`UBLK_F_*`, `ublksrv_ctrl_dev_info.flags`).
    ///
    /// The same bits have two uses: `GET_FEATURES` says what the driver knows, `ADD_DEV` what a device is to have. The
    /// driver clears bits that it does not know without a word, so what came back is compared with what was asked.
    Features(u64) {
        /// The server registers a request's pages as a ring buffer. Works since Linux 6.15; the bit is older.
        SUPPORT_ZERO_COPY = UBLK_F_SUPPORT_ZERO_COPY,
        /// Completions run in the daemon's context. Since Linux 6.0; always set by the driver.
        URING_CMD_COMP_IN_TASK = UBLK_F_URING_CMD_COMP_IN_TASK,
        /// The server chooses the buffer when a WRITE arrives. Since Linux 6.0.
        NEED_GET_DATA = UBLK_F_NEED_GET_DATA,
        /// The block device outlives its server. Since Linux 6.1.
        USER_RECOVERY = UBLK_F_USER_RECOVERY,
        /// Requests that a dead server owned are sent again. Since Linux 6.1.
        USER_RECOVERY_REISSUE = UBLK_F_USER_RECOVERY_REISSUE,
        /// A device that an ordinary user may add. Since Linux 6.3.
        UNPRIVILEGED_DEV = UBLK_F_UNPRIVILEGED_DEV,
        /// Commands are encoded as ioctls are. Since Linux 6.4; always set by the driver.
        CMD_IOCTL_ENCODE = UBLK_F_CMD_IOCTL_ENCODE,
        /// The server copies data with `pread` and `pwrite` on the char device. Since Linux 6.5.
        USER_COPY = UBLK_F_USER_COPY,
        /// A zoned device. Since Linux 6.6.
        ZONED = UBLK_F_ZONED,
        /// Requests fail while no server is there. Since Linux 6.13.
        USER_RECOVERY_FAIL_IO = UBLK_F_USER_RECOVERY_FAIL_IO,
        /// The size can change while the device is live. Since Linux 6.16.
        UPDATE_SIZE = UBLK_F_UPDATE_SIZE,
        /// The driver registers a request's pages before it delivers the request. Since Linux 6.16.
        AUTO_BUF_REG = UBLK_F_AUTO_BUF_REG,
        /// A server can be asked to let go of a live device. Since Linux 6.16.
        QUIESCE = UBLK_F_QUIESCE,
        /// Every tag may have a thread of its own. Since Linux 6.16; set by the driver.
        PER_IO_DAEMON = UBLK_F_PER_IO_DAEMON,
        /// Buffers may be registered by any thread. Since Linux 6.17; set by the driver.
        BUF_REG_OFF_DAEMON = UBLK_F_BUF_REG_OFF_DAEMON,
        /// Commands for many requests at once. Since Linux 7.0.
        BATCH_IO = UBLK_F_BATCH_IO,
        /// Protection information beside the data. Since Linux 7.0.
        INTEGRITY = UBLK_F_INTEGRITY,
        /// `TRY_STOP_DEV` exists. Since Linux 7.0; set by the driver.
        SAFE_STOP_DEV = UBLK_F_SAFE_STOP_DEV,
        /// The partition table is not read when the device starts. Since Linux 7.0.
        NO_AUTO_PART_SCAN = UBLK_F_NO_AUTO_PART_SCAN,
        /// The client's own memory, registered before, instead of a copy. Since Linux 7.1.
        SHMEM_ZC = UBLK_F_SHMEM_ZC,
        /// I/O descriptors larger than 24 bytes. Since Linux 7.3.
        IO_DESC_SIZE = UBLK_F_IO_DESC_SIZE,
    }
}

impl Features {
    /// The first Linux whose driver has this feature; `None` for several, for none, and for one that this crate does not
    /// know. A newer kernel may have been built without it ([`ZONED`](Features::ZONED), [`INTEGRITY`](Features::INTEGRITY)).
    #[must_use]
    pub fn since(self) -> Option<&'static str> {
        // The bit is in every header, and until then no driver gave it.
        if self == Features::SUPPORT_ZERO_COPY {
            return Some("6.15");
        }
        let position = Features::KNOWN.iter().position(|(known, _)| *known == self)?;
        SINCE.get(position).copied().flatten()
    }

    /// Why no device can have these features together, in a sentence that names two of them; `None` where one can.
    ///
    /// Two kinds of combinations are meant: those that the driver refuses with a bare `EINVAL`, and those of which it drops a
    /// feature without a word. [`Control::add`](crate::Control::add) asks this before it sends anything. It is the same for every
    /// Linux: what an older one takes here has no effect there. Whether the driver has a feature at all is another question, for
    /// [`Control::features`](crate::Control::features).
    ///
    /// ```
    /// use ublk::Features;
    ///
    /// assert_eq!(Features::QUIESCE.conflict(), Some("UBLK_F_QUIESCE needs UBLK_F_USER_RECOVERY"));
    /// assert_eq!((Features::QUIESCE | Features::USER_RECOVERY).conflict(), None);
    /// ```
    ///
    /// # Kernel
    ///
    /// `ublk_ctrl_add_dev()` in `drivers/block/ublk_drv.c`.
    #[must_use]
    pub fn conflict(self) -> Option<&'static str> {
        let broken = |rule: &&Rule| {
            let has_other = rule.others.bits() & self.bits() != 0;
            self.contains(rule.feature) && has_other == (rule.relation == Relation::Excludes)
        };
        RULES.iter().find(broken).map(|rule| rule.what)
    }
}

/// Which features a device cannot have together.
struct Rule {
    feature: Features,
    relation: Relation,
    others: Features,
    what: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Relation {
    /// The feature works only with one of the others.
    Needs,
    /// The feature works with none of the others.
    Excludes,
}

/// Each line is a rule, and its own sentence: a part in parentheses is why, where the names do not tell.
macro_rules! rules {
    ($( $feature:ident $relation:ident $first:ident $(or $second:ident)? $(($why:literal))?; )*) => {
        const RULES: &[Rule] = &[$( Rule {
            feature: Features::$feature,
            relation: rules!(@relation $relation),
            others: Features::$first $(.union(Features::$second))?,
            what: concat!(
                "UBLK_F_", stringify!($feature), " ", stringify!($relation), " UBLK_F_", stringify!($first)
                $(, " or UBLK_F_", stringify!($second))? $(, ": ", $why)?
            ),
        }, )*];
    };
    (@relation needs) => { Relation::Needs };
    (@relation excludes) => { Relation::Excludes };
}

rules! {
    USER_RECOVERY_REISSUE needs USER_RECOVERY;
    USER_RECOVERY_FAIL_IO needs USER_RECOVERY;
    USER_RECOVERY_REISSUE excludes USER_RECOVERY_FAIL_IO;
    QUIESCE needs USER_RECOVERY;
    INTEGRITY needs USER_COPY;
    ZONED needs USER_COPY or SUPPORT_ZERO_COPY;
    UNPRIVILEGED_DEV excludes USER_COPY;
    UNPRIVILEGED_DEV excludes SUPPORT_ZERO_COPY;
    UNPRIVILEGED_DEV excludes AUTO_BUF_REG;
    UNPRIVILEGED_DEV excludes USER_RECOVERY ("the driver drops recovery without a word");
    NEED_GET_DATA excludes USER_COPY ("the driver drops it without a word");
    NEED_GET_DATA excludes SUPPORT_ZERO_COPY ("the driver drops it without a word");
    NEED_GET_DATA excludes AUTO_BUF_REG ("the driver drops it without a word");
    NEED_GET_DATA excludes BATCH_IO ("the driver drops it without a word");
    PER_IO_DAEMON excludes BATCH_IO ("the driver drops it without a word");
}

/// For each known feature the first Linux whose header has it.
const SINCE: [Option<&str>; Features::KNOWN.len()] = {
    let mut since = [None; Features::KNOWN.len()];
    let mut index = 0;
    while index < since.len() {
        since[index] = ublk_sys::layout::since(Features::KNOWN[index].1);
        index += 1;
    }
    since
};

/// Features that somebody lacks, each with the Linux that has it.
pub(crate) struct Missing(pub(crate) Features);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (feature, name) in Features::KNOWN {
            if self.0.contains(*feature) {
                write!(f, "{separator}{name}")?;
                if let Some(release) = feature.since() {
                    write!(f, " (since Linux {release})")?;
                }
                separator = ", ";
            }
        }
        let known = Features::KNOWN.iter().fold(Features::NONE, |all, (feature, _)| all | *feature);
        let unknown = self.0.without(known);
        if !unknown.is_empty() {
            write!(f, "{separator}{unknown} (not in Linux {})", ublk_sys::layout::LINUX)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Features, Missing};
    use std::format;

    #[test]
    fn unknown_bits_are_kept_and_shown() {
        let features = Features::from_bits(1 << 40) | Features::USER_COPY;
        assert_eq!(format!("{features}"), "UBLK_F_USER_COPY|0x10000000000");
        assert_eq!(features.bits(), 1 << 40 | 1 << 7);
    }

    #[test]
    fn the_missing_features_are_those_asked_for_and_not_there() {
        let asked = Features::USER_COPY | Features::BATCH_IO;
        assert_eq!(asked.without(Features::USER_COPY), Features::BATCH_IO);
        assert!(!Features::USER_COPY.contains(asked));
        assert_eq!(format!("{}", Features::NONE), "0");
    }

    #[test]
    fn every_feature_says_since_when_in_its_documentation_and_as_data() {
        let source = include_str!("features.rs");
        for (feature, name) in Features::KNOWN {
            let since = feature.since().unwrap();
            let documented = source.split(&format!(" = {name},")).next().unwrap().rsplit("///").next().unwrap();
            assert!(
                documented.contains(&format!("since Linux {since}"))
                    || documented.contains(&format!("Since Linux {since}")),
                "{name}: {since}, {documented}"
            );
        }
        assert_eq!((Features::BATCH_IO.since(), Features::SUPPORT_ZERO_COPY.since()), (Some("7.0"), Some("6.15")));
        assert_eq!(Features::from_bits(1 << 40).since(), None);
        assert_eq!((Features::BATCH_IO | Features::USER_COPY).since(), None);
    }

    #[test]
    fn a_combination_without_sense_is_named_and_what_it_needs_makes_it_right() {
        let needs = Features::ZONED.conflict();
        assert_eq!(needs, Some("UBLK_F_ZONED needs UBLK_F_USER_COPY or UBLK_F_SUPPORT_ZERO_COPY"));
        assert_eq!((Features::ZONED | Features::SUPPORT_ZERO_COPY).conflict(), None);
        assert_eq!((Features::ZONED | Features::AUTO_BUF_REG).conflict(), needs);
        let both = Features::NEED_GET_DATA | Features::USER_COPY;
        let dropped = "UBLK_F_NEED_GET_DATA excludes UBLK_F_USER_COPY: the driver drops it without a word";
        assert_eq!(both.conflict(), Some(dropped));
        // What is right by itself is wrong in threes.
        let recovery = Features::USER_RECOVERY | Features::USER_RECOVERY_REISSUE | Features::USER_RECOVERY_FAIL_IO;
        assert!(recovery.conflict().is_some());
        assert_eq!(Features::from_bits(1 << 40).conflict(), None);
        assert_eq!(Features::NONE.conflict(), None);
    }

    #[test]
    fn each_missing_feature_stands_with_the_linux_that_has_it() {
        let missing = Features::BATCH_IO | Features::QUIESCE | Features::from_bits(1 << 40);
        assert_eq!(
            format!("{}", Missing(missing)),
            "UBLK_F_QUIESCE (since Linux 6.16), UBLK_F_BATCH_IO (since Linux 7.0), 0x10000000000 (not in Linux 7.3.4)"
        );
    }
}
