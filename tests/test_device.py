"""Where networks compute in bfloat16."""

from __future__ import annotations

import pytest
import torch

from unmingle.device import fast_inference, has_fast_bfloat16


def test_avx_512_alone_is_not_fast_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr("unmingle.device.platform.machine", lambda: "x86_64")
    for native in (True, False):
        monkeypatch.setattr(
            torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native, raising=False
        )
        assert has_fast_bfloat16("cpu") == native
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert not has_fast_bfloat16("cpu")
    monkeypatch.setattr("unmingle.device.platform.machine", lambda: "aarch64")
    assert has_fast_bfloat16("cpu")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert not has_fast_bfloat16("cpu")


@pytest.mark.parametrize(("fast", "kind"), [(True, torch.bfloat16), (False, torch.float32)])
def test_products_are_computed_in_bfloat16_where_it_is_fast(
    fast: bool, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmingle.device.has_fast_bfloat16", lambda device: fast)
    with fast_inference(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == kind
    with fast_inference(torch.device("cuda")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
