// SPDX-License-Identifier: MIT OR Apache-2.0
//! How this crate knows that it is right: what is asserted of each mirrored item, and the tables that say the same as
//! data.
//!
//! `assert_layout!` stands below each struct and `constants!` makes each group of constants. Both are read twice. The
//! Rust compiler proves size, alignment, every field's type and offset, and that there is no padding without a name;
//! and each leaves a row in [`TABLES`], from which a test asks a C compiler the same questions of the real headers.
//! The row is private to its module until the module's table names it, so a forgotten one is a `dead_code` warning.

/// The Linux release whose headers are mirrored.
pub const LINUX: &str = "7.3.4";

/// What is mirrored, header by header.
pub const TABLES: &[Table] = &[
    crate::ublk_cmd::TABLE,
    crate::io_uring::TABLE,
    crate::io_uring::TIME_TYPES,
    crate::blkzoned::TABLE,
    crate::fs::TABLE,
    crate::blkdev::TABLE,
];

/// What is mirrored of one C header.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// The header as C includes it: `linux/ublk_cmd.h`.
    pub header: &'static str,
    /// Its structs, in header order.
    pub structs: &'static [Layout],
    /// Its constants, in header order, by group.
    pub constants: &'static [&'static [Constant]],
}

/// One mirrored constant.
#[derive(Clone, Copy, Debug)]
pub struct Constant {
    /// Its name, in C and in Rust.
    pub name: &'static str,
    /// The first Linux release whose header has it.
    pub since: &'static str,
    /// Its value.
    pub value: i128,
}

/// One mirrored struct.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Its name, in C and in Rust.
    pub name: &'static str,
    /// The first Linux release whose header has it.
    pub since: &'static str,
    /// `size_of`, in bytes.
    pub size: usize,
    /// If it grew: each size that it had, with the first release whose header has it so, oldest first.
    pub older_sizes: &'static [(&'static str, usize)],
    /// `align_of`, in bytes.
    pub align: usize,
    /// Its Rust fields, in order; they cover it without a gap.
    pub fields: &'static [Field],
}

/// One Rust field of a mirrored struct.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name in Rust.
    pub name: &'static str,
    /// Where it starts, in bytes.
    pub offset: usize,
    /// Its size, in bytes.
    pub size: usize,
    /// The C members that lie in it: one as a rule, several for a union or a renamed field, none for a hole.
    pub members: &'static [Member],
}

/// One C member, which lies within a Rust field.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Its name in C.
    pub name: &'static str,
    /// Where it starts, in bytes from the start of the struct.
    pub offset: usize,
    /// Its size, in bytes; 0 for an array without a length.
    pub size: usize,
    /// The first Linux release whose header has it.
    pub since: &'static str,
    /// The first Linux release whose header has it no more; empty if today's has it.
    pub until: &'static str,
}

/// The first Linux release whose header has the constant of this name; `None` for a name that is not mirrored.
#[must_use]
pub const fn since(name: &str) -> Option<&'static str> {
    // Without iterators and `==`, which no const function may call.
    let mut tables = TABLES;
    while let [table, other_tables @ ..] = tables {
        let mut groups = table.constants;
        while let [group, other_groups @ ..] = groups {
            let mut constants = *group;
            while let [constant, other_constants @ ..] = constants {
                if is_same(constant.name, name) {
                    return Some(constant.since);
                }
                constants = other_constants;
            }
            groups = other_groups;
        }
        tables = other_tables;
    }
    None
}

const fn is_same(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.as_bytes(), other.as_bytes());
    while let ([first, rest @ ..], [second, others @ ..]) = (one, other) {
        if *first != *second {
            return false;
        }
        (one, other) = (rest, others);
    }
    one.is_empty() && other.is_empty()
}

// Where not (32-bit x86, m68k), C's `ublk_params` is another struct than everywhere else: without the hole before `seg`, and so of
// 148 bytes. This one sentence says so, instead of every assertion below.
const _: () = assert!(align_of::<u64>() == 8, "ublk-sys is for machines whose 64-bit integers are aligned to 8 bytes");

