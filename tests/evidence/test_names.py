import pytest

from isoflop.errors import UnknownName
from isoflop.evidence.case import weight_formats
from isoflop.evidence.names import checkpoint, precision


@pytest.mark.parametrize(
    ("published", "catalog"),
    [
        ("nvidia/Llama-3.3-70B-Instruct-FP4", "llama-3.3-70b"),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8", None),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic", "llama-3.1-8b"),
        ("google/gemma-3-27b-it", "gemma-3-27b"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-r1"),
        ("someone/UnknownNet-9B-Instruct", None),
    ],
)
def test_checkpoints_are_their_architecture(published, catalog):
    if catalog is None:
        with pytest.raises(UnknownName, match=published.split("/")[-1].split(".")[0]):
            checkpoint(published)
    else:
        assert checkpoint(published).hidden == checkpoint(catalog).hidden
        assert checkpoint(published).depth == checkpoint(catalog).depth


def test_precisions_of_two_words_are_read():
    assert precision("awq int4") == "awq"
    assert precision("of no kind") == "of no kind"
    assert weight_formats("awq int4", "Qwen2.5-72B").weights == "awq"
