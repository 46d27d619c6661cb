"""Half precision where the processor has it."""

import torch

from flashdiffusion.jobs import job
from flashdiffusion.priors.precision import is_fast

CPU = torch.device("cpu")


def test_float32_is_always_fast_and_a_gpu_is_not_asked():
    assert is_fast(torch.float32, CPU)
    assert is_fast(torch.bfloat16, torch.device("cuda")) and is_fast(torch.float16, torch.device("cuda"))


def test_a_processor_that_only_converts_is_not_fast(monkeypatch):
    """oneDNN takes bfloat16 on any AVX-512, and is three times slower in it than in float32."""
    only_wide = {"architecture": "x86_64", "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: only_wide)
    assert not is_fast(torch.bfloat16, CPU) and not is_fast(torch.float16, CPU)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: only_wide | {"amx_bf16": True})
    assert is_fast(torch.bfloat16, CPU) and not is_fast(torch.float16, CPU)


def test_without_the_instructions_a_model_runs_in_float32_and_it_is_said(monkeypatch, tiny_model, capsys):
    monkeypatch.setattr(job, "is_fast", lambda dtype, device: dtype == torch.float32)
    pipeline = job.ModelChoice(str(tiny_model), "cpu", "bfloat16").open()
    assert pipeline.prior.dtype == torch.float32
    assert "no bfloat16 instructions" in capsys.readouterr().err
    job.ModelChoice(str(tiny_model), "cpu", "float32").open()
    assert capsys.readouterr().err == ""
