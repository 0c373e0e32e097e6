"""A miniature Fulcio, Rekor, CT log and time-stamping authority; signs bundles that sigstore-python itself accepts.

Usage: sigstore_world.py DIR ARTIFACT. Writes trusted_root.json, key.pem and *.sigstore.json into DIR.
"""

import base64
import datetime
import hashlib
import json
import subprocess
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

out, artifact_path = Path(sys.argv[1]), Path(sys.argv[2])
artifact = artifact_path.read_bytes()
NOW = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
DAY = datetime.timedelta(days=1)
ISSUER, SUBJECT = "https://accounts.example", "release@vendor.example"


def b64(data):
    return base64.b64encode(data).decode()


def der(cert):
    return cert.public_bytes(serialization.Encoding.DER)


def spki(key, encoding=serialization.Encoding.DER):
    return key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


def sign(key, data):
    return key.sign(data) if isinstance(key, ed25519.Ed25519PrivateKey) else key.sign(data, ec.ECDSA(hashes.SHA256()))


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "mini"), x509.NameAttribute(NameOID.COMMON_NAME, text)])


def builder(subject, issuer, key, start, end):
    return (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end))


def usage(cert_sign):
    return x509.KeyUsage(not cert_sign, False, False, False, False, cert_sign, cert_sign, False, False)


def authority(text):
    key = ec.generate_private_key(ec.SECP384R1())
    cert = (builder(name(text), name(text), key, NOW - 30 * DAY, NOW + 3650 * DAY)
            .add_extension(x509.BasicConstraints(True, None), True).add_extension(usage(True), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .sign(key, hashes.SHA384()))
    return key, cert


def subordinate(text, ca_key, ca_cert, eku):
    key = ec.generate_private_key(ec.SECP256R1())
    b = (builder(name(text), ca_cert.subject, key, NOW - 20 * DAY, NOW + 3000 * DAY)
         .add_extension(x509.BasicConstraints(True, 0), True).add_extension(usage(True), True)
         .add_extension(x509.ExtendedKeyUsage([eku]), False)
         .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
         .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False))
    return key, b.sign(ca_key, hashes.SHA384())


root_key, root = authority("fulcio root")
sub_key, sub = subordinate("fulcio", root_key, root, ExtendedKeyUsageOID.CODE_SIGNING)
ct_key = ec.generate_private_key(ec.SECP256R1())
rekor_key = ec.generate_private_key(ec.SECP256R1())
rekor2_key = ed25519.Ed25519PrivateKey.generate()
REKOR2 = "log2.mini.example"
raw2 = rekor2_key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
ct_id = hashlib.sha256(spki(ct_key)).digest()
rekor_id = hashlib.sha256(spki(rekor_key)).digest()
rekor2_id = hashlib.sha256(REKOR2.encode() + b"\n\x01" + raw2).digest()


def leaf(start=NOW - datetime.timedelta(minutes=1), scts=True, subject=SUBJECT):
    """A short-lived certificate with an embedded SCT."""
    key = ec.generate_private_key(ec.SECP256R1())
    b = (builder(x509.Name([]), sub.subject, key, start, start + datetime.timedelta(minutes=10))
         .add_extension(usage(False), True)
         .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)
         .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(subject)]), True)
         .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(sub_key.public_key()), False)
         .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1"), ISSUER.encode()), False)
         .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8"),
                                                   bytes([0x0C, len(ISSUER)]) + ISSUER.encode()), False))
    if not scts:
        return key, b.sign(sub_key, hashes.SHA256())
    tbs = b.sign(sub_key, hashes.SHA256()).tbs_certificate_bytes
    time = int(start.timestamp() * 1000).to_bytes(8, "big")
    signed = (b"\x00\x00" + time + b"\x00\x01" + hashlib.sha256(spki(sub_key)).digest()
              + len(tbs).to_bytes(3, "big") + tbs + b"\x00\x00")
    sig = sign(ct_key, signed)
    sct = b"\x00" + ct_id + time + b"\x00\x00" + b"\x04\x03" + len(sig).to_bytes(2, "big") + sig
    sct = len(sct).to_bytes(2, "big") + sct
    listed = len(sct).to_bytes(2, "big") + sct
    value = b"\x04" + (bytes([len(listed)]) if len(listed) < 128 else b"\x81" + bytes([len(listed)])) + listed
    b = b.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2"), value), False)
    return key, b.sign(sub_key, hashes.SHA256())


