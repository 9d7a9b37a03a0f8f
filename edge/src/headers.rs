//! Header fields that the configuration sets, adds and removes.
