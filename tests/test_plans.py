"""Formats a model is served in where none is named."""

from __future__ import annotations

import pytest

from isoflop.errors import UnknownName
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


@pytest.mark.parametrize(
    ("checkpoint", "model", "stored"),
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama-3.1-8b", "bf16"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b", "bf16"),
        ("meta-llama/Llama-2-70b-chat-hf", "llama-2-70b", "bf16"),
        ("neuralmagic/Meta-Llama-3.1-70B-Instruct-FP8", "llama-3.1-70b", "fp8"),
        ("Qwen/Qwen2.5-Coder-32B-Instruct-AWQ", "qwen2.5-32b", "int4-g128"),
        ("nvidia/Llama-3.1-405B-Instruct-FP4", "llama-3.1-405b", "nvfp4"),
        ("nvidia/DeepSeek-R1-0528-FP4", "deepseek-v3", "bf16 (experts nvfp4)"),
        ("zai-org/GLM-4.6-FP8", "glm-4.6", "fp8"),
        ("openai/gpt-oss-20b", "gpt-oss-20b", "bf16 (experts mxfp4)"),
    ],
)
def test_a_checkpoint_is_its_architecture_in_its_own_format(checkpoint, model, stored):
    found = load_model(checkpoint)
    assert found.id == model
    assert Formats.for_model(found).stored == stored


@pytest.mark.parametrize("name", ["nosuch-instruct", "instruct", "llama", "meta-", "fp8"])
def test_no_word_too_many_is_cut(name):
    with pytest.raises(UnknownName):
        load_model(name)
