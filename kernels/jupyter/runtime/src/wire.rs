//! Frames between the kernel and the session process: a count, then that many byte strings.

use std::io::{Read, Result, Write};

pub fn send(to: &mut impl Write, fields: &[&[u8]]) -> Result<()> {
    let mut frame = (fields.len() as u32).to_le_bytes().to_vec();
    for field in fields {
        frame.extend((field.len() as u64).to_le_bytes());
        frame.extend(*field);
    }
    to.write_all(&frame)?;
    to.flush()
}

pub fn receive(from: &mut impl Read) -> Result<Vec<Vec<u8>>> {
    let mut count = [0; 4];
    from.read_exact(&mut count)?;
    (0..u32::from_le_bytes(count)).map(|_| field(from)).collect()
}

fn field(from: &mut impl Read) -> Result<Vec<u8>> {
    let mut length = [0; 8];
    from.read_exact(&mut length)?;
    let mut bytes = vec![0; u64::from_le_bytes(length) as usize];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The bytes that mark the end of a cell's output on stdout and stderr.
pub fn end_marker(nonce: &str) -> Vec<u8> {
    [END_MARK, nonce.as_bytes(), b"\0"].concat()
}

/// Before a nonce and a NUL.
pub const END_MARK: &[u8] = b"\0attention-cell-end ";

/// Before a word and a NUL on stdout: what the cell has shown is to be cleared.
pub const CLEAR_MARK: &[u8] = b"\0attention-clear ";

/// Before a length, a NUL and that many bytes on stdout: text that belongs to stderr.
pub const STDERR_MARK: &[u8] = b"\0attention-stderr ";
