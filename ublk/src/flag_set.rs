// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sets of flag bits that keep what they do not know.

/// Defines a newtype over an integer of flag bits: a constant for each known bit, unknown bits kept, `Debug` by C name.
macro_rules! flag_set {
    (
        $(#[$meta:meta])*
        $name:ident($raw:ty) {
            $( $(#[$flag_meta:meta])* $flag:ident = $value:ident, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $name($raw);

        static_assertions::assert_impl_all!($name: Send, Sync);

        impl $name {
            $( $(#[$flag_meta])* pub const $flag: Self = Self(ublk_sys::$value); )*

            /// No flag.
            pub const NONE: Self = Self(0);

            /// The known flags with their C names, in the order of their bits.
            pub const KNOWN: &'static [(Self, &'static str)] = &[$( (Self::$flag, stringify!($value)), )*];

            /// The set with exactly these bits, unknown ones included.
            #[must_use]
            pub const fn from_bits(bits: $raw) -> Self {
                Self(bits)
            }

            /// All bits.
            #[must_use]
            pub const fn bits(self) -> $raw {
                self.0
            }

            /// Whether no flag is set.
            #[must_use]
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// Whether every flag of `other` is set.
            #[must_use]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// The flags of both.
            #[must_use]
            pub const fn union(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// The flags of this set that `other` has not.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }
        }

        impl core::ops::BitOr for $name {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                self.union(other)
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                let mut rest = self.0;
                let mut separator = "";
                for (flag, name) in Self::KNOWN {
                    if self.contains(*flag) {
                        write!(f, "{separator}{name}")?;
                        separator = "|";
                        rest &= !flag.0;
                    }
                }
                match (rest, separator) {
                    (0, "") => f.write_str("0"),
                    (0, _) => Ok(()),
                    _ => write!(f, "{separator}{rest:#x}"),
                }
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::Display::fmt(self, f)
            }
        }
    };
}

pub(crate) use flag_set;
