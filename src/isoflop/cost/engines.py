"""What a serving engine adds to its kernels: host time, fixed device time, streaming efficiency.

One TOML per engine in `data/calibrations/engine-<name>.toml`, fitted by
`tools/calibrate_engines.py` on end-to-end measurements whose sources are not used for checking.
"""

from __future__ import annotations

import re

import numpy as np
from attrs import field, frozen
from numpy.typing import ArrayLike

from .. import catalog
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
    burst : float
        Share of the clients whose prompts stay together in a closed loop of equal lengths: the
        more, the more an engine finishes all prompts before it decodes.
    sigma : float
        Standard deviation of log(measured / predicted) on the fitted rows.
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
    chunk_tokens: float = field(default=8192.0, metadata={"plain": True})
    kernel_scale: dict[str, float] = field(factory=dict)
    sigma: float
    fitted_on: str
    rows: int = 0
    source: str
    note: str = ""
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
    """The engine id of a release; vLLM before 0.8 ran its first engine, in one process."""
    low = name.strip().lower()
    release = re.match(r"0\.(\d+)", version.strip())
    return "vllm-v0" if low == "vllm" and release and int(release.group(1)) < 8 else low


def load_engine(name: str) -> Engine:
    """The engine called `name`, or the pooled default for one without measurements."""
    wanted = SAME.get(name.strip().lower(), name.strip().lower())
    known = [i for i in catalog.paths("calibrations") if i == f"engine-{wanted}"]
    return catalog.load("calibrations", known[0] if known else "engine-default", Engine, "engine")