# The time-stamping authority is openssl's.
tsa_root_key, tsa_root = authority("tsa root")
tsa_key = ec.generate_private_key(ec.SECP256R1())
tsa = (builder(name("tsa"), tsa_root.subject, tsa_key, NOW - 10 * DAY, NOW + 1000 * DAY)
       .add_extension(x509.BasicConstraints(False, None), True).add_extension(usage(False), True)
       .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), True)
       .add_extension(x509.SubjectKeyIdentifier.from_public_key(tsa_key.public_key()), False)
       .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(tsa_root_key.public_key()), False)
       .sign(tsa_root_key, hashes.SHA256()))
(out / "tsa.pem").write_bytes(tsa.public_bytes(serialization.Encoding.PEM))
(out / "tsa.key").write_bytes(tsa_key.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
(out / "tsa.cnf").write_text(
    "[tsa]\ndefault_tsa=t\n[t]\nserial=serial\nsigner_cert=tsa.pem\nsigner_key=tsa.key\nsigner_digest=sha256\n"
    "default_policy=1.2.3.4\ndigests=sha256\naccuracy=secs:1\ness_cert_id_chain=no\ness_cert_id_alg=sha256\n")
(out / "serial").write_text("01\n")


def timestamp(signature):
    (out / "stamped").write_bytes(signature)
    run = lambda *a: subprocess.run(["openssl", "ts", *a], cwd=out, check=True, capture_output=True)
    run("-query", "-data", "stamped", "-sha256", "-cert", "-out", "tsq")
    run("-reply", "-config", "tsa.cnf", "-queryfile", "tsq", "-out", "tsr")
    return (out / "tsr").read_bytes()


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def entry(kind, version, spec, v2=False, time=None):
    """The entry as the third of five leaves of a tree."""
    body = canonical({"apiVersion": version, "kind": kind, "spec": spec})
    h = lambda b: hashlib.sha256(b).digest()
    leaves = [h(b"\x00other%d" % i) for i in range(5)]
    leaves[2] = h(b"\x00" + body)
    node = lambda l, r: h(b"\x01" + l + r)
    left, right = node(leaves[0], leaves[1]), node(leaves[2], leaves[3])
    tree = node(node(left, right), leaves[4])
    origin, key, log_id = (REKOR2, rekor2_key, rekor2_id) if v2 else ("rekor.mini.example - 42", rekor_key, rekor_id)
    text = f"{origin}\n5\n{b64(tree)}\n"
    note = f"{text}\n\u2014 {origin.split(' ')[0]} {b64(log_id[:4] + sign(key, text.encode()))}\n"
    at = int((time or NOW).timestamp())
    it = {
        "logIndex": "2" if v2 else "1002", "logId": {"keyId": b64(log_id)}, "kindVersion": {"kind": kind, "version": version},
        "inclusionProof": {"logIndex": "2", "rootHash": b64(tree), "treeSize": "5",
                           "hashes": [b64(leaves[3]), b64(left), b64(leaves[4])], "checkpoint": {"envelope": note}},
        "canonicalizedBody": b64(body),
    }
    if not v2:
        promise = canonical({"body": b64(body), "integratedTime": at, "logID": log_id.hex(), "logIndex": 1002})
        it["integratedTime"] = str(at)
        it["inclusionPromise"] = {"signedEntryTimestamp": b64(sign(rekor_key, promise))}
    return it


def hashed(signature, verifier_pem):
    digest = hashlib.sha256(artifact).hexdigest()
    return entry("hashedrekord", "0.0.1", {
        "data": {"hash": {"algorithm": "sha256", "value": digest}},
        "signature": {"content": b64(signature), "publicKey": {"content": b64(verifier_pem)}}})


def hashed_2(signed, signature, cert):
    return entry("hashedrekord", "0.0.2", {"hashedRekordV002": {
        "data": {"algorithm": "SHA2_256", "digest": b64(hashlib.sha256(signed).digest())},
        "signature": {"content": b64(signature), "verifier": {
            "keyDetails": "PKIX_ECDSA_P256_SHA_256", "x509Certificate": {"rawBytes": b64(der(cert))}}}}}, v2=True)


MEDIA = {"0.1": "application/vnd.dev.sigstore.bundle+json;version=0.1",
         "0.2": "application/vnd.dev.sigstore.bundle+json;version=0.2",
         "0.3": "application/vnd.dev.sigstore.bundle.v0.3+json"}


def bundle(file, version, signer, entries, content, stamps=()):
    material = dict(signer, tlogEntries=entries)
    if stamps:
        material["timestampVerificationData"] = {"rfc3161Timestamps": [{"signedTimestamp": b64(s)} for s in stamps]}
    text = json.dumps(dict({"mediaType": MEDIA[version], "verificationMaterial": material}, **content))
    (out / f"{file}.sigstore.json").write_text(text)
    return text


def message(signature):
    return {"messageSignature": {"messageDigest": {"algorithm": "SHA2_256", "digest": b64(hashlib.sha256(artifact).digest())},
                                 "signature": b64(signature)}}


def certificate(version, cert):
    if version == "0.3":
        return {"certificate": {"rawBytes": b64(der(cert))}}
    return {"x509CertificateChain": {"certificates": [{"rawBytes": b64(der(cert))}]}}


def statement(predicate_type, predicate, kind):
    return json.dumps({"_type": kind, "predicateType": predicate_type, "predicate": predicate, "subject": [
        {"name": "image", "digest": {"sha256": hashlib.sha256(artifact).hexdigest()}}]}).encode()


SLSA_1 = statement("https://slsa.dev/provenance/v1", {
    "buildDefinition": {"buildType": "https://b.example/t", "externalParameters": {},
                        "resolvedDependencies": [{"uri": "git+https://s.example", "digest": {"gitCommit": "00"}}]},
    "runDetails": {"builder": {"id": "https://builder.example/2"}}}, "https://in-toto.io/Statement/v1")
SLSA_02 = statement("https://slsa.dev/provenance/v0.2", {
    "builder": {"id": "https://builder.example/1"}, "buildType": "https://b.example/t",
    "materials": [{"uri": "git+https://s.example", "digest": {"sha1": "00"}}]}, "https://in-toto.io/Statement/v0.1")
TYPE = "application/vnd.in-toto+json"


def pae(payload):
    return b"DSSEv1 %d %s %d %s" % (len(TYPE), TYPE.encode(), len(payload), payload)


def pem(cert):
    return cert.public_bytes(serialization.Encoding.PEM)


def envelope(payload, signature):
    return {"dsseEnvelope": {"payload": b64(payload), "payloadType": TYPE, "signatures": [{"sig": b64(signature)}]}}


accepted = []
for version in ("0.1", "0.2", "0.3"):
    key, cert = leaf()
    sig = sign(key, artifact)
    accepted.append((bundle(f"message-{version}", version, certificate(version, cert), [hashed(sig, pem(cert))], message(sig)), None))

key, cert = leaf()
sig = sign(key, artifact)
accepted.append((bundle("stamped", "0.3", certificate("0.3", cert), [hashed(sig, pem(cert))], message(sig), [timestamp(sig)]), None))
accepted.append((bundle("rekor2", "0.3", certificate("0.3", cert), [hashed_2(artifact, sig, cert)], message(sig), [timestamp(sig)]), None))

for file, payload in (("slsa1", SLSA_1), ("slsa02", SLSA_02)):
    key, cert = leaf()
    sig = sign(key, pae(payload))
    logged = entry("dsse", "0.0.1", {
        "envelopeHash": {"algorithm": "sha256", "value": "00" * 32},
        "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
        "signatures": [{"signature": b64(sig), "verifier": b64(pem(cert))}]})
    accepted.append((bundle(file, "0.3", certificate("0.3", cert), [logged], envelope(payload, sig)), payload))
accepted.append((bundle("slsa1-rekor2", "0.3", certificate("0.3", cert), [hashed_2(pae(payload), sig, cert)],
                        envelope(payload, sig), [timestamp(sig)]), payload))

# Keyed: with the log, and without.
cosign = ec.generate_private_key(ec.SECP256R1())
(out / "key.pem").write_bytes(spki(cosign, serialization.Encoding.PEM))
sig = sign(cosign, artifact)
hint = {"publicKey": {"hint": b64(hashlib.sha256(spki(cosign)).digest())}}
bundle("keyed", "0.3", hint, [hashed(sig, spki(cosign, serialization.Encoding.PEM))], message(sig))
bundle("keyed-bare", "0.3", hint, [], message(sig))
other = ec.generate_private_key(ec.SECP256R1())
bundle("bad-key", "0.3", hint, [], message(sign(other, artifact)))
sig = sign(cosign, pae(SLSA_1))
bundle("keyed-slsa1", "0.3", hint, [], envelope(SLSA_1, sig))

# What must be refused.
key, cert = leaf()
sig = sign(key, artifact)
bundle("bad-no-log", "0.3", certificate("0.3", cert), [], message(sig))
bundle("bad-no-time", "0.3", certificate("0.3", cert), [hashed_2(artifact, sig, cert)], message(sig))
late = entry("hashedrekord", "0.0.1", json.loads(base64.b64decode(hashed(sig, pem(cert))["canonicalizedBody"]))["spec"], time=NOW + DAY)
bundle("bad-late", "0.3", certificate("0.3", cert), [late], message(sig))
key2, cert2 = leaf()
sig2 = sign(key2, artifact)
bundle("bad-other-entry", "0.3", certificate("0.3", cert), [hashed(sig2, pem(cert2))], message(sig))
bundle("bad-other-signature", "0.3", certificate("0.3", cert), [hashed(sign(key, artifact), pem(cert))], message(sig))
bundle("bad-signature", "0.3", certificate("0.3", cert), [hashed(sig2, pem(cert))], message(sig2))
key, cert = leaf(scts=False)
sig = sign(key, artifact)
bundle("bad-no-sct", "0.3", certificate("0.3", cert), [hashed(sig, pem(cert))], message(sig))
key, cert = leaf(subject="mallory@vendor.example")
sig = sign(key, artifact)
bundle("bad-identity", "0.3", certificate("0.3", cert), [hashed(sig, pem(cert))], message(sig))
bundle("bad-chain", "0.3", {"x509CertificateChain": {"certificates": [{"rawBytes": b64(der(cert))}]}}, [], message(sig))

start = (NOW - 40 * DAY).strftime("%Y-%m-%dT%H:%M:%SZ")


def log(key, log_id, details, url):
    return {"baseUrl": url, "hashAlgorithm": "SHA2_256", "logId": {"keyId": b64(log_id)},
            "publicKey": {"rawBytes": b64(spki(key)), "keyDetails": details, "validFor": {"start": start}}}


def ca(*chain):
    return {"subject": {"organization": "mini", "commonName": "mini"}, "uri": "https://mini.example",
            "certChain": {"certificates": [{"rawBytes": b64(der(c))} for c in chain]}, "validFor": {"start": start}}


trusted = {
    "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
    "tlogs": [log(rekor_key, rekor_id, "PKIX_ECDSA_P256_SHA_256", "https://rekor.mini.example"),
              log(rekor2_key, rekor2_id, "PKIX_ED25519", "https://" + REKOR2)],
    "certificateAuthorities": [ca(sub, root)],
    "ctlogs": [log(ct_key, ct_id, "PKIX_ECDSA_P256_SHA_256", "https://ct.mini.example")],
    "timestampAuthorities": [ca(tsa, tsa_root)],
}
(out / "trusted_root.json").write_text(json.dumps(trusted))

# The material is good if sigstore's own client says so.
from sigstore.models import Bundle, TrustedRoot  # noqa: E402
from sigstore.verify import Verifier  # noqa: E402
from sigstore.verify.policy import Identity  # noqa: E402

verifier = Verifier(trusted_root=TrustedRoot.from_file(str(out / "trusted_root.json")))
policy = Identity(identity=SUBJECT, issuer=ISSUER)
for text, payload in accepted:
    it = Bundle.from_json(text)
    if payload is None:
        verifier.verify_artifact(artifact, it, policy)
    else:
        assert verifier.verify_dsse(it, policy)[1] == payload
print(len(accepted), "bundles accepted by sigstore-python")
