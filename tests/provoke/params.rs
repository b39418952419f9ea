// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the rules of parameters are broken.

use ublk_sys::{
    UBLK_F_INTEGRITY, UBLK_F_USER_COPY, UBLK_F_ZONED, UBLK_PARAM_TYPE_BASIC, UBLK_PARAM_TYPE_DEVT,
    UBLK_PARAM_TYPE_DISCARD, UBLK_PARAM_TYPE_DMA_ALIGN, UBLK_PARAM_TYPE_INTEGRITY, UBLK_PARAM_TYPE_SEGMENT,
    UBLK_PARAM_TYPE_ZONED,
};

use super::scene::{Edit, Planted, Scene};
use super::table::How::{Planted as So, Unreachable};
use super::table::Row;
use crate::commands::Built;

const SET: &str = "UBLK_U_CMD_SET_PARAMS";
const GET: &str = "UBLK_U_CMD_GET_PARAMS";

const BASIC: u32 = UBLK_PARAM_TYPE_BASIC;
const NOWHERE: u64 = 4096;

/// Where they stand in `struct ublk_params`.
const LEN: usize = 0;
const TYPES: usize = 4;
const LOGICAL: usize = 12;
const PHYSICAL: usize = 13;
const MAX_SECTORS: usize = 16;
const CHUNK: usize = 20;

pub const ROWS: &[Row] = &[
    (
        "set-params.packed",
        So(|s| {
            set(s, 0, |sent| {
                let given = sent.buffer.clone();
                let zoned = given[76..108].to_vec();
                let types = (BASIC | UBLK_PARAM_TYPE_ZONED).to_ne_bytes();
                sent.points_to([&72_u32.to_ne_bytes(), &types, &given[8..40], &zoned].concat())
            })
        }),
    ),
    ("set-params.len", So(|s| set(s, 0, |sent| sent.len(8)))),
    ("set-params.addr", So(|s| set(s, 0, |sent| sent.addr(0)))),
    ("set-params.address", So(|s| set(s, 0, |sent| sent.addr(NOWHERE)).knowing(|e| e.buffer = &[]))),
    ("set-params.own-len", So(|s| set(s, 0, |sent| sent.in_buffer(LEN, &153_u32.to_ne_bytes())))),
    ("set-params.types", So(|s| typed(s, 0, 0))),
    (
        "set-params.started",
        So(|mut s| {
            let mut server = s.open(0);
            s.start(&mut server);
            let sent = s.golden(SET);
            let planted = s.send(sent);
            s.stop(&mut server);
            server.end();
            planted
        }),
    ),
    ("set-params.basic", So(|s| typed(s, 0, UBLK_PARAM_TYPE_DISCARD))),
    ("set-params.logical-block", So(|s| set(s, 0, |sent| sent.in_buffer(LOGICAL, &[8])))),
    ("set-params.block-shifts", So(|s| set(s, 0, |sent| sent.in_buffer(PHYSICAL, &[29])))),
    ("set-params.physical-block", So(|s| set(s, 0, |sent| sent.in_buffer(PHYSICAL, &[0])))),
    ("set-params.max-sectors", So(|s| set(s, 0, |sent| sent.in_buffer(MAX_SECTORS, &1025_u32.to_ne_bytes())))),
    ("set-params.max-sectors-page", So(|s| set(s, 0, |sent| sent.in_buffer(MAX_SECTORS, &7_u32.to_ne_bytes())))),
    ("set-params.chunk", So(|s| zoned(s, |sent| sent.in_buffer(CHUNK, &3_u32.to_ne_bytes())))),
    ("set-params.discard-segments", So(|s| set(s, 0, |sent| sent.in_buffer(56, &2_u16.to_ne_bytes())))),
    ("set-params.discard-granularity", So(|s| set(s, 0, |sent| sent.in_buffer(44, &[0; 4])))),
    ("set-params.devt", So(|s| typed(s, 0, BASIC | UBLK_PARAM_TYPE_DEVT))),
    ("set-params.zoned-kernel", Unreachable("the kernels here have zoned block devices (CONFIG_BLK_DEV_ZONED)")),
    ("set-params.not-zoned", So(|s| typed(s, 0, BASIC | UBLK_PARAM_TYPE_ZONED))),
    ("set-params.zone-append", So(|s| zoned(s, |sent| sent.in_buffer(84, &[0; 4])))),
    ("set-params.zone-counts", So(|s| zoned(s, |sent| sent.in_buffer(76, &65_u32.to_ne_bytes())))),
    ("set-params.no-zones", So(|s| zoned(s, |sent| sent.in_buffer(TYPES, &BASIC.to_ne_bytes())))),
    (
        "set-params.dma-alignment",
        So(|s| set(s, 0, |sent| types(sent, UBLK_PARAM_TYPE_DMA_ALIGN).in_buffer(108, &512_u32.to_ne_bytes()))),
    ),
    ("set-params.segment-boundary", So(|s| segment(s, 511, 4096))),
    ("set-params.segment-size", So(|s| segment(s, 4095, 512))),
    ("set-params.integrity-feature", So(|s| set(s, 0, |sent| checked(sent, 0, 9, 8, 0)))),
    ("set-params.integrity-flags", So(|s| integrity(s, |sent| checked(sent, 8, 9, 8, 0)))),
    ("set-params.integrity-checksum", So(|s| integrity(s, |sent| checked(sent, 0, 9, 8, 9)))),
    ("set-params.integrity-metadata", So(|s| integrity(s, |sent| checked(sent, 0, 9, 0, 0)))),
    ("set-params.integrity-reftag", So(|s| integrity(s, |sent| checked(sent, 2, 9, 8, 0)))),
    ("set-params.integrity-tuple", So(|s| integrity(s, |sent| checked(sent, 0, 9, 4, 1)))),
    ("set-params.integrity-interval", So(|s| integrity(s, |sent| checked(sent, 0, 8, 8, 0)))),
    (
        "set-params.cut",
        So(|s| set(s, 0, |sent| types(sent, UBLK_PARAM_TYPE_DMA_ALIGN).in_buffer(LEN, &40_u32.to_ne_bytes()))),
    ),
    ("get-params.len", So(|s| get(s, |sent| sent.len(8)))),
    ("get-params.addr", So(|s| get(s, |sent| sent.addr(0)))),
    ("get-params.address", So(|s| get(s, |sent| sent.addr(NOWHERE)).knowing(|e| e.buffer = &[]))),
    ("get-params.own-len", So(|s| get(s, |sent| sent.in_buffer(LEN, &[0; 4])))),
];

