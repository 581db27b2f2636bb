"""Shapes that the engine and its peer are measured on."""

SHAPES = {
    "tiny": {
        "config": {
            "vocab_size": 2048,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
        },
        "train": (32, 128),
        "sample": (32, 32, 64),
    },
    "135m": {
        "config": {
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 64,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-5,
            "rope_theta": 100000.0,
        },
        "train": (4, 128),
        "sample": (8, 32, 16),
    },
}
"""train: rows, tokens a row. sample: prompts, tokens a prompt, new tokens each."""
