"""SBOMs of one image in every form, written by the standards' own libraries.

Usage: sbom_world.py DIR SHA256. Writes DIR/{cdx-1.5,cdx-1.6,cdx-1.7,spdx-2.3,spdx-3.0.1}.json, spdx-2.3.spdx, cdx-1.6.xml.
"""

import sys
from datetime import datetime, timezone
from pathlib import Path

out, image = Path(sys.argv[1]), sys.argv[2]
LIB = "ab" * 32
PURL = "pkg:deb/debian/zlib1g@1.2.13"

from cyclonedx.model import HashAlgorithm, HashType  # noqa: E402
from cyclonedx.model.bom import Bom  # noqa: E402
from cyclonedx.model.component import Component, ComponentType  # noqa: E402
from cyclonedx.model.contact import OrganizationalEntity  # noqa: E402
from cyclonedx.model.license import LicenseExpression  # noqa: E402
from cyclonedx.output import make_outputter  # noqa: E402
from cyclonedx.schema import OutputFormat, SchemaVersion  # noqa: E402
from packageurl import PackageURL  # noqa: E402

vendor = OrganizationalEntity(name="Vendor")
subject = Component(name="image", version="1", type=ComponentType.APPLICATION, supplier=vendor, bom_ref="image",
                    hashes=[HashType(alg=HashAlgorithm.SHA_256, content=image)])
lib = Component(name="zlib1g", version="1.2.13", type=ComponentType.LIBRARY, supplier=OrganizationalEntity(name="Debian"),
                purl=PackageURL.from_string(PURL), bom_ref="lib", licenses=[LicenseExpression("Zlib OR GPL-2.0-only")],
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=LIB)])
bom = Bom(components=[lib])
bom.metadata.component, bom.metadata.supplier = subject, vendor
bom.register_dependency(subject, [lib])
for version, tag in ((SchemaVersion.V1_5, "1.5"), (SchemaVersion.V1_6, "1.6"), (SchemaVersion.V1_7, "1.7")):
    (out / f"cdx-{tag}.json").write_text(make_outputter(bom, OutputFormat.JSON, version).output_as_string())
(out / "cdx-1.6.xml").write_text(make_outputter(bom, OutputFormat.XML, SchemaVersion.V1_6).output_as_string())
(out / "old-cdx-1.4.json").write_text(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_4).output_as_string())

from spdx_tools.common.spdx_licensing import spdx_licensing  # noqa: E402
from spdx_tools.spdx.model import (  # noqa: E402
    Actor, ActorType, Checksum, ChecksumAlgorithm, CreationInfo, Document, ExternalPackageRef,
    ExternalPackageRefCategory, Package, Relationship, RelationshipType, SpdxNoAssertion)
from spdx_tools.spdx.writer.write_anything import write_file  # noqa: E402

person = Actor(ActorType.ORGANIZATION, "Vendor")
made = CreationInfo("SPDX-2.3", "SPDXRef-DOCUMENT", "image", "https://vendor.example/image", [person],
                    datetime(2026, 1, 1), document_comment="two\nlines: of text")
about = Package("SPDXRef-image", "image", SpdxNoAssertion(), version="1", supplier=person, files_analyzed=False,
                checksums=[Checksum(ChecksumAlgorithm.SHA256, image)])
part = Package("SPDXRef-lib", "zlib1g", SpdxNoAssertion(), version="1.2.13",
               supplier=Actor(ActorType.ORGANIZATION, "Debian"), files_analyzed=False,
               checksums=[Checksum(ChecksumAlgorithm.SHA256, LIB)],
               license_declared=spdx_licensing.parse("Zlib OR GPL-2.0-only"), license_concluded=SpdxNoAssertion(),
               external_references=[ExternalPackageRef(ExternalPackageRefCategory.PACKAGE_MANAGER, "purl", PURL)])
document = Document(made, [about, part], relationships=[
    Relationship("SPDXRef-DOCUMENT", RelationshipType.DESCRIBES, "SPDXRef-image"),
    Relationship("SPDXRef-image", RelationshipType.DEPENDS_ON, "SPDXRef-lib")])
write_file(document, str(out / "spdx-2.3.json"), validate=True)
write_file(document, str(out / "spdx-2.3.spdx"), validate=True)
write_file(document, str(out / "spdx-2.3.yaml"), validate=True)

from spdx_python_model import v3_0_1 as s  # noqa: E402

made = s.CreationInfo(specVersion="3.0.1", created=datetime(2026, 1, 1, tzinfo=timezone.utc))
base = "https://vendor.example/"


def element(kind, end, **fields):
    it = kind()
    it.spdxId, it.creationInfo = base + end, made
    for field, value in fields.items():
        setattr(it, field, value)
    return it


def hashed(value):
    it = s.Hash()
    it.algorithm, it.hashValue = s.HashAlgorithm.sha256, value
    return it


vendor = element(s.Organization, "vendor", name="Vendor")
debian = element(s.Organization, "debian", name="Debian")
made.createdBy = [vendor]
about = element(s.software_Package, "image", name="image", software_packageVersion="1", suppliedBy=vendor,
                verifiedUsing=[hashed(image)])
part = element(s.software_Package, "lib", name="zlib1g", software_packageVersion="1.2.13", suppliedBy=debian,
               software_packageUrl=PURL, verifiedUsing=[hashed(LIB)])
licence = element(s.simplelicensing_LicenseExpression, "licence",
                  simplelicensing_licenseExpression="Zlib OR GPL-2.0-only")
licensed = element(s.Relationship, "r1", to=[licence], relationshipType=s.RelationshipType.hasDeclaredLicense)
licensed.from_ = part
depends = element(s.Relationship, "r2", to=[part], relationshipType=s.RelationshipType.dependsOn)
depends.from_ = about
sbom = element(s.software_Sbom, "sbom", rootElement=[about])
doc = element(s.SpdxDocument, "doc", rootElement=[sbom])
objects = s.SHACLObjectSet()
for it in (vendor, debian, about, part, licence, licensed, depends, sbom, doc):
    objects.add(it)
with open(out / "spdx-3.0.1.json", "wb") as f:
    s.JSONLDSerializer().write(objects, f)
