//! Compresses a body as it passes.
