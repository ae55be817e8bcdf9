//! The primitives against Project Wycheproof's vectors, through the functions that this crate really uses.
//! Needs `RESEAL_TEST_DATA`; says so and passes without it.

use super::seal;
use super::secret::Key;
use super::sign::VerifyingKey;
use serde_json::Value;

fn vectors(name: &str) -> Option<Value> {
    let Some(root) = std::env::var_os("RESEAL_TEST_DATA") else {
        eprintln!("RESEAL_TEST_DATA is not set: {name} skipped");
        return None;
    };
    let path = std::path::Path::new(&root).join("crypto").join(name);
    Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}

fn bytes(test: &Value, field: &str) -> Vec<u8> {
    hex::decode(test[field].as_str().unwrap()).unwrap()
}

/// Runs `check` on every test (with its group); it says whether the vector was applicable.
fn each(name: &str, at_least: usize, mut check: impl FnMut(&Value, &Value) -> bool) {
    let Some(file) = vectors(name) else { return };
    let mut ran = 0;
    for group in file["testGroups"].as_array().unwrap() {
        for test in group["tests"].as_array().unwrap() {
            ran += usize::from(check(group, test));
        }
    }
    assert!(ran >= at_least, "only {ran} vectors of {name} applied");
}

#[test]
fn aes_256_gcm_agrees_with_wycheproof() {
    use aes_gcm::aead::{Aead, Payload};
    use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
    each("aes_gcm_test.json", 50, |group, test| {
        if (&group["keySize"], &group["ivSize"], &group["tagSize"]) != (&256.into(), &96.into(), &128.into()) {
            return false;
        }
        let (key, iv, aad, msg) = (bytes(test, "key"), bytes(test, "iv"), bytes(test, "aad"), bytes(test, "msg"));
        let sealed = [bytes(test, "ct"), bytes(test, "tag")].concat();
        let cipher = Aes256Gcm::new_from_slice(&key).unwrap();
        let nonce: Nonce<_> = <[u8; 12]>::try_from(iv.as_slice()).unwrap().into();
        let opened = cipher.decrypt(&nonce, Payload { msg: &sealed, aad: &aad });
        if test["result"] == "valid" {
            assert_eq!(opened.unwrap(), msg, "{}", test["tcId"]);
            assert_eq!(cipher.encrypt(&nonce, Payload { msg: &msg, aad: &aad }).unwrap(), sealed, "{}", test["tcId"]);
        } else {
            assert!(opened.is_err(), "{}", test["tcId"]);
        }
        if iv.iter().all(|b| *b == 0) {
            let mut buffer = msg.clone();
            seal::encrypt(key.as_slice().try_into().unwrap(), &aad, &mut buffer).unwrap();
            assert_eq!(buffer == sealed, test["result"] == "valid", "{}", test["tcId"]);
        }
        true
    });
}

#[test]
fn hkdf_sha256_agrees_with_wycheproof() {
    each("hkdf_sha256_test.json", 50, |_, test| {
        let (ikm, salt, info) = (bytes(test, "ikm"), bytes(test, "salt"), bytes(test, "info"));
        let mut out = vec![0u8; test["size"].as_u64().unwrap() as usize];
        let made = hkdf::Hkdf::<sha2::Sha256>::new(Some(&salt), &ikm).expand(&info, &mut out);
        assert_eq!(made.is_ok(), test["result"] == "valid", "{}", test["tcId"]);
        if made.is_ok() {
            assert_eq!(out, bytes(test, "okm"), "{}", test["tcId"]);
            if let (Some(key), true) = (Key::from_slice(&ikm), out.len() >= 32) {
                assert_eq!(super::kdf::hkdf(key.bytes(), &salt, &[&info])[..], out[..32], "{}", test["tcId"]);
            }
        }
        true
    });
}

#[test]
fn ed25519_agrees_with_wycheproof() {
    each("ed25519_test.json", 100, |group, test| {
        let key = bytes(&group["publicKey"], "pk");
        let key = VerifyingKey::from_bytes(key.as_slice().try_into().unwrap()).unwrap();
        let good = key.verify(&bytes(test, "msg"), &bytes(test, "sig"));
        assert_eq!(good, test["result"] == "valid", "{}", test["tcId"]);
        true
    });
}

#[test]
fn x25519_agrees_with_wycheproof() {
    each("x25519_test.json", 200, |_, test| {
        let array = |field| <[u8; 32]>::try_from(bytes(test, field)).unwrap();
        let shared = x25519_dalek::x25519(array("private"), array("public"));
        assert_eq!(shared.as_slice(), bytes(test, "shared"), "{}", test["tcId"]);
        true
    });
}
