//! The keys of those who issue tokens, got in the background and kept.
