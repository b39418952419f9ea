// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes the inputs that the project keeps into a folder, for libFuzzer to start from: `cargo run --example seeds FOLDER`.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use fuzz_explain::seeds;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::args_os().nth(1).ok_or("name the folder to write into")?);
    for (program, seeds) in [("diagnosis", seeds::diagnosis()?), ("explain", seeds::explain()?)] {
        let folder = folder.join(program);
        fs::create_dir_all(&folder)?;
        for (name, input) in seeds {
            fs::write(folder.join(name.replace('/', "-")), input)?;
        }
    }
    Ok(())
}
