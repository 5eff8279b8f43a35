"""`collect`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cli.api.arguments import PathLike, checks_arguments

if TYPE_CHECKING:
    from mnist_cli.pictures.opening import Source


@checks_arguments
def collect(sheet: Source, folder: PathLike = "my-digits") -> list[Path]:
    """Cut a filled-in template into pictures of one digit each, and return their paths.

    ``sheet`` is a photo or scan of the sheet that ``mnist collect --template sheet.pdf`` prints, as
    `predict` takes it. ``folder`` gets a PNG file for each box that is filled in, below folders
    ``0`` to ``9``: a data set for `train`. The same sheet has the same names again, so that it is
    never in the folder twice. Raises `PictureError` for a picture that is not the template,
    `OutputError` if the folder cannot be written.
    """
    from PIL import Image

    from mnist_cli.pictures.template import read_template
    from mnist_cli.records import replacing

    boxes = read_template(sheet)
    digest = hashlib.sha256()
    for _, _, box in boxes:
        digest.update(box.tobytes())
    written = []
    for digit, column, box in boxes:
        path = Path(folder) / str(digit) / f"{digest.hexdigest()[:12]}-{column:02}.png"
        with replacing(path) as temporary:
            Image.fromarray(box).save(temporary)
        written.append(path)
    return written
