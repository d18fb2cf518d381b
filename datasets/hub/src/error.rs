//! Why the Hub gave nothing.

use crate::Kind;
use std::path::PathBuf;

/// Every message names the repository, where it was asked for, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Nothing could be fetched now and the cache has no complete copy.
    #[error(
        "cannot fetch {kind} `{name}` from {endpoint}: {reason}. It is not complete in the cache \
         `{cache}`. With a network, run again: files that are complete are kept; behind a mirror, set \
         HF_ENDPOINT; with a copy on disk, {}; HF_HUB_OFFLINE=1 uses the cache without asking",
        .kind.copy_on_disk()
    )]
    Offline {
        /// Dataset or model.
        kind: Kind,
        /// `owner/name`.
        name: String,
        /// Base URL asked.
        endpoint: String,
        /// Why there was no answer.
        reason: String,
        /// The cache that was searched.
        cache: PathBuf,
    },

    /// The Hub answered, and not with the files.
    #[error("{endpoint} did not give {kind} `{name}` (revision `{revision}`): {message}")]
    Refused {
        /// Dataset or model.
        kind: Kind,
        /// `owner/name`.
        name: String,
        /// Base URL asked.
        endpoint: String,
        /// Branch, tag or commit.
        revision: String,
        /// The answer and what to do about it.
        message: String,
    },
}
