//! SOL004 packages that `openssl cms` signed, as a provider would: accepted, and refused when anything is wrong.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "tools/csar.rs"]
mod csar;
mod tools;

use csar::{Files, files, manifest, roots, zip};
use descriptors::package::{self, SignatureKind};
use tools::{Ca, ED25519, P256, P384, RSA, has_openssl, now};
use trust::{TrustRoots, UnixTime};

fn with_cms(text: &str, pem: &[u8]) -> Vec<u8> {
    [text.as_bytes(), pem].concat()
}

fn code(bytes: &[u8], roots: &TrustRoots, at: UnixTime) -> String {
    let error = package::verify(bytes, roots, at).unwrap_err();
    assert!(!error.to_string().is_empty());
    error.code().to_owned()
}

struct Signed {
    ca: Ca,
    roots: TrustRoots,
    files: Files,
    text: String,
}

fn signed(algorithm: &'static str) -> Signed {
    let world = common::world();
    let ca = Ca::new(algorithm);
    let (roots, files) = (roots(&world, &ca.text("root.pem")), files(&world));
    let text = manifest(&files);
    Signed { ca, roots, files, text }
}

impl Signed {
    fn option_1(&self, more: &str) -> Vec<u8> {
        let pem = self.ca.sign(self.text.as_bytes(), &format!("-outform PEM {more}"));
        csar::csar(&self.files, &with_cms(&self.text, &pem))
    }
}

