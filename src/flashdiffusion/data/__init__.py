"""Pictures in and out: files, folders and tar shards of pictures as float RGB in [0, 1]."""

from flashdiffusion.data.dataset import PictureDataset
from flashdiffusion.data.files import atomic_path, ensure_directory, ensure_file, write_bytes, write_json
from flashdiffusion.data.journal import Journal
from flashdiffusion.data.measurements import MeasurementFile
from flashdiffusion.data.pictures import (
    decode_picture,
    encode_picture,
    fit_square,
    load_picture,
    save_grid,
    save_picture,
)
from flashdiffusion.data.prefetch import in_chunks, mapped, prefetched

__all__ = [
    "Journal",
    "MeasurementFile",
    "PictureDataset",
    "atomic_path",
    "decode_picture",
    "encode_picture",
    "ensure_directory",
    "ensure_file",
    "fit_square",
    "in_chunks",
    "load_picture",
    "mapped",
    "prefetched",
    "save_grid",
    "save_picture",
    "write_bytes",
    "write_json",
]
