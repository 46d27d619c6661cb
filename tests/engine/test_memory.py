"""Memory where the container allows it."""

import pytest
import torch

from flashdiffusion.engine import memory

CPU = torch.device("cpu")


@pytest.mark.parametrize(("limit", "expected"), [("1000000", 400_000), ("max", None), (None, None)])
def test_a_containers_limit_bounds_what_is_free(monkeypatch, tmp_path, limit, expected):
    groups = tuple(str(tmp_path / name) for name in ("limit", "used", "stat"))
    monkeypatch.setattr(memory, "_GROUPS", (groups,))
    if limit is not None:
        (tmp_path / "limit").write_text(limit)
        (tmp_path / "used").write_text("700000")
        (tmp_path / "stat").write_text("anon 600000\ninactive_file 100000\n")
    free = memory.free_bytes(CPU)
    assert free == expected if expected else free > 10**7