/// Asserts the layout of a mirrored struct and leaves its row: a private constant `LAYOUT`.
///
/// A field is `name: type = offset`. Where C has not just that name there, `=> [...]` lists what it has, each
/// `"name": type = offset`, with `since "..."` if it came after the struct and `until "..."` if it has left.
macro_rules! assert_layout {
    ($name:ident, since = $since:literal, size = $size:literal,
        $(older = { $($osince:literal: $osize:literal),* },)? align = $align:literal, {
        $($field:ident : $ty:ty = $offset:literal $(=> [$($members:tt)*])?),* $(,)?
    }) => {
        const _: () = if align_of::<u64>() == 8 {
            assert!(size_of::<$name>() == $size, concat!("the size of ", stringify!($name), " is not ", $size));
            assert!(align_of::<$name>() == $align, concat!("the alignment of ", stringify!($name), " is not ", $align));
            $(assert!(
                core::mem::offset_of!($name, $field) == $offset,
                concat!(stringify!($name), ".", stringify!($field), " is not at ", $offset)
            );)*
            $(let _: fn(&$name) -> &$ty = |it| &it.$field;)*
        };
        // The fields fill the struct: what has no name would be handed to the kernel unwritten.
        static_assertions::const_assert_eq!(0 $(+ size_of::<$ty>())*, size_of::<$name>());
        static_assertions::assert_impl_all!($name: Send, Sync, Copy);

        impl $name {
            const LAYOUT: $crate::layout::Layout = $crate::layout::Layout {
                name: stringify!($name),
                since: $since,
                size: $size,
                older_sizes: &[$($(($osince, $osize)),*)?],
                align: $align,
                fields: &[$($crate::layout::Field {
                    name: stringify!($field),
                    offset: $offset,
                    size: size_of::<$ty>(),
                    members: $crate::layout::members!($field: $ty = $offset, $since $(, [$($members)*])?),
                }),*],
            };
        }
    };
}
pub(crate) use assert_layout;

/// The members of one field: those listed, else the field itself.
macro_rules! members {
    ($field:ident : $ty:ty = $offset:literal, $since:literal) => {
        &[$crate::layout::Member {
            name: stringify!($field),
            offset: $offset,
            size: size_of::<$ty>(),
            since: $since,
            until: "",
        }]
    };
    ($field:ident : $ty:ty = $offset:literal, $since:literal, [$(
        $member:literal : $mty:ty = $moffset:literal $(since $msince:literal)? $(until $muntil:literal)?
    ),* $(,)?]) => {
        &[$($crate::layout::Member {
            name: $member,
            offset: $moffset,
            size: size_of::<$mty>(),
            since: $crate::layout::first!($($msince,)? $since),
            until: $crate::layout::first!($($muntil,)? ""),
        }),*]
    };
}
pub(crate) use members;

/// The first of one or two.
macro_rules! first {
    ($first:expr $(, $second:expr)?) => {
        $first
    };
}
pub(crate) use first;

/// Defines a group of constants and leaves their rows: a private constant of the group's name.
///
/// Each is `pub const NAME: type = value, since "6.0";` below its doc comment, which gets a last line from `since`.
macro_rules! constants {
    ($group:ident: $($(#[$meta:meta])* pub const $name:ident: $ty:ty = $value:expr, since $since:literal;)*) => {
        $(
            $(#[$meta])*
            #[doc = concat!("\n\nSince Linux ", $since, ".")]
            pub const $name: $ty = $value;
        )*
        // `as`, since From is not const; i128 holds every integer there is here.
        const $group: &[$crate::layout::Constant] = &[$($crate::layout::Constant {
            name: stringify!($name),
            since: $since,
            value: $name as i128,
        }),*];
    };
}
pub(crate) use constants;
