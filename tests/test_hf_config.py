"""The same model by both routes: its published configuration and its catalog entry."""

import json

import pytest

from isoflop.cli import main
from isoflop.errors import CatalogError
from isoflop.hf_config import from_config
from isoflop.models import load_model

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
    "max_position_embeddings": 131072, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
DEEPSEEK = {
    "model_type": "deepseek_v3", "hidden_size": 7168, "num_hidden_layers": 61,
    "num_attention_heads": 128, "num_key_value_heads": 128, "intermediate_size": 18432,
    "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1,
    "num_experts_per_tok": 8, "first_k_dense_replace": 3, "q_lora_rank": 1536, "kv_lora_rank": 512,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 129280,
    "scoring_func": "sigmoid", "max_position_embeddings": 163840,
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}  # fmt: skip
CONFIGS = {
    "llama-3.1-8b": LLAMA,
    "llama-3.2-1b": LLAMA | {
        "hidden_size": 2048, "num_hidden_layers": 16, "head_dim": 64, "intermediate_size": 8192,
        "tie_word_embeddings": True,
    },
    "mistral-7b": LLAMA | {"model_type": "mistral", "vocab_size": 32000, "sliding_window": 4096},
    "mixtral-8x7b": LLAMA | {
        "model_type": "mixtral", "vocab_size": 32000, "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    "qwen2.5-7b": LLAMA | {
        "model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18944,
        "vocab_size": 152064,
    },
    "qwen3-32b": LLAMA | {
        "model_type": "qwen3", "hidden_size": 5120, "num_hidden_layers": 64,
        "num_attention_heads": 64, "head_dim": 128, "intermediate_size": 25600,
        "vocab_size": 151936,
    },
    "qwen3-30b-a3b": LLAMA | {
        "model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48,
        "num_key_value_heads": 4, "head_dim": 128, "moe_intermediate_size": 768,
        "num_experts": 128, "num_experts_per_tok": 8, "vocab_size": 151936,
    },
    "deepseek-v3": DEEPSEEK,
    "kimi-k2": DEEPSEEK | {
        "model_type": "kimi_k2", "num_attention_heads": 64, "n_routed_experts": 384,
        "first_k_dense_replace": 1, "vocab_size": 163840,
    },
    "gpt-oss-120b": LLAMA | {
        "model_type": "gpt_oss", "hidden_size": 2880, "num_hidden_layers": 36,
        "num_attention_heads": 64, "head_dim": 64, "intermediate_size": 2880,
        "num_local_experts": 128, "num_experts_per_tok": 4, "vocab_size": 201088,
        "sliding_window": 128, "attention_bias": True,
        "layer_types": ["sliding_attention", "full_attention"] * 18,
    },
    "gemma-2-9b": LLAMA | {
        "model_type": "gemma2", "hidden_size": 3584, "num_hidden_layers": 42,
        "num_attention_heads": 16, "head_dim": 256, "intermediate_size": 14336,
        "vocab_size": 256000, "sliding_window": 4096, "tie_word_embeddings": True,
    },
    "gemma-3-1b": LLAMA | {
        "model_type": "gemma3_text", "hidden_size": 1152, "num_hidden_layers": 26,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
        "intermediate_size": 6912, "vocab_size": 262144, "sliding_window": 512,
        "sliding_window_pattern": 6, "tie_word_embeddings": True,
    },
    "gpt2": {
        "model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257,
        "n_positions": 1024,
    },
    "opt-1.3b": {
        "model_type": "opt", "hidden_size": 2048, "num_hidden_layers": 24,
        "num_attention_heads": 32, "ffn_dim": 8192, "vocab_size": 50272,
        "max_position_embeddings": 2048,
    },
    "pythia-1.4b": {
        "model_type": "gpt_neox", "hidden_size": 2048, "num_hidden_layers": 24,
        "num_attention_heads": 16, "intermediate_size": 8192, "vocab_size": 50304,
        "max_position_embeddings": 2048, "attention_bias": True,
    },
    "gpt-j-6b": {
        "model_type": "gptj", "n_embd": 4096, "n_layer": 28, "n_head": 16, "vocab_size": 50400,
        "n_positions": 2048,
    },
    "phi-2": {
        "model_type": "phi", "hidden_size": 2560, "num_hidden_layers": 32,
        "num_attention_heads": 32, "intermediate_size": 10240, "vocab_size": 51200,
        "max_position_embeddings": 2048,
    },
    "bloom-176b": {
        "model_type": "bloom", "n_embd": 14336, "n_layer": 70, "n_head": 112, "vocab_size": 250880,
    },
    "falcon-7b": {
        "model_type": "falcon", "hidden_size": 4544, "num_hidden_layers": 32,
        "num_attention_heads": 71, "vocab_size": 65024, "multi_query": True,
        "ffn_hidden_size": 18176,
    },
    "mpt-7b": {
        "model_type": "mpt", "d_model": 4096, "n_layers": 32, "n_heads": 32, "vocab_size": 50432,
        "expansion_ratio": 4, "max_seq_len": 2048,
    },
    "bert-base": {
        "model_type": "bert", "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "intermediate_size": 3072, "vocab_size": 30522,
        "max_position_embeddings": 512, "type_vocab_size": 2,
    },
}  # fmt: skip


