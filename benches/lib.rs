//! What edge costs.
