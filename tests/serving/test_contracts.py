"""What holds for every policy behind every router."""

from __future__ import annotations

import numpy as np
import pytest

from isoflop.serving.policy import policy_names
from isoflop.serving.router import router_names
from isoflop.serving.running import Running
from isoflop.serving.simulate import simulate
from isoflop.serving.traffic import Trace

from .test_simulator import server


def trace(seed: int) -> Trace:
    rng = np.random.default_rng(seed)
    n = 60
    prompt = rng.integers(1, 900, n)
    groups, sizes = rng.integers(0, 4, n), prompt // 16
    units = [int(groups[i]) * 1000 + j for i in range(n) for j in range(sizes[i])]
    return Trace(
        name="drawn", arrival_s=np.cumsum(rng.exponential(0.02, n)), prompt_tokens=prompt,
        output_tokens=rng.integers(1, 300, n), user=rng.integers(0, 3, n),
        priority=rng.integers(0, 3, n).astype(float),
        units=np.unique(np.array(units, int), return_inverse=True)[1].astype(np.int64),
        unit_offsets=np.concatenate([[0], np.cumsum(sizes)]), unit_tokens=16,
    )  # fmt: skip


@pytest.mark.parametrize("router", router_names())
@pytest.mark.parametrize("policy", policy_names())
def test_jumping_agrees_with_plain_loop_behind_routers(policy, router, monkeypatch):
    advance = Running.advance
    for seed in (0, 1):
        demand, one = trace(seed), server(policy=policy, cache_blocks=400)
        jumped = simulate(one, demand, replicas=3, router=router).collected
        with monkeypatch.context() as patched:
            patched.setattr(Running, "advance", lambda self, at=np.inf: advance(self, at, 1))
            plain = simulate(one, demand, replicas=3, router=router).collected
        np.testing.assert_allclose(jumped.ttft_s, plain.ttft_s, rtol=1e-9)
        np.testing.assert_allclose(jumped.e2e_s, plain.e2e_s, rtol=1e-9)
        assert np.all(np.isfinite(jumped.finish_s))
