//! `attention-kernel`: started by Jupyter through the kernelspec, not by hand.

use anyhow::{Result, bail};
use jupyter_kernel::{InstallOptions, install, run_session, serve};
use std::path::PathBuf;

const USAGE: &str = "usage: attention-kernel serve --connection-file FILE --session DIR
       attention-kernel run-session DYLIB
       attention-kernel install --workspace DIR --prefix DIR";

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let command = arguments.next().unwrap_or_default();
    let rest: Vec<_> = arguments.collect();
    let option = |name: &str| {
        let at = rest.iter().position(|argument| argument == name)?;
        rest.get(at + 1).map(PathBuf::from)
    };
    match command.to_str() {
        Some("serve") => match (option("--connection-file"), option("--session")) {
            (Some(connection), Some(session)) => serve(&connection, &session),
            _ => bail!(USAGE),
        },
        Some("run-session") if rest.len() == 1 => run_session(rest[0].as_ref()),
        Some("install") => match (option("--workspace"), option("--prefix")) {
            (Some(workspace), Some(prefix)) => {
                let installed = install(&InstallOptions { workspace, prefix })?;
                println!("{}", installed.kernelspec.display());
                Ok(())
            }
            _ => bail!(USAGE),
        },
        _ => bail!(USAGE),
    }
}
