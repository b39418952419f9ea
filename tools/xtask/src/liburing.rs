// SPDX-License-Identifier: MIT OR Apache-2.0
//! liburing, for the C program of ABI.md: Debian's package, unpacked and not installed.

use crate::archive::{self, Suite};
use crate::failure::{Failure, Result};
use crate::workspace;

/// The oldest suite that has one with `sqe->cmd` (2.2). It is linked statically, and needs nothing of that system.
const SUITE: &str = "bookworm";

/// Has `target/liburing/SUITE`, with `usr` in it; fetched where it is not there yet.
pub(crate) fn get() -> Result<()> {
    let folder = workspace::kept("liburing").join(SUITE);
    if archive::is_whole(&folder) {
        return Ok(());
    }
    let suite = Suite::open(SUITE)?;
    let choose = |suite: &Suite| {
        let mut packages = suite.packages(|name| name == "liburing-dev")?;
        Ok(packages.pop().map(|newest| vec![newest]))
    };
    let found = archive::whole_folder(&folder, |draft| suite.unpack(choose, draft))?;
    if found { Ok(()) } else { Err(Failure::new(format!("{SUITE} has no liburing-dev"))) }
}
