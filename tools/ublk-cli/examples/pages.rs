// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes the manual page and the completions of `ublkctl` into a folder: `cargo run --example pages FOLDER`.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use clap_complete::{Shell, generate};
use ublk_cli::arguments;

/// When what the page says was last changed.
const DATE: &str = "2026-11-28";

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::args_os().nth(1).ok_or("name the folder to write into")?);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("ublkctl.1"), page()?)?;
    for (shell, name) in [(Shell::Bash, "ublkctl.bash"), (Shell::Zsh, "_ublkctl"), (Shell::Fish, "ublkctl.fish")] {
        let mut completions = Vec::new();
        generate(shell, &mut arguments::command(), "ublkctl", &mut completions);
        fs::write(folder.join(name), completions)?;
    }
    Ok(())
}

/// One page with every command on it, so that one page is all there is.
fn page() -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let whole = clap_mangen::Man::new(arguments::command()).date(DATE);
    whole.render_title(&mut page)?;
    whole.render_name_section(&mut page)?;
    whole.render_synopsis_section(&mut page)?;
    whole.render_options_section(&mut page)?;
    for command in arguments::command().get_subcommands() {
        let name = command.get_name();
        page.extend(format!(".SH \"UBLKCTL {}\"\n", name.to_uppercase()).into_bytes());
        let one =
            command.clone().bin_name(format!("ublkctl {name}")).disable_help_flag(true).disable_version_flag(true);
        let one = clap_mangen::Man::new(one);
        let mut section = Vec::new();
        one.render_synopsis_section(&mut section)?;
        one.render_description_section(&mut section)?;
        one.render_options_section(&mut section)?;
        one.render_extra_section(&mut section)?;
        // Below the command's own heading these are headings of the second order.
        page.extend(
            String::from_utf8_lossy(&section).replace("\n.SH ", "\n.SS ").replacen(".SH ", ".SS ", 1).into_bytes(),
        );
    }
    Ok(page)
}
