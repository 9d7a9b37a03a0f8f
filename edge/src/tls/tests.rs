use std::path::PathBuf;

use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::config::Certificate;

/// Files of a test, removed at its end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("edge-tls-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn certify(&self, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap();
        let certificate = certificate.self_signed(&key).unwrap();
        fs::write(self.0.join("crt"), certificate.pem()).unwrap();
        fs::write(self.0.join("key"), key.serialize_pem()).unwrap();
    }

    fn tls(&self) -> Tls {
        Tls {
            listen: "127.0.0.1:0".parse().unwrap(),
            certificates: vec![Certificate {
                cert: self.0.join("crt"),
                key: self.0.join("key"),
            }],
            client_ca: None,
            client_required: false,
        }
    }
}

fn terminator(tls: &Tls) -> Terminator {
    let metrics = Arc::new(Metrics::new().unwrap());
    Terminator::new(tls, true, metrics).unwrap()
}

#[test]
fn what_has_not_changed_is_not_made_again() {
    let folder = Folder::new("same");
    folder.certify(&["a.test"]);
    let terminator = terminator(&folder.tls());
    let before = terminator.config.load_full();
    terminator.follow(&folder.tls(), true);
    assert!(Arc::ptr_eq(&before, &terminator.config.load_full()));
}

#[test]
fn a_changed_file_is_taken_over_and_a_faulty_one_is_not() {
    let folder = Folder::new("changed");
    folder.certify(&["a.test"]);
    let terminator = terminator(&folder.tls());
    let first = terminator.config.load_full();
    // Half of what is being written: the key is still the old one's.
    let old_key = fs::read(folder.0.join("key")).unwrap();
    folder.certify(&["a.test"]);
    let new_key = fs::read(folder.0.join("key")).unwrap();
    fs::write(folder.0.join("key"), old_key).unwrap();
    terminator.follow(&folder.tls(), true);
    assert!(Arc::ptr_eq(&first, &terminator.config.load_full()));
    fs::write(folder.0.join("key"), new_key).unwrap();
    terminator.follow(&folder.tls(), true);
    let second = terminator.config.load_full();
    assert!(!Arc::ptr_eq(&first, &second));
    fs::remove_file(folder.0.join("crt")).unwrap();
    terminator.follow(&folder.tls(), true);
    assert!(Arc::ptr_eq(&second, &terminator.config.load_full()));
}

#[test]
fn what_a_reload_says_is_taken_over_though_the_files_are_the_same() {
    let folder = Folder::new("reload");
    folder.certify(&["a.test"]);
    let terminator = terminator(&folder.tls());
    assert_eq!(terminator.config.load().alpn_protocols.len(), 2);
    terminator.follow(&folder.tls(), false);
    assert_eq!(terminator.config.load().alpn_protocols, [b"http/1.1"]);
}

#[test]
fn a_name_is_found_before_its_wildcard() {
    let identity = |names: &[&str]| {
        let own: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(own)
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let (certificate, key) = (certificate.pem(), key.serialize_pem());
        Identity::read(certificate.as_bytes(), key.as_bytes()).unwrap()
    };
    let all = [identity(&["*.a.test"]), identity(&["b.a.test"])];
    let names = Names::of(&all).unwrap();
    let found = |host: &str| {
        let found = names.find(host)?.first()?;
        all.iter().position(|one| Arc::ptr_eq(&one.key, found))
    };
    assert_eq!(found("B.a.test"), Some(1));
    assert_eq!(found("c.a.test"), Some(0));
    assert_eq!(found("a.test"), None);
    assert_eq!(found("d.c.a.test"), None);
}
