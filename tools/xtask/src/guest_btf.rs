// SPDX-License-Identifier: MIT OR Apache-2.0
//! `xtask guest-btf`, in the guest: what the driver's type information (BTF) says of the layout of its structs.
//!
//! One line for each fact, as in `tests/abi/records`: `sizeof ublk_params 136`.

use std::fs;

use crate::failure::{Context, Failure, Result};

const KERNEL: &str = "/sys/kernel/btf/vmlinux";
const DRIVER: &str = "/sys/kernel/btf/ublk_drv";

/// Kinds of types, by the kernel's `include/uapi/linux/btf.h`.
const STRUCT: u32 = 4;
const UNION: u32 = 5;

pub(crate) fn run() -> Result<()> {
    let read = |path: &str| fs::read(path).context(|| format!("cannot read {path}"));
    let facts = facts(&read(KERNEL)?, &read(DRIVER)?).ok_or_else(|| Failure::new(format!("{DRIVER} is no BTF")))?;
    facts.iter().for_each(|fact| println!("{fact}"));
    Ok(())
}

/// What `driver` says of its named structs. Numbers of types and places of strings count on from where `kernel` ends.
fn facts(kernel: &[u8], driver: &[u8]) -> Option<Vec<String>> {
    let (kernel, driver) = (Btf::read(kernel)?, Btf::read(driver)?);
    // Type 0 is void, and in no list.
    let first = kernel.types.len().checked_add(1)?;
    let name = |at: u32| {
        let at = usize::try_from(at).ok()?;
        let text = match at.checked_sub(kernel.strings.len()) {
            Some(at) => driver.strings.get(at..)?,
            None => kernel.strings.get(at..)?,
        };
        std::str::from_utf8(text.split(|byte| *byte == 0).next()?).ok()
    };
    let mut facts = Vec::new();
    for of in driver.types.iter().filter(|of| of.kind == STRUCT) {
        let struct_name = name(of.name)?;
        if struct_name.is_empty() {
            continue;
        }
        facts.push(format!("sizeof {struct_name} {}", of.size));
        // Members, and those of unnamed structs and unions among them, each with what it adds to the offset.
        let mut left: Vec<(&Member, u32)> = of.members.iter().rev().map(|member| (member, 0)).collect();
        while let Some((member, base)) = left.pop() {
            let bits = base.checked_add(member.bits)?;
            let member_name = name(member.name)?;
            if !member_name.is_empty() {
                facts.push(format!("offsetof {struct_name}.{member_name} {}", bits / 8));
            } else if let Some(at) = usize::try_from(member.of).ok()?.checked_sub(first) {
                left.extend(driver.types.get(at)?.members.iter().rev().map(|member| (member, bits)));
            }
        }
    }
    Some(facts)
}

struct Btf<'a> {
    types: Vec<Type>,
    strings: &'a [u8],
}

struct Type {
    kind: u32,
    name: u32,
    size: u32,
    members: Vec<Member>,
}

struct Member {
    name: u32,
    of: u32,
    bits: u32,
}

impl<'a> Btf<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut header = Words(bytes.get(4..24)?);
        let header_len = header.next()?;
        let [types_at, types_len, strings_at, strings_len] =
            [header.next()?, header.next()?, header.next()?, header.next()?];
        let part = |at: u32, len: u32| {
            let start = usize::try_from(header_len.checked_add(at)?).ok()?;
            bytes.get(start..start.checked_add(usize::try_from(len).ok()?)?)
        };
        let mut words = Words(part(types_at, types_len)?);
        let mut types = Vec::new();
        while let Some(name) = words.next() {
            let (info, size) = (words.next()?, words.next()?);
            let (count, kind, packed) = (info & 0xffff, info >> 24 & 0x1f, info >> 31 != 0);
            let mut members = Vec::new();
            match kind {
                STRUCT | UNION => {
                    for _ in 0..count {
                        let (name, of, place) = (words.next()?, words.next()?, words.next()?);
                        // With bit fields in it, the upper byte is a member's length.
                        members.push(Member { name, of, bits: if packed { place & 0xff_ffff } else { place } });
                    }
                }
                // How many words follow an integer, an array, an enum, a prototype, a variable, a section, a tag, a wide enum.
                1 | 14 | 17 => words.skip(1)?,
                3 => words.skip(3)?,
                6 | 13 => words.skip(count.checked_mul(2)?)?,
                15 | 19 => words.skip(count.checked_mul(3)?)?,
                _ => {}
            }
            types.push(Type { kind, name, size, members });
        }
        Some(Self { types, strings: part(strings_at, strings_len)? })
    }
}

/// Words of four bytes, in the order of the machine.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn next(&mut self) -> Option<u32> {
        let (word, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_ne_bytes(*word))
    }

    fn skip(&mut self, count: u32) -> Option<()> {
        (0..count).try_for_each(|_| self.next().map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::facts;

    fn btf(types: &[u32], strings: &[u8]) -> Vec<u8> {
        let len = |len: usize| u32::try_from(len).unwrap();
        let words = [24, 0, len(types.len() * 4), len(types.len() * 4), len(strings.len())];
        let words = words.iter().chain(types).flat_map(|word| word.to_ne_bytes());
        [0x9f, 0xeb, 1, 0].into_iter().chain(words).chain(strings.iter().copied()).collect()
    }

    #[test]
    fn members_of_unnamed_unions_are_found_and_names_that_the_kernel_has() {
        // One integer: type 1.
        let kernel = btf(&[1, 1 << 24, 4, 32], b"\0u32\0len\0");
        // 9 is where the driver's strings start. Type 2 is a union of one member, type 3 the struct.
        let union = [0, 5 << 24 | 1, 4, 10, 1, 0];
        let of_struct = [12, 4 << 24 | 2, 8, 5, 1, 0, 0, 2, 32];
        let driver = btf(&[&union[..], &of_struct[..]].concat(), b"\0a\0s\0");
        assert_eq!(facts(&kernel, &driver).unwrap(), ["sizeof s 8", "offsetof s.len 0", "offsetof s.a 4"]);
        assert!(facts(&kernel, &driver[..40]).is_none());
    }
}
