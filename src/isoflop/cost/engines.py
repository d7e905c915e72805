"""What a serving engine adds to its kernels: host time, fixed device time, streaming efficiency.

One TOML per engine in `data/calibrations/engine-<name>.toml`, fitted by
`tools/calibrate_engines.py` on end-to-end measurements whose sources are not used for checking.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from attrs import asdict, field, fields, frozen
from numpy.typing import ArrayLike

from .. import catalog
from ..errors import UnknownName
from ..provenance import Source
from .features import Array


@frozen(kw_only=True)
class Engine:
    """Fitted overheads of one engine.

    Attributes
    ----------
    step_s : float
        Time of a step that no kernel explains: launches of a captured graph, scheduling that is
        not overlapped, sampling.
    sequence_s : float
        More of it per running sequence.
    layer_s : float
        More of it per layer: small kernels between the modelled ones.
    prefill_interference : float
        Share of other requests' prefill time that stalls a decoding request.
    arrival_s : float
        Time of a request outside its steps: tokenisation, queueing, first response.
    kernel_scale : dict of str to float
        Factor on kernel times by device family: what the engine's own kernels gain or lose.
    prefill_scale : float
        The same for steps that process prompts.
    prompt_layer_s : float
        Host time per layer to launch a step that holds prompts, where such steps are not captured
        as graphs; the step takes at least this.
    chunk_tokens : float
        Prompt tokens of one step.
    lag_steps : float
        Decoding steps between a prompt's arrival and the start of its own.
    captured : float
        Share of the kernels' fixed times that a captured graph saves in decoding steps.
    padded_experts : bool
        Whether 8-bit experts are laid out one tile of rows each, whatever the step holds, unless
        eight ranks split every matrix (vLLM with DeepGEMM).
    burst : float
        Share of the clients whose prompts stay together in a closed loop of equal lengths: the
        more, the more an engine finishes all prompts before it decodes.
    sigma : float
        Standard deviation of log(measured / predicted) on the fitted rows.
    measured_on : str
        The one setup whose run is in these numbers (`isoflop measure`), as `model on device`.
    measured_sigma : float
        Spread of whole steps there, kernels included.
    """

    id: str
    step_s: float
    sequence_s: float
    layer_s: float = 0.0
    prefill_interference: float = 1.0
    prefill_scale: float = 1.0
    captured: float = 0.0
    arrival_s: float = 0.0
    lag_steps: float = 0.0
    burst: float = 0.0
    prompt_layer_s: float = 0.0
    padded_experts: bool = False
    chunk_tokens: float = field(default=8192.0, metadata={"plain": True})
    kernel_scale: dict[str, float] = field(factory=dict)
    sigma: float
    fitted_on: str
    rows: int = 0
    source: str
    note: str = ""
    measured_on: str = ""
    measured_sigma: float = 0.0
    sources: dict[str, Source] = field(factory=dict)

    def scale(self, family: str) -> float:
        """Factor on kernel times on a device family; 1 where nothing was measured."""
        return self.kernel_scale.get(family, 1.0)

    def overhead_s(self, sequences: ArrayLike, layers: int) -> Array:
        """Seconds of a step of `sequences` sequences that no kernel explains."""
        return self.step_s + layers * self.layer_s + self.sequence_s * np.asarray(sequences, float)


SAME = {"tensorrt-llm": "trtllm", "trt-llm": "trtllm", "tensorrt": "trtllm"}
"""Other spellings of engine names."""


def engine_of(name: str, version: str) -> str:
    """The engine id of a release.

    vLLM before 0.8 ran its first engine, in one process. From 0.11 to 0.15 it ran block-scaled
    experts in DeepGEMM's contiguous layout (vllm-project/vllm pull request 29346).
    """
    low = name.strip().lower()
    found = re.match(r"v?0\.(\d+)", version.strip())
    if low != "vllm" or not found:
        return low
    release = int(found.group(1))
    return "vllm-v0" if release < 8 else "vllm-padded" if 11 <= release <= 15 else "vllm"


def _measured() -> list[str]:
    """Names of the engines that were measured."""
    return [i.removeprefix("engine-") for i in catalog.paths("calibrations")
            if i.startswith("engine-")]  # fmt: skip


def _one_name(name: str) -> str:
    low = name.strip().lower()
    return SAME.get(low, low)


def load_engine(name: str) -> Engine:
    """The engine called `name`, or the pooled default for one without measurements."""
    wanted = _one_name(name)
    known = wanted if wanted in _measured() else "default"
    return catalog.load("calibrations", f"engine-{known}", Engine, "engine")


def named_engine(name: str) -> Engine:
    """The engine a person names: one with measurements, or a file that `isoflop measure` wrote.

    Raises
    ------
    UnknownName
        If nothing was measured under that name, where `load_engine` takes the pooled default.
    CatalogError
        If the file is missing or is no engine.
    """
    if name.endswith(".toml"):
        return catalog.load_file(Path(name), Engine, id=Path(name).stem)
    if _one_name(name) not in _measured():
        raise UnknownName(
            "engine", name, _measured(),
            "Take the nearest, or default; a file of `isoflop measure --out` works too.",
        )  # fmt: skip
    return load_engine(name)


def engine_text(engine: Engine) -> str:
    """`engine` as a TOML file that `named_engine` reads back."""
    tables = {"kernel_scale", "sources", "id"}
    lines = []
    for each in fields(Engine):
        value = getattr(engine, each.name)
        if each.name in tables or value == each.default:
            continue
        text = json.dumps(value) if isinstance(value, (str, bool)) else f"{value:.6g}"
        lines.append(f"{catalog.key_of(each)[0]} = {text}")
    lines += ["", "[kernel_scale]"]
    lines += [f"{family} = {value:.6g}" for family, value in engine.kernel_scale.items()]
    for name, source in engine.sources.items():
        lines += ["", f"[sources.{name}]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in asdict(source).items() if value]
    return "\n".join(lines) + "\n"
