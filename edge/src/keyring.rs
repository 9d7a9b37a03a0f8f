//! The file of API keys, taken over without a restart when it changes.
