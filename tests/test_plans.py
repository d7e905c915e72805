"""Formats a model is served in where none is named."""

from __future__ import annotations

import pytest

from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.plans import Formats
from isoflop.serving.candidates import formats_for


@pytest.mark.parametrize(
    ("model", "weights", "experts"),
    [
        ("gpt-oss-120b", "bf16", "mxfp4"),
        ("deepseek-v3", "fp8-block", ""),
        ("llama-3.1-8b", "bf16", ""),
        ("opt-1.3b", "bf16", ""),  # published in fp16: served at 16 bits as every engine does
    ],
)
def test_models_are_served_as_published(model, weights, experts):
    formats = Formats.for_model(load_model(model))
    assert (formats.weights, formats.experts) == (weights, experts)


def test_what_is_named_wins():
    model = load_model("gpt-oss-120b")
    assert Formats.for_model(model, "fp8") == Formats(weights="fp8")
    assert Formats.for_model(model, experts="int4-g128").experts == "int4-g128"
    assert Formats.for_model(model).stored == "bf16 (experts mxfp4)"


def test_the_search_keeps_a_narrow_checkpoint():
    device = load_accelerator("h100-sxm")
    tried = formats_for(load_model("deepseek-v3"), device, (), ("bf16",))
    assert [f.weights for f in tried] == ["fp8-block"]
    tried = formats_for(load_model("llama-3.1-8b"), device, (), ("bf16",))
    assert [f.weights for f in tried] == ["bf16", "fp8"]
