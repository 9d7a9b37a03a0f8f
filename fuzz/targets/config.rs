//! A file is either understood whole or refused with places that lie within it.

#![no_main]

use edge::config::Config;
use edge::route::{Path, Routes};
use http::Method;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    match Config::read("fuzz.toml", source) {
        Ok(config) => {
            assert!(!config.routes.is_empty());
            assert!(
                config
                    .routes
                    .iter()
                    .all(|route| route.upstream < config.upstreams.len())
            );
            assert_eq!(Config::read("fuzz.toml", source).as_ref(), Ok(&config));
            let _ = config.to_string();
            let rules = config.routes.into_iter().map(|route| route.rule);
            let routes = Routes::new(rules.collect());
            if let Ok(path) = Path::read("/") {
                let _ = routes.find("a", &path, &Method::GET);
            }
        }
        Err(faults) => {
            assert!(!faults.list.is_empty());
            assert!(!faults.to_string().is_empty());
        }
    }
});