def write(folder, table) -> str:
    path = folder / "config.json"
    path.write_text(table if isinstance(table, str) else json.dumps(table))
    return str(path)


@pytest.mark.parametrize("name", CONFIGS)
def test_both_routes_count_the_same(tmp_path, name):
    read = load_model(write(tmp_path, CONFIGS[name]))
    assert read.parameters == load_model(name).parameters
    assert read.active_parameters == load_model(name).active_parameters
    assert load_model(str(tmp_path)).parameters == read.parameters


def test_a_nested_text_config_is_found(tmp_path):
    table = {"model_type": "some_vision_model", "text_config": LLAMA}
    assert from_config(write(tmp_path, table)).parameters == load_model("llama-3.1-8b").parameters


def test_quantised_checkpoints_name_their_format(tmp_path):
    assert from_config(write(tmp_path, DEEPSEEK)).weight_format == "fp8-block"


def test_an_unknown_type_is_read_as_llama_and_says_so(tmp_path):
    spec = from_config(write(tmp_path, LLAMA | {"model_type": "brand-new"}))
    assert "brand-new" in spec.note


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": None}, "lacks 'hidden_size'"),
        ({"num_attention_heads": None, "intermediate_size": None}, "lacks 'intermediate_size'"),
        ({"hidden_size": 0}, "at least 1"),
        ({"hidden_size": "wide"}, "whole number"),
        ({"num_attention_heads": 31}, "not a multiple"),
        ({"num_key_value_heads": 7}, "does not divide"),
        ({"num_hidden_layers": -2}, "at least 1"),
    ],
)
def test_bad_configurations_name_the_field(tmp_path, change, words):
    with pytest.raises(CatalogError, match=words):
        from_config(write(tmp_path, LLAMA | change))


@pytest.mark.parametrize("text", ["{", "[1, 2]", ""])
def test_broken_files_are_one_sentence(tmp_path, capsys, text):
    with pytest.raises(SystemExit) as caught:
        main(["explain", write(tmp_path, text), "--on", "h100"])
    assert caught.value.code == 2
    assert "config.json" in capsys.readouterr().err


def test_a_missing_file_says_so(capsys):
    with pytest.raises(SystemExit):
        main(["explain", "no/such/config.json", "--on", "h100"])
    assert "cannot be read" in capsys.readouterr().err


def test_explain_reads_a_configuration(tmp_path, capsys):
    main(["explain", write(tmp_path, LLAMA), "--on", "h100", "--json"])
    assert json.loads(capsys.readouterr().out)["regimes"]