#[test]
fn option_1_with_every_algorithm_and_form() {
    if !has_openssl() {
        return;
    }
    let all = "-binary -md sha256 -certfile inter.pem";
    let variants: &[(&'static str, &[&str])] = &[
        (
            P256,
            &[
                all,
                "-binary -certfile inter.pem -md sha512",
                "-binary -certfile inter.pem -noattr",
                "-binary -certfile inter.pem -keyid",
                "-binary -certfile inter.pem -cades",
                "-certfile inter.pem",
                "-binary -certfile inter.pem -stream",
            ],
        ),
        (P384, &["-binary -md sha384 -certfile inter.pem", all]),
        (
            RSA,
            &[
                all,
                "-binary -certfile inter.pem -keyopt rsa_padding_mode:pss",
                "-binary -certfile inter.pem -md sha512 -keyopt rsa_padding_mode:pss -keyopt rsa_pss_saltlen:-1",
            ],
        ),
        // OpenSSL 3.0 makes no CMS signature with Ed25519; certificates it does.
        (ED25519, &[all]),
    ];
    for (algorithm, forms) in variants {
        let mut it = signed(algorithm);
        if *algorithm == ED25519 {
            it.ca.algorithm = P256;
            it.ca.issue("leaf", "/O=vendor/CN=release", "inter", "leaf.cnf", "100");
        }
        for form in *forms {
            let verified = package::verify(&it.option_1(form), &it.roots, now());
            let verified = verified
                .unwrap_or_else(|e| panic!("{algorithm} {form}: {e} {:?}", std::error::Error::source(&e)));
            assert_eq!(verified.signer.to_string(), "release@vendor");
            assert_eq!(verified.signer.kind, SignatureKind::Cms);
            assert_eq!(verified.images.len(), 1);
            assert!(verified.images[0].summary.complete);
        }
    }
}

#[test]
fn option_1_with_certificates_beside_it_in_any_order() {
    if !has_openssl() {
        return;
    }
    let it = signed(P256);
    for order in [["leaf", "inter", "root"], ["root", "inter", "leaf"], ["inter", "root", "leaf"]] {
        let pem: String = order.iter().map(|n| it.ca.text(&format!("{n}.pem"))).collect();
        let mut files = it.files.clone();
        files.insert("vfw.cert".into(), pem.into_bytes());
        let text = manifest(&it.files);
        let cms = it.ca.sign(text.as_bytes(), "-binary -nocerts -outform PEM");
        package::verify(&csar::csar(&files, &with_cms(&text, &cms)), &it.roots, now()).unwrap();
        let bare = csar::csar(&it.files, &with_cms(&text, &cms));
        assert_eq!(code(&bare, &it.roots, now()), "CERTIFICATE_MISSING");
    }
    // Without the intermediate there is no chain.
    assert_eq!(code(&it.option_1("-binary"), &it.roots, now()), "CERTIFICATE_UNTRUSTED");
}

#[test]
fn option_2_and_what_may_be_beside_it() {
    if !has_openssl() {
        return;
    }
    let it = signed(P256);
    let inner = csar::csar(&it.files, it.text.as_bytes());
    let cms = it.ca.sign(&inner, "-binary -outform DER -certfile inter.pem");
    let nocerts = it.ca.sign(&inner, "-binary -outform PEM -nocerts");
    let chain = [it.ca.read("inter.pem"), it.ca.read("leaf.pem")].concat();
    it.ca.openssl("crl2pkcs7 -nocrl -certfile inter.pem -certfile leaf.pem -out chain.p7b");
    let outer = |more: &[(&str, &[u8])]| {
        let mut files = Files::from([("vfw.csar".to_owned(), inner.clone())]);
        files.extend(more.iter().map(|(n, b)| ((*n).to_owned(), b.to_vec())));
        zip(&files)
    };
    let p7b = it.ca.read("chain.p7b");
    for good in [
        outer(&[("vfw.cms", &cms)]),
        outer(&[("vfw.cms", &nocerts), ("vfw.cert", &chain)]),
        outer(&[("vfw.p7s", &nocerts), ("vfw.p7b", &p7b)]),
    ] {
        let verified = package::verify(&good, &it.roots, now()).unwrap();
        assert_eq!(verified.package.digest, trust::Digest::of(&good));
        assert_eq!(package::open(&good).unwrap().descriptor.id(), "vfw_vnf");
        assert!(package::open(&good).unwrap().is_signed());
    }
    // Both options at once.
    let twice = it.option_1("-binary -certfile inter.pem");
    let cms_2 = it.ca.sign(&twice, "-binary -outform DER -certfile inter.pem");
    let both = zip(&Files::from([("a.csar".into(), twice), ("a.cms".into(), cms_2)]));
    package::verify(&both, &it.roots, now()).unwrap();
    assert_eq!(code(&outer(&[]), &it.roots, now()), "SOL004_NOT_SIGNED");
    assert_eq!(code(&inner, &it.roots, now()), "SOL004_NOT_SIGNED");
    assert_eq!(code(&outer(&[("vfw.cms", &cms), ("run.sh", b"x")]), &it.roots, now()), "SOL004_OUTER_ENTRY");
    let other = it.ca.sign(b"another package", "-binary -outform DER -certfile inter.pem");
    assert_eq!(code(&outer(&[("vfw.cms", &other)]), &it.roots, now()), "SIGNATURE_OTHER_CONTENT");
}

#[test]
fn what_is_wrong_with_the_signature_has_its_code() {
    if !has_openssl() {
        return;
    }
    let it = signed(P256);
    let all = "-binary -certfile inter.pem -outform PEM";
    let good = it.option_1("-binary -certfile inter.pem");
    let verify = |bytes: &[u8]| code(bytes, &it.roots, now());
    // Another manifest's signature, a file that no manifest names, weak digests.
    let other = it.ca.sign(b"metadata:\n", all);
    assert_eq!(verify(&csar::csar(&it.files, &with_cms(&it.text, &other))), "SIGNATURE_OTHER_CONTENT");
    let mut more = it.files.clone();
    more.insert("Files/extra".into(), vec![1]);
    let pem = it.ca.sign(it.text.as_bytes(), all);
    assert_eq!(verify(&csar::csar(&more, &with_cms(&it.text, &pem))), "SOL004_FILE_UNLISTED");
    let rsa = signed(RSA);
    for weak in ["sha1", "md5", "sha224"] {
        let pem = rsa.ca.sign(rsa.text.as_bytes(), &format!("{all} -md {weak}"));
        let bytes = csar::csar(&rsa.files, &with_cms(&rsa.text, &pem));
        let error = package::verify(&bytes, &rsa.roots, now()).unwrap_err();
        let why = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert_eq!(error.code(), "SIGNATURE_DIGEST_ALGORITHM", "{weak}");
        assert!(why.to_lowercase().replace('-', "").contains(weak), "{why}");
    }
    // Time, trust, revocation, usage.
    assert_eq!(code(&good, &it.roots, now().plus(1001 * 86_400)), "CERTIFICATE_NOT_VALID");
    assert_eq!(code(&good, &it.roots, UnixTime(1_500_000_000)), "CERTIFICATE_NOT_VALID");
    assert_eq!(code(&good, &common::world().roots, now()), "CERTIFICATE_UNTRUSTED");
    assert_eq!(
        code(&good, &roots(&common::world(), &Ca::new(P256).text("root.pem")), now()),
        "CERTIFICATE_UNTRUSTED"
    );
    for revoked in ["leaf", "inter"] {
        let text = it.ca.openssl(&format!("x509 -in {revoked}.pem -noout -serial"));
        let serial = String::from_utf8(text).unwrap().trim().replace("serial=", "").to_lowercase();
        let mut roots = it.roots.clone();
        roots.orgs.get_mut("vendor").unwrap().revoked.insert(serial);
        assert_eq!(code(&good, &roots, now()), "CERTIFICATE_REVOKED", "{revoked}");
    }
    std::fs::write(it.ca.path("tls.cnf"), "keyUsage=digitalSignature\nextendedKeyUsage=serverAuth\n")
        .unwrap();
    it.ca.issue("leaf", "/CN=web", "inter", "tls.cnf", "100");
    assert_eq!(verify(&it.option_1("-binary -certfile inter.pem")), "CERTIFICATE_USAGE");
    std::fs::write(it.ca.path("enc.cnf"), "keyUsage=keyEncipherment\n").unwrap();
    it.ca.issue("leaf", "/CN=enc", "inter", "enc.cnf", "100");
    assert_eq!(verify(&it.option_1("-binary -certfile inter.pem")), "CERTIFICATE_USAGE");
    // An end entity is no CA.
    std::fs::write(it.ca.path("end.cnf"), "basicConstraints=CA:FALSE\n").unwrap();
    it.ca.issue("inter", "/CN=not a CA", "root", "end.cnf", "100");
    it.ca.issue("leaf", "/CN=release", "inter", "leaf.cnf", "100");
    assert_eq!(verify(&it.option_1("-binary -certfile inter.pem")), "CERTIFICATE_UNTRUSTED");
}

#[test]
fn a_self_signed_signer_is_trusted_only_by_name() {
    if !has_openssl() {
        return;
    }
    let it = signed(RSA);
    it.ca.openssl("req -x509 -newkey rsa:2048 -nodes -keyout leaf.key -out leaf.pem -days 30 -subj /CN=me");
    let bytes = it.option_1("-binary");
    assert_eq!(code(&bytes, &it.roots, now()), "CERTIFICATE_UNTRUSTED");
    let pinned = roots(&common::world(), &it.ca.text("leaf.pem"));
    assert_eq!(package::verify(&bytes, &pinned, now()).unwrap().signer.to_string(), "me@vendor");
    it.ca.openssl("req -x509 -newkey rsa:1024 -nodes -keyout leaf.key -out leaf.pem -days 30 -subj /CN=me");
    let small = roots(&common::world(), &it.ca.text("leaf.pem"));
    assert_eq!(code(&it.option_1("-binary"), &small, now()), "SIGNATURE_KEY");
}

#[test]
fn single_files_may_be_signed_too() {
    if !has_openssl() {
        return;
    }
    let it = signed(P256);
    let image = "Files/images/mandate-dataplane";
    let text = it.text.replace(
        &format!("Source: {image}\n"),
        &format!("Source: {image}\nSignature: image.cms\nCertificate: image.cert\n"),
    );
    let build = |signature: Vec<u8>| {
        let mut files = it.files.clone();
        files.insert("image.cms".into(), signature);
        files.insert("image.cert".into(), [it.ca.read("leaf.pem"), it.ca.read("inter.pem")].concat());
        let pem = it.ca.sign(text.as_bytes(), "-binary -certfile inter.pem -outform PEM");
        csar::csar(&files, &with_cms(&text, &pem))
    };
    let good = build(it.ca.sign(csar::IMAGE, "-binary -nocerts -outform DER"));
    package::verify(&good, &it.roots, now()).unwrap();
    let bad = build(it.ca.sign(b"else", "-binary -nocerts -outform DER"));
    assert_eq!(code(&bad, &it.roots, now()), "SIGNATURE_OTHER_CONTENT");
}

/// Every byte of the manifest and of its signature, each with one bit changed: never verified as it was.
#[test]
fn no_flipped_byte_verifies() {
    if !has_openssl() {
        return;
    }
    let it = signed(P256);
    let pem = it.ca.sign(it.text.as_bytes(), "-binary -certfile inter.pem -outform PEM");
    let manifest = with_cms(&it.text, &pem);
    let text = it.text.len();
    for i in (0..text).chain((text..manifest.len()).step_by(3)) {
        let mut changed = manifest.clone();
        changed[i] ^= 1 << (i % 7);
        let bytes = csar::csar(&it.files, &changed);
        if let Ok(verified) = package::verify(&bytes, &it.roots, now()) {
            // Only the certificates and what is not signed in CMS are left: then signer and files are the same.
            assert!(i >= text, "byte {i} of the manifest");
            assert_eq!(verified.signer.to_string(), "release@vendor", "byte {i}");
        }
    }
}
