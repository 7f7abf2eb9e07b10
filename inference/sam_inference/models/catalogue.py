"""The official checkpoints: where they are and how to tell that a file is the right one.

Their owners publish no digests; these are what independent public registries agree on.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A model that can be had by name.

    Attributes:
        name: the name, also its architecture's.
        title: what it is, in a line.
        url: where its checkpoint is.
        size_bytes: length of the checkpoint.
        sha256: its digest, hexadecimal.
        licence: SPDX identifier of the weights' licence.
    """

    name: str
    title: str
    url: str
    size_bytes: int
    sha256: str
    licence: str = "Apache-2.0"

    @property
    def file_name(self) -> str:
        """The checkpoint's own name."""
        return self.url.rpartition("/")[2]


_META = "https://dl.fbaipublicfiles.com/segment_anything"
_MOBILE_SAM = (
    "https://raw.githubusercontent.com/ChaoningZhang/MobileSAM"
    "/f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights"
)

CATALOGUE = {
    entry.name: entry
    for entry in (
        CatalogueEntry(
            name="mobile_sam",
            title="MobileSAM",
            url=f"{_MOBILE_SAM}/mobile_sam.pt",
            size_bytes=40_728_226,
            sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        ),
        CatalogueEntry(
            name="sam_vit_b",
            title="SAM ViT-B",
            url=f"{_META}/sam_vit_b_01ec64.pth",
            size_bytes=375_042_383,
            sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        ),
        CatalogueEntry(
            name="sam_vit_l",
            title="SAM ViT-L",
            url=f"{_META}/sam_vit_l_0b3195.pth",
            size_bytes=1_249_524_607,
            sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        ),
        CatalogueEntry(
            name="sam_vit_h",
            title="SAM ViT-H",
            url=f"{_META}/sam_vit_h_4b8939.pth",
            size_bytes=2_564_550_879,
            sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        ),
    )
}
"""The entries by name, smallest first."""
