"""A supply chain of two steps, signed with in-toto's own library as metablocks and in DSSE; in-toto accepts it first.

Usage: layout_world.py DIR IMAGE. Writes DIR/{metablock,dsse,rules,expired,inspect}/root.layout, links beside it, and
DIR/owner-*.pem.
"""

import hashlib
import os
import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from in_toto.models.layout import Inspection, Layout, Step
from in_toto.models.link import Link
from in_toto.models.metadata import Envelope, Metablock
from in_toto.verifylib import in_toto_verify
from securesystemslib.signer import CryptoSigner

out, image = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
digest = lambda b: {"sha256": hashlib.sha256(b).hexdigest()}


def public_pem(signer):
    return signer._private_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


owners = {"ed25519": CryptoSigner.generate_ed25519(), "rsa": CryptoSigner.generate_rsa(),
          "ecdsa": CryptoSigner.generate_ecdsa()}
for name, owner in owners.items():
    (out / f"owner-{name}.pem").write_bytes(public_pem(owner))
alice, bob, carol = CryptoSigner.generate_ed25519(), CryptoSigner.generate_rsa(), CryptoSigner.generate_ecdsa()


def key(signer):
    return dict(signer.public_key.to_dict(), keyid=signer.public_key.keyid)


SOURCE = {"src/main.c": digest(b"int main"), "src/readme": digest(b"text \"\\ \xc3\xa4")}
PRODUCTS = {"image": digest(image), "build/log": digest(b"log")}


def links():
    clone = Link(name="clone", materials={}, products=SOURCE, command=["git", "clone"], byproducts={"stdout": "\u00e4\n\"", "return-value": 0})
    build = Link(name="build", materials=SOURCE, products=dict(SOURCE, **PRODUCTS), command=["make"])
    return [(clone, [alice]), (build, [bob, carol])]


def layout(days=30, inspect=False):
    it = Layout(readme="how \u00e4 is built")
    it.set_relative_expiration(days=max(days, 1))
    if days < 1:
        it.expires = "2020-01-01T00:00:00Z"
    for signer in (alice, bob, carol):
        it.keys[signer.public_key.keyid] = key(signer)
    clone = Step(name="clone", pubkeys=[alice.public_key.keyid], threshold=1)
    clone.expected_products = [["CREATE", "src/*"], ["DISALLOW", "*"]]
    build = Step(name="build", pubkeys=[bob.public_key.keyid, carol.public_key.keyid], threshold=2)
    build.expected_materials = [["MATCH", "*", "IN", "src", "WITH", "PRODUCTS", "IN", "src", "FROM", "clone"], ["DISALLOW", "*"]]
    build.expected_products = [["REQUIRE", "image"], ["CREATE", "image"], ["CREATE", "build/[lm]o?"], ["ALLOW", "src/*"],
                               ["DISALLOW", "*"]]
    it.steps = [clone, build]
    if inspect:
        it.inspect = [Inspection(name="look", run=["true"])]
    return it


def write(folder, form, the_layout, owner, the_links):
    directory = out / folder
    directory.mkdir()
    wrap = lambda signable: Metablock(signed=signable) if form == "metablock" else Envelope.from_signable(signable)
    signed = wrap(the_layout)
    signed.create_signature(owner)
    signed.dump(str(directory / "root.layout"))
    for link, signers in the_links:
        for signer in signers:
            one = wrap(link)
            one.create_signature(signer)
            one.dump(str(directory / f"{link.name}.{signer.public_key.keyid[:8]}.link"))
    return signed, directory


for form in ("metablock", "dsse"):
    for name, owner in owners.items():
        signed, directory = write(f"{form}-{name}", form, layout(), owner, links())
        os.chdir(out)
        in_toto_verify(signed, {owner.public_key.keyid: key(owner)}, link_dir_path=str(directory))

owner = owners["ed25519"]
write("bad-expired", "metablock", layout(days=0), owner, links())
write("bad-inspect", "metablock", layout(inspect=True), owner, links())
few = links()
few[1] = (few[1][0], [bob])
write("bad-threshold", "metablock", layout(), owner, few)
changed = links()
changed[1][0].materials = dict(SOURCE, **{"src/main.c": digest(b"backdoor")})
changed[1][0].products = dict(changed[1][0].materials, **PRODUCTS)
write("bad-rule", "metablock", layout(), owner, changed)
left = links()
left[1][0].products = dict(left[1][0].products, extra=digest(b"x"))
write("bad-left-over", "dsse", layout(), owner, left)
signed, directory = write("bad-disagree", "metablock", layout(), owner, links())
mine = links()[1][0]
mine.products = dict(mine.products, **{"build/log": digest(b"another log")})
one = Metablock(signed=mine)
one.create_signature(carol)
one.dump(str(directory / f"build.{carol.public_key.keyid[:8]}.link"))
write("bad-stranger", "metablock", layout(), CryptoSigner.generate_ed25519(), links())
print("accepted by in-toto")
