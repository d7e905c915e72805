"""The generated checkpoint and what `isoflop quantize` says of hardware."""

import json

import pytest
from tests.test_cli import fails

from isoflop.cli import main


def test_demo_checkpoint_is_quantized_and_priced(capsys):
    main(["quantize", "demo", "--format", "nvfp4", "--method", "gptq", "--model", "llama-3.1-8b",
          "--on", "a100-80gb-sxm", "--json"])  # fmt: skip
    out = json.loads(capsys.readouterr().out)
    assert len(out["layers"]) == 10
    effect = out["hardware"]
    # Four bits move fewer bytes; the gain fades as products become compute-bound (MARLIN).
    assert effect["wide_bytes"] / effect["bytes"] > 2
    assert effect["gain"][0] > 1.8
    assert effect["gain"] == sorted(effect["gain"], reverse=True)
    assert effect["pays_until"] >= 64


def test_gptq_beats_rounding_on_the_demo(capsys):
    errors = {}
    for method in ("rtn", "gptq"):
        main(["quantize", "demo", "--format", "nvfp4", "--method", method, "--json"])
        out = json.loads(capsys.readouterr().out)
        errors[method] = out["total"]["relative_output_rmse"]
    assert errors["gptq"] < errors["rtn"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["quantize", "demo", "--on", "h100-sxm"], "both --model and --on"),
        (["quantize", "demo", "--on", "h100-sxm", "--model", "lama-3.1-8b"], "nearest names"),
    ],
)
def test_bad_input_is_a_sentence(capsys, arguments, says):
    assert says in fails(capsys, *arguments)