/// On a device without parameters.
fn set(mut s: Scene, features: u64, change: impl FnOnce(Built) -> Built) -> Planted {
    s.add_bare(features);
    let sent = change(s.golden(SET));
    s.send(sent)
}

fn get(mut s: Scene, change: impl FnOnce(Built) -> Built) -> Planted {
    s.add(0);
    let sent = change(s.golden(GET));
    s.send(sent)
}

fn types(sent: Built, more: u32) -> Built {
    sent.in_buffer(TYPES, &(BASIC | more).to_ne_bytes())
}

fn typed(s: Scene, features: u64, all: u32) -> Planted {
    set(s, features, |sent| sent.in_buffer(TYPES, &all.to_ne_bytes()))
}

/// 64 zones of 2 MiB, of which each may be open, with a fault.
fn zoned(s: Scene, change: impl FnOnce(Built) -> Built) -> Planted {
    set(s, UBLK_F_ZONED | UBLK_F_USER_COPY, |sent| {
        let sent = types(sent, UBLK_PARAM_TYPE_ZONED).in_buffer(CHUNK, &0x1000_u32.to_ne_bytes());
        change(sent.in_buffer(84, &8_u32.to_ne_bytes()))
    })
}

fn segment(s: Scene, boundary: u64, size: u32) -> Planted {
    set(s, 0, |sent| {
        let sent = types(sent, UBLK_PARAM_TYPE_SEGMENT).in_buffer(120, &boundary.to_ne_bytes());
        sent.in_buffer(128, &size.to_ne_bytes()).in_buffer(132, &8_u16.to_ne_bytes())
    })
}

fn integrity(s: Scene, change: impl FnOnce(Built) -> Built) -> Planted {
    set(s, UBLK_F_INTEGRITY | UBLK_F_USER_COPY, change)
}

fn checked(sent: Built, flags: u32, interval: u8, metadata: u8, checksum: u8) -> Built {
    let sent = types(sent, UBLK_PARAM_TYPE_INTEGRITY).in_buffer(136, &flags.to_ne_bytes());
    sent.in_buffer(142, &[interval, metadata, 0, checksum])
}
