// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a command number is put together (`asm/ioctl.h`): the argument's direction and size, a letter and a number.
//!
//! Most architectures share `asm-generic/ioctl.h`. powerpc, mips and sparc split the 32 bits in another place and give
//! "no argument" a bit of its own; so do some for which there is no Rust (alpha; and PA-RISC swaps two bits).
#![allow(non_snake_case, reason = "the names are C's")]

/// Width of the field that holds the argument's size. The direction is above it.
const SIZE_BITS: u32 = if OWN_SPLIT { 13 } else { 14 };
/// The architectures that do not use `asm-generic/ioctl.h`.
pub(crate) const OWN_SPLIT: bool = cfg!(any(
    target_arch = "powerpc",
    target_arch = "powerpc64",
    target_arch = "mips",
    target_arch = "mips32r6",
    target_arch = "mips64",
    target_arch = "mips64r6",
    target_arch = "sparc",
    target_arch = "sparc64",
));

/// The command has no argument.
pub const _IOC_NONE: u32 = if OWN_SPLIT { 1 } else { 0 };
/// The driver writes to the argument.
pub const _IOC_READ: u32 = 2;
/// The driver reads the argument.
pub const _IOC_WRITE: u32 = if OWN_SPLIT { 4 } else { 1 };

/// A command number from its parts.
///
/// # Panics
///
/// If `nr` needs more than 8 bits, or `size` more than the 13 or 14 that the architecture has for it: in a constant, at
/// compile time.
#[must_use]
#[expect(clippy::as_conversions, reason = "u8 to u32: From is not const")]
pub const fn _IOC(dir: u32, ty: u8, nr: u32, size: u32) -> u32 {
    assert!(nr < 1 << 8 && size < 1 << SIZE_BITS);
    dir << (16 + SIZE_BITS) | size << 16 | (ty as u32) << 8 | nr
}

/// A command without an argument.
#[must_use]
pub const fn _IO(ty: u8, nr: u32) -> u32 {
    _IOC(_IOC_NONE, ty, nr, 0)
}

/// A command whose argument is a `T` that the driver writes.
#[must_use]
pub const fn _IOR<T>(ty: u8, nr: u32) -> u32 {
    _IOC(_IOC_READ, ty, nr, size_of_u32::<T>())
}

/// A command whose argument is a `T` that the driver reads.
#[must_use]
pub const fn _IOW<T>(ty: u8, nr: u32) -> u32 {
    _IOC(_IOC_WRITE, ty, nr, size_of_u32::<T>())
}

/// A command whose argument is a `T` that the driver reads and writes.
#[must_use]
pub const fn _IOWR<T>(ty: u8, nr: u32) -> u32 {
    _IOC(_IOC_READ | _IOC_WRITE, ty, nr, size_of_u32::<T>())
}

/// `size_of::<T>()`, which is small.
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "asserted just above the cast")]
const fn size_of_u32<T>() -> u32 {
    assert!(size_of::<T>() < 1 << SIZE_BITS);
    size_of::<T>() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_what_the_c_macros_make_of_it() {
        // The values were printed by a C program that included each architecture's asm/ioctl.h.
        let expected = if OWN_SPLIT {
            [0x2000_7501, 0x4020_7501, 0x8020_7501, 0xc020_7501]
        } else {
            [0x0000_7501, 0x8020_7501, 0x4020_7501, 0xc020_7501]
        };
        type Argument = [u64; 4];
        assert_eq!(
            [_IO(b'u', 1), _IOR::<Argument>(b'u', 1), _IOW::<Argument>(b'u', 1), _IOWR::<Argument>(b'u', 1)],
            expected
        );
    }

    #[test]
    #[should_panic(expected = "size < 1 << SIZE_BITS")]
    fn an_argument_too_large_for_its_field_is_refused() {
        let _ = _IOC(_IOC_READ, b'u', 1, 1 << SIZE_BITS);
    }
}
