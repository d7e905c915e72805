from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.errors import InvalidPlan
from isoflop.training.plan import Plans, TrainingPlan
from isoflop.training.plan_text import parse_training_plan
from isoflop.training.stages import balanced, corner_stages, layers_at, stage_list


@given(depth=st.integers(2, 10), stages=st.integers(2, 4), last=st.floats(0, 4))
def test_balanced_is_as_quick_as_any(depth, stages, last):
    if depth < stages:
        with pytest.raises(InvalidPlan):
            balanced(depth, stages)
        return
    found = balanced(depth, stages, last=last)
    assert sum(found) == depth
    assert min(found) >= 1

    def slowest(counts) -> float:
        return max(*counts[:-1], counts[-1] + last)

    every = (c for c in product(range(1, depth + 1), repeat=stages) if sum(c) == depth)
    assert slowest(found) == pytest.approx(min(slowest(c) for c in every))


@given(
    depth=st.integers(16, 80), stages=st.integers(2, 12), first=st.integers(0, 3),
    last=st.integers(0, 3),
)  # fmt: skip
def test_first_and_last_leave_the_rest_to_the_others(depth, stages, first, last):
    if not (first or last) or (stages == 2 and first and last):
        return
    plan = TrainingPlan(pipeline=stages, first=first, last=last)
    layers = stage_list(plan, depth)
    assert sum(layers) == depth
    assert not first or layers[0] == first
    assert not last or layers[-1] == last
    between = layers[1 if first else 0 : -1 if last else None]
    assert max(between) - min(between) <= 1
    assert between == sorted(between)
    one = Plans.of([plan])
    looked = {int(s[0]) for s in corner_stages(one, depth)}
    assert max(layers) in {layers[s] for s in looked}
    assert [int(layers_at(one, depth, np.array([s]))[0]) for s in range(stages)] == layers


def test_plans_keep_their_stages_among_others():
    plans = [parse_training_plan(t) for t in (
        "pp4,mb1,zero1,layers=8/8/9/7", "pp2,mb1,zero1", "pp4,mb1,zero1,full2,first7,last6",
        "pp3,mb1,zero1,selective,full4,layers=1/2/3",
    )]  # fmt: skip
    together = Plans.of(plans)
    for i, plan in enumerate(plans):
        assert together.at(i) == plan
        assert parse_training_plan(plan.describe()) == plan
