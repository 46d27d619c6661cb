"""Images in and out: files, folders and tar shards of images as float RGB in [0, 1]."""

from flashdiffusion.data.dataset import ImageDataset
from flashdiffusion.data.decoding import decode_image
from flashdiffusion.data.files import (
    atomic_path,
    ensure_directory,
    ensure_file,
    expect_file,
    read_bytes,
    write_bytes,
    write_json,
)
from flashdiffusion.data.images import encode_image, fit, load_image, save_grid, save_image
from flashdiffusion.data.measurements import MeasurementFile
from flashdiffusion.data.named import NamedData, register_data
from flashdiffusion.data.pictures import Kind, Picture, encode_picture, read_picture
from flashdiffusion.data.prefetch import in_chunks, mapped, polled, prefetched

__all__ = [
    "MeasurementFile",
    "ImageDataset",
    "Kind",
    "NamedData",
    "Picture",
    "atomic_path",
    "decode_image",
    "encode_image",
    "encode_picture",
    "ensure_directory",
    "ensure_file",
    "expect_file",
    "fit",
    "in_chunks",
    "load_image",
    "mapped",
    "polled",
    "prefetched",
    "read_bytes",
    "read_picture",
    "register_data",
    "save_grid",
    "save_image",
    "write_bytes",
    "write_json",
]
