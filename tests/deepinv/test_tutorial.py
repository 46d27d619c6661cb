"""The tutorial's operator of DeepInverse, with the real library; `test_docs_run.py` runs the other blocks."""

import torch

from flashdiffusion.data import load_image
from pages import DOCS, blocks


def test_the_tutorials_block_runs(tiny_pipeline, image_folder):
    (block,) = (block for block in blocks(DOCS / "tutorials" / "operator.md", "python") if "deepinv" in block.text)
    x = load_image(next(image_folder.iterdir()), 32)[None]
    names = {"pipe": tiny_pipeline, "torch": torch, "x": x}
    exec(compile(block.text.replace("128", "32"), "operator.md", "exec"), names)
    assert names["restoration"].images.shape == x.shape and not names["restoration"].failed
