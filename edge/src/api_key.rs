//! API keys: whose they are, and where they let in.
