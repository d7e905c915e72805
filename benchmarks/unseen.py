"""Kernels of devices and libraries that no parameter was fitted on.

    python -m benchmarks.unseen [--data ../shared]

Reads what `isoflop validate` reads: the tables of alibaba/InferSim (8-bit products and experts,
attention on H20 and H800), of LLMCompass (16-bit products on A100 and MI210) and of vidur (layers
and collectives on A100 and H100). Hopper's parameters stand for the H20 and H800; the MI210's
family was never measured and borrows Hopper's at its own datasheet rates. Three rules for parts
whose matrix rate is cut (`DeviceShape.reached`, `flash.MATRIX_ROWS`, latent attention's products)
were settled while looking at the H20's rows; no number was fitted on them.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmarks.device import show
from isoflop.errors import InvalidInput
from isoflop.evidence.kernel_tables import device_of, kernel_parts

TABLES = ("infersim/bench_data", "llmcompass/real_hardware", "vidur")
ELEMENTWISE = frozenset(
    ["gelu", "softmax", "layernorm", "input_layernorm", "post_attention_layernorm", "add",
     "mlp_act", "attn_rope"]
)  # fmt: skip
NAMES = {"attn_pre_proj": "fp16 products", "attn_post_proj": "fp16 products",
         "mlp_up_proj": "fp16 products", "mlp_down_proj": "fp16 products"}  # fmt: skip


def main(data: Path | None = None) -> None:
    """Print a line per source, device and kernel."""
    if data is None:
        parser = argparse.ArgumentParser(description=__doc__)
        default = Path(__file__).resolve().parents[2] / "shared"
        parser.add_argument("--data", type=Path, default=default)
        data = Path(parser.parse_args().data)
    folder = (data if data.name == "data" else data / "data") / "operators"
    if not folder.exists():
        print("unseen devices: their tables are not beside this checkout; skipped")
        return
    for source in TABLES:
        found: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
        for path in sorted((folder / source).rglob("*.csv")):
            try:
                parts = kernel_parts(path) or []
            except InvalidInput:
                continue  # no model of it, as `validate` says
            for part in parts:
                if part.fitted:
                    continue
                what = "element-wise" if part.what in ELEMENTWISE else NAMES.get(part.what)
                priced = np.isfinite(part.predicted)
                found[device_of(path).id, what or part.what].append(
                    np.stack([part.predicted[priced], part.measured[priced]])
                )
        for (device, what), pieces in sorted(found.items()):
            show(device, f"unseen {what}", *np.concatenate(pieces, axis=1))


if __name__ == "__main__":
    main()
