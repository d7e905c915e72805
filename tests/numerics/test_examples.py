"""The Python examples of docs/numerics.md run, in order, in one namespace."""

import re
from pathlib import Path

import numpy as np

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "numerics.md"


def test_examples_of_the_documentation():
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(blocks) >= 6
    names = {"x": np.linspace(-3, 3, 64, dtype=np.float32)}
    for block in blocks:
        exec(compile(block, str(DOCUMENT), "exec"), names)
    assert names["stored"].nbytes == 64 * 6 // 8
    assert names["block"].bits_per_value == 8.25
