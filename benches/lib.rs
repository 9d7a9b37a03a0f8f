//! What edge costs: `cargo bench -p benches` measures its decisions, `cargo run -rp benches --bin
//! storm` loads a whole gateway of its own, `cargo run -rp load` a running system.

#[cfg(test)]
mod tests {
    use edge::config::Config;

    #[test]
    fn edge_takes_the_configuration_of_the_load_kit() {
        let text = include_str!("load/edge.toml");
        let config = Config::read("benches/load/edge.toml", text).unwrap();
        assert_eq!(config.upstreams.len(), 1);
    }
}
