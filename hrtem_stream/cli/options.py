"""Options and arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

SegmenterName = Literal["auto", "unet", "bragg"]
CodecName = Literal["deflate", "zstd", "none"]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Paths = Annotated[
    list[str],
    typer.Argument(
        help="Folder of PNG or TIFF, image, .npy, .npz, TIFF or MRC stack, HDF5 (F.h5::/dataset)."
    ),
]
SegmenterOption = Annotated[SegmenterName, typer.Option(help="How contaminant is found.")]
CodecOption = Annotated[CodecName | None, typer.Option(help="How pixels are compressed.")]
PixelSizeOption = Annotated[
    float,
    typer.Option(help="Size of a detector pixel in nm; 0: found in each frame's spectrum.", min=0),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Workers = Annotated[int | None, typer.Option(help="Number of segment processes.", min=1, max=64)]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting, repeatable.")
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Let sockets and metrics leave this host unprotected.")
]
PageOption = Annotated[
    bool | None,
    typer.Option("--page/--no-page", help="Serve the live page.", show_default=False),
]
ConfigFile = Annotated[Path, typer.Argument(help="Settings file (TOML).")]
