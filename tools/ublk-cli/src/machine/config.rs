// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the running kernel was configured, where the machine keeps that.

use std::fs;

/// The text of the configuration, if there is one.
#[derive(Debug)]
pub(crate) struct Config {
    /// Where it was found.
    pub(crate) path: Option<String>,
    text: String,
}

impl Config {
    /// Reads the first of the files where distributions put it.
    pub(super) fn find(release: Option<&str>) -> Config {
        if let Some(text) = fs::read("/proc/config.gz").ok().and_then(|bytes| unpack(&bytes)) {
            return Config { path: Some("/proc/config.gz".to_owned()), text };
        }
        for path in release.into_iter().flat_map(places) {
            if let Ok(text) = fs::read_to_string(&path) {
                return Config { path: Some(path), text };
            }
        }
        Config { path: None, text: String::new() }
    }

    /// Whether an option is built in or a module; `None` where there is no configuration to look at.
    pub(crate) fn has(&self, option: &str) -> Option<bool> {
        self.path.as_ref()?;
        let is_set = |line: &str| line.strip_prefix(option).is_some_and(|rest| rest == "=y" || rest == "=m");
        Some(self.text.lines().any(is_set))
    }
}

fn places(release: &str) -> [String; 4] {
    [
        format!("/boot/config-{release}"),
        format!("/lib/modules/{release}/config"),
        format!("/lib/modules/{release}/build/.config"),
        format!("/usr/lib/kernel/config-{release}"),
    ]
}

/// A file as gzip(1) makes it, with no name and no comment in it, as the kernel's is.
fn unpack(bytes: &[u8]) -> Option<String> {
    let (header, packed) = bytes.split_at_checked(10)?;
    if !header.starts_with(&[0x1f, 0x8b, 8, 0]) {
        return None;
    }
    String::from_utf8(miniz_oxide::inflate::decompress_to_vec(packed).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::{Config, unpack};

    #[test]
    fn an_option_is_set_only_by_its_whole_name() {
        let text = "CONFIG_BLK_DEV_UBLK=m\n# CONFIG_BLK_DEV_ZONED is not set\nCONFIG_IO_URING_X=y\n".to_owned();
        let config = Config { path: Some("/x".to_owned()), text };
        assert_eq!(config.has("CONFIG_BLK_DEV_UBLK"), Some(true));
        assert_eq!(config.has("CONFIG_BLK_DEV_ZONED"), Some(false));
        assert_eq!(config.has("CONFIG_IO_URING"), Some(false));
        assert_eq!(Config { path: None, text: String::new() }.has("CONFIG_BLK_DEV_UBLK"), None);
    }

    #[test]
    fn what_gzip_packed_is_read_and_anything_else_is_not() {
        // `printf 'CONFIG_X=y\n' | gzip -n`, without the checksum at its end.
        let packed = [
            0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x73, 0xf6, 0xf7, 0x73, 0xf3, 0x74, 0x8f, 0x8f, 0xb0, 0xad, 0xe4, 0x02,
            0x00,
        ];
        assert_eq!(unpack(&packed).as_deref(), Some("CONFIG_X=y\n"));
        assert_eq!(unpack(packed.get(..15).unwrap_or_default()), None);
        assert_eq!(unpack(b"CONFIG_X=y\n"), None);
        assert_eq!(unpack(&[]), None);
    }
}
