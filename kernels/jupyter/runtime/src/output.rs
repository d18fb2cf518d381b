//! Rich output, in evcxr's convention: a marked block on stdout.

use std::io::Write;

/// Shows `content` of type `mime` in the notebook at once (`image/svg+xml`, `text/html`, …).
/// Outside a notebook the block is printed as it is.
pub fn display(mime: &str, content: &str) {
    let newline = if content.ends_with('\n') { "" } else { "\n" };
    let block = format!("EVCXR_BEGIN_CONTENT {mime}\n{content}{newline}EVCXR_END_CONTENT\n");
    // One lock for the whole block: another thread's println cannot land inside it.
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(block.as_bytes());
    let _ = out.flush();
}
