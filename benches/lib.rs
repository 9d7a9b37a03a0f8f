//! What edge costs: `cargo bench -p benches` measures its decisions, `cargo run -rp benches --bin
//! storm` loads a whole gateway of its own, `cargo run -rp load` a running system.
