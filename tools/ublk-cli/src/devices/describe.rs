// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ublkctl info` and `ublkctl params`: what the driver says of one device, field by field.

use std::io::{self, Write};

use serde_json::{Map, Value, json};
use ublk::{Control, DeviceId, DeviceInfo};
use ublk_sys::{
    UBLK_PARAM_TYPE_BASIC, UBLK_PARAM_TYPE_DEVT, UBLK_PARAM_TYPE_DISCARD, UBLK_PARAM_TYPE_DMA_ALIGN,
    UBLK_PARAM_TYPE_INTEGRITY, UBLK_PARAM_TYPE_SEGMENT, UBLK_PARAM_TYPE_ZONED, ublk_params,
};

use crate::devices::list::{describe, names};
use crate::devices::{Failure, print_json};

/// The fields of a C struct with their values, by their C names.
macro_rules! fields {
    ($of:expr, [$($name:ident),* $(,)?]) => {
        json!({ $(stringify!($name): $of.$name,)* })
    };
}

/// Prints `struct ublksrv_ctrl_dev_info`.
pub(super) fn info(id: DeviceId, as_json: bool) -> Result<(), Failure> {
    print(&info_fields(&describe(&mut Control::open()?, id)?), as_json)
}

fn info_fields(info: &DeviceInfo) -> Value {
    let raw = info.as_raw();
    let mut fields = fields!(
        raw,
        [
            dev_id,
            state,
            nr_hw_queues,
            queue_depth,
            max_io_buf_bytes,
            io_desc_size,
            ublksrv_pid,
            owner_uid,
            owner_gid,
            flags,
            ublksrv_flags,
        ]
    );
    if let Value::Object(fields) = &mut fields {
        fields.insert("state_name".into(), info.state().to_string().into());
        fields.insert("features".into(), names(info.features()).into());
    }
    fields
}

/// Prints `struct ublk_params`.
pub(super) fn params(id: DeviceId, as_json: bool) -> Result<(), Failure> {
    print(&params_fields(Control::open()?.params(id)?.as_raw()), as_json)
}

fn params_fields(raw: &ublk_params) -> Value {
    let part = |bit: u32, fields: Value| if raw.types & bit == 0 { Value::Null } else { fields };
    json!({
        "len": raw.len,
        "types": raw.types,
        "basic": part(UBLK_PARAM_TYPE_BASIC, fields!(raw.basic, [
            attrs, logical_bs_shift, physical_bs_shift, io_opt_shift, io_min_shift, max_sectors, chunk_sectors,
            dev_sectors, virt_boundary_mask,
        ])),
        "discard": part(UBLK_PARAM_TYPE_DISCARD, fields!(raw.discard, [
            discard_alignment, discard_granularity, max_discard_sectors, max_write_zeroes_sectors, max_discard_segments,
        ])),
        "devt": part(UBLK_PARAM_TYPE_DEVT, fields!(raw.devt, [char_major, char_minor, disk_major, disk_minor])),
        "zoned": part(UBLK_PARAM_TYPE_ZONED, fields!(raw.zoned, [
            max_open_zones, max_active_zones, max_zone_append_sectors,
        ])),
        "dma": part(UBLK_PARAM_TYPE_DMA_ALIGN, fields!(raw.dma, [alignment])),
        "seg": part(UBLK_PARAM_TYPE_SEGMENT, fields!(raw.seg, [seg_boundary_mask, max_segment_size, max_segments])),
        "integrity": part(UBLK_PARAM_TYPE_INTEGRITY, fields!(raw.integrity, [
            flags, max_integrity_segments, interval_exp, metadata_size, pi_offset, csum_type, tag_size,
        ])),
    })
}

/// Prints an object as JSON, or a line for each field, those of a part with its name before them.
fn print(object: &Value, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return print_json(object);
    }
    let mut lines = String::new();
    push_lines(&mut lines, "", object.as_object().unwrap_or(&Map::new()));
    Ok(io::stdout().write_all(lines.as_bytes())?)
}

fn push_lines(lines: &mut String, prefix: &str, object: &Map<String, Value>) {
    for (name, value) in object {
        let name = format!("{prefix}{name}");
        match value {
            Value::Object(part) => push_lines(lines, &format!("{name}."), part),
            Value::Array(list) => {
                let list: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
                lines.push_str(&format!("{name:34} {}\n", list.join(" ")));
            }
            Value::String(text) => lines.push_str(&format!("{name:34} {text}\n")),
            Value::Null => lines.push_str(&format!("{name:34} not set\n")),
            Value::Number(number) => {
                let hex = number.as_u64().filter(|number| *number > 9).map(|number| format!("   {number:#x}"));
                lines.push_str(&format!("{name:34} {number}{}\n", hex.unwrap_or_default()));
            }
            Value::Bool(_) => lines.push_str(&format!("{name:34} {value}\n")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{info_fields, params_fields, push_lines};
    use ublk::{DeviceInfo, Features};
    use ublk_sys::{UBLK_PARAM_TYPE_BASIC, ublk_params};

    #[test]
    fn a_part_that_was_not_set_is_null_and_not_zeroes() {
        let mut raw = ublk_params::default();
        raw.types = UBLK_PARAM_TYPE_BASIC;
        raw.basic.dev_sectors = 2048;
        let fields = params_fields(&raw);
        assert_eq!(fields.pointer("/basic/dev_sectors"), Some(&2048.into()));
        assert!(fields.pointer("/zoned").is_some_and(serde_json::Value::is_null));
        let mut lines = String::new();
        push_lines(
            &mut lines,
            "",
            fields.as_object().into_iter().next().map_or(&serde_json::Map::new(), |fields| fields),
        );
        assert!(lines.contains("\nbasic.dev_sectors                  2048   0x800\n"), "{lines}");
        assert!(lines.contains("\nzoned                              not set\n"), "{lines}");
    }

    #[test]
    fn a_device_is_described_by_the_c_names_of_its_fields() {
        let fields = info_fields(&DeviceInfo::told(2, 64, Features::USER_COPY | Features::from_bits(1 << 40)));
        assert_eq!(fields.pointer("/nr_hw_queues"), Some(&2.into()));
        assert_eq!(fields.pointer("/state_name"), Some(&"DEAD".into()));
        assert_eq!(fields.pointer("/features"), Some(&serde_json::json!(["UBLK_F_USER_COPY", "0x10000000000"])));
    }
}
