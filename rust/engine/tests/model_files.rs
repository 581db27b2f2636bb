//! Model files: what is written is what is read, in every family, layout and stored type; what cannot be read is
//! refused with an error that names the place and the way out.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod support;

use std::fs;
use std::path::Path;

use half::{bf16, f16};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{F32, Gguf, Q8_0, config, gguf, weights};
use tempfile::tempdir;
use tinsmith_engine::files::{
    Adapter, AdapterTensor, SaveDtype, Source, TokenIds, config_from_json, config_to_json,
    gguf_tokenizer, load, load_adapter, save_adapter, save_merged,
};
use tinsmith_engine::{Family, ModelConfig, RopeScaling, Weights};

const FAMILIES: [Family; 3] = [Family::Llama, Family::Qwen2, Family::Qwen3];

fn ids() -> TokenIds {
    TokenIds {
        bos: Some(1),
        eos: vec![2, 3],
        pad: None,
    }
}

fn saved(dir: &Path, config: &ModelConfig, weights: &Weights<f32>) {
    save_merged(dir, config, weights, SaveDtype::F32, &ids()).unwrap();
}

fn refusal(path: &Path) -> String {
    load(path).expect_err("must be refused").to_string()
}

/// Replace one key of config.json; null removes it.
fn set(dir: &Path, key: &str, value: Value) {
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    match value {
        Value::Null => drop(config.as_object_mut().unwrap().remove(key)),
        value => config[key] = value,
    }
    fs::write(path, config.to_string()).unwrap();
}

fn configs() -> impl Strategy<Value = ModelConfig> {
    let scalings = prop_oneof![
        Just(RopeScaling::None),
        (1.0..16.0).prop_map(|factor| RopeScaling::Linear { factor }),
        (1.0..16.0, 1.0..2.0, 2.5..8.0, 1usize..9000).prop_map(|(factor, low, high, original)| {
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_context: original,
            }
        }),
        (1.0..16.0, 8.0..64.0, 0.5..4.0, 1usize..9000, 0.5..2.0).prop_map(
            |(factor, fast, slow, original, attention)| {
                RopeScaling::Yarn {
                    factor,
                    beta_fast: fast,
                    beta_slow: slow,
                    original_context: original,
                    attention_factor: attention,
                }
            }
        ),
    ];
    let sizes = (
        1usize..20,
        1usize..20,
        1usize..20,
        1usize..4,
        1usize..4,
        1usize..4,
        1usize..9,
    );
    (sizes, scalings, 0usize..3, any::<(bool, bool)>()).prop_map(
        |(sizes, rope_scaling, family, (bias, tied_head))| {
            let (vocab, hidden, intermediate, n_layers, kv, groups, half) = sizes;
            let family = FAMILIES[family];
            ModelConfig {
                family,
                vocab,
                hidden,
                intermediate,
                n_layers,
                n_heads: kv * groups,
                n_kv_heads: kv,
                head_dim: 2 * half,
                rope_scaling,
                qkv_bias: family == Family::Qwen2 || bias,
                tied_head,
                ..config(family)
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Saving and loading is the identity in float32, and rounding to nearest in the halves.
    #[test]
    fn a_saved_model_comes_back(config in configs()) {
        let dir = tempdir().unwrap();
        let mut weights = weights(&config);
        weights.embed[0] = 1.0 / 3.0;
        for (dtype, rounded) in [
            (SaveDtype::F32, 1.0 / 3.0),
            (SaveDtype::F16, f16::from_f32(1.0 / 3.0).to_f32()),
            (SaveDtype::Bf16, bf16::from_f32(1.0 / 3.0).to_f32()),
        ] {
            save_merged(dir.path(), &config, &weights, dtype, &ids()).unwrap();
            let loaded = load(dir.path()).unwrap();
            let mut expected = weights.clone();
            expected.embed[0] = rounded;
            prop_assert_eq!(&loaded.config, &config);
            prop_assert_eq!(&loaded.weights, &expected);
            prop_assert_eq!(&loaded.ids, &ids());
            prop_assert!(loaded.unused.is_empty());
        }
    }

    /// A configuration survives the other layout (transformers 5: `rope_parameters`) too.
    #[test]
    fn both_rotary_layouts_say_the_same(config in configs()) {
        let old = config_to_json(&config, &ids(), "float32");
        let mut new: Value = serde_json::from_str(&old).unwrap();
        let map = new.as_object_mut().unwrap();
        let theta = map.remove("rope_theta").unwrap();
        let mut rope = match map.remove("rope_scaling").unwrap() {
            Value::Null => json!({"rope_type": "default"}),
            scaling => scaling,
        };
        rope["rope_theta"] = theta;
        map.insert("rope_parameters".into(), rope);
        let path = Path::new("config.json");
        prop_assert_eq!(config_from_json(&old, path).unwrap(), (config.clone(), ids()));
        prop_assert_eq!(config_from_json(&new.to_string(), path).unwrap(), (config, ids()));
    }

    #[test]
    fn a_saved_adapter_comes_back(rank in 1usize..5, alpha in 0.5f64..64.0, sizes in prop::collection::vec((1usize..6, 1usize..6), 1..5)) {
        let dir = tempdir().unwrap();
        let tensor = |name: String, shape: [usize; 2]| AdapterTensor {
            name,
            shape,
            values: (0..shape[0] * shape[1]).map(|i| i as f32 / 7.0).collect(),
        };
        let mut tensors = Vec::new();
        for (i, (rows, columns)) in sizes.into_iter().enumerate() {
            let module = format!("model.layers.{i}.self_attn.q_proj");
            tensors.push(tensor(format!("{module}.lora_A.weight"), [rank, columns]));
            tensors.push(tensor(format!("{module}.lora_B.weight"), [rows, rank]));
        }
        let adapter = Adapter { rank, alpha, base_model: "tiny".into(), tensors };
        save_adapter(dir.path(), &adapter).unwrap();
        prop_assert_eq!(load_adapter(dir.path()).unwrap(), adapter);
    }
}

/// A found bug: the last bit of a parsed number was lost.
#[test]
fn numbers_come_back_to_the_last_bit() {
    let factor = 3.0847505293763238;
    let config = ModelConfig {
        rope_scaling: RopeScaling::Linear { factor },
        ..config(Family::Llama)
    };
    let text = config_to_json(&config, &ids(), "float32");
    assert_eq!(
        config_from_json(&text, Path::new("config.json")).unwrap().0,
        config
    );
}

#[test]
fn a_gguf_file_and_a_directory_hold_the_same_model() {
    for family in FAMILIES {
        for tied_head in [false, true] {
            for kind in [F32, Q8_0] {
                let config = ModelConfig {
                    tied_head,
                    rms_eps: f64::from(1e-5f32),
                    ..config(family)
                };
                let weights = weights(&config);
                let dir = tempdir().unwrap();
                let path = dir.path().join("tiny.gguf");
                for version in [2, 3] {
                    let mut file = gguf(&config, &weights, kind);
                    file.version = version;
                    fs::write(&path, file.bytes()).unwrap();
                    let loaded = load(&path).unwrap();
                    assert_eq!(loaded.config, config);
                    assert_eq!(loaded.weights, weights);
                    assert_eq!(
                        (loaded.source, loaded.ids.eos.as_slice()),
                        (Source::Gguf, [3].as_slice())
                    );
                }
            }
        }
    }
}

#[test]
fn a_gguf_file_keeps_llama_biases_interleaved_too() {
    let config = ModelConfig {
        qkv_bias: true,
        rms_eps: f64::from(1e-5f32),
        ..config(Family::Llama)
    };
    let weights = weights(&config);
    let dir = tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    fs::write(&path, gguf(&config, &weights, F32).bytes()).unwrap();
    assert_eq!(load(&path).unwrap().weights, weights);
}

#[test]
fn shards_under_an_index_are_one_model() {
    let config = config(Family::Qwen3);
    let weights = weights(&config);
    let dir = tempdir().unwrap();
    saved(dir.path(), &config, &weights);
    shard(dir.path());
    let loaded = load(dir.path()).unwrap();
    assert_eq!(loaded.weights, weights);

    fs::remove_file(dir.path().join("b.safetensors")).unwrap();
    let text = refusal(dir.path());
    assert!(
        text.contains("b.safetensors") && text.contains("the shard of tensor `"),
        "{text}"
    );

    fs::write(
        dir.path().join("model.safetensors.index.json"),
        r#"{"weight_map": {"x": "../b.safetensors"}}"#,
    )
    .unwrap();
    assert!(refusal(dir.path()).contains("no plain file name"));
    fs::write(
        dir.path().join("model.safetensors.index.json"),
        r#"{"weight_map": {"x": "a.safetensors"}}"#,
    )
    .unwrap();
    assert!(refusal(dir.path()).contains("tensor `x` is missing"));
    fs::write(dir.path().join("model.safetensors.index.json"), "[]").unwrap();
    assert!(refusal(dir.path()).contains("not a safetensors index"));
}

/// Deal the tensors of model.safetensors to two files under an index.
fn shard(dir: &Path) {
    let whole = dir.join("model.safetensors");
    let bytes = fs::read(&whole).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut map = serde_json::Map::new();
    for (place, name) in ["a.safetensors", "b.safetensors"].into_iter().enumerate() {
        let part: Vec<_> = tensors
            .iter()
            .filter(|(tensor, _)| tensor.len() % 2 == place)
            .collect();
        for (tensor, _) in &part {
            map.insert((*tensor).to_owned(), json!(name));
        }
        fs::write(dir.join(name), safetensors::serialize(part, None).unwrap()).unwrap();
    }
    fs::write(
        dir.join("model.safetensors.index.json"),
        json!({"weight_map": map}).to_string(),
    )
    .unwrap();
    fs::remove_file(whole).unwrap();
}

#[test]
fn llama3_scaling_in_gguf_is_recognised_and_another_refused() {
    let config = ModelConfig {
        head_dim: 64,
        rope_theta: 500_000.0,
        ..config(Family::Llama)
    };
    let weights = weights(&config);
    let dir = tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    // As llama.cpp's converter computes them, in its own words: wavelengths, not turns.
    let divisors: Vec<f32> = (0..32)
        .map(|i| {
            let wavelength = std::f64::consts::TAU * 500_000f64.powf(f64::from(i) / 32.0);
            if wavelength < 8192.0 / 4.0 {
                1.0
            } else if wavelength > 8192.0 {
                32.0
            } else {
                let smooth = (8192.0 / wavelength - 1.0) / 3.0;
                (1.0 / ((1.0 - smooth) / 32.0 + smooth)) as f32
            }
        })
        .collect();
    let mut file = gguf(&config, &weights, F32);
    file.tensor("rope_freqs.weight", &[32], &divisors, F32);
    fs::write(&path, file.bytes()).unwrap();
    assert_eq!(
        load(&path).unwrap().config.rope_scaling,
        RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192
        }
    );

    let mut file = gguf(&config, &weights, F32);
    file.tensor("rope_freqs.weight", &[32], &[3.0; 32], F32);
    fs::write(&path, file.bytes()).unwrap();
    assert!(refusal(&path).contains("rope_freqs.weight"));
}

#[test]
fn a_tokenizer_comes_out_of_gguf() {
    let config = config(Family::Llama);
    let dir = tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    let mut file = gguf(&config, &weights(&config), F32);
    fs::write(&path, file.bytes()).unwrap();
    let tokenizer = gguf_tokenizer(&path).unwrap();
    assert_eq!(tokenizer.tokens, ["a", "b", "ab", "<|end|>"]);
    assert_eq!(tokenizer.merges, ["a b"]);
    assert_eq!(
        (tokenizer.pre.as_deref(), tokenizer.eos, tokenizer.bos),
        (Some("smollm"), Some(3), None)
    );

    file.u32("tokenizer.ggml.bos_token_id", 4);
    fs::write(&path, file.bytes()).unwrap();
    assert!(
        gguf_tokenizer(&path)
            .unwrap_err()
            .to_string()
            .contains("bos token id is outside the 4 tokens")
    );
    file.values
        .retain(|(key, _)| key != "tokenizer.ggml.tokens");
    fs::write(&path, file.bytes()).unwrap();
    assert!(
        gguf_tokenizer(&path)
            .unwrap_err()
            .to_string()
            .contains("carries no tokenizer")
    );
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    let model = config(Family::Qwen2);
    let weights = weights(&model);
    for (key, value, says) in [
        (
            "architectures",
            json!(["MixtralForCausalLM"]),
            "`MixtralForCausalLM` is not supported; supported: Llama",
        ),
        (
            "rope_scaling",
            json!({"rope_type": "dynamic", "factor": 2.0}),
            "rotary scaling `dynamic`",
        ),
        (
            "rope_scaling",
            json!({"type": "longrope"}),
            "rotary scaling `longrope`",
        ),
        (
            "rope_scaling",
            json!({"rope_type": "linear"}),
            "`factor` is missing",
        ),
        (
            "rope_scaling",
            json!({"rope_type": "yarn", "factor": 2.0, "truncate": false}),
            "truncate",
        ),
        (
            "rope_scaling",
            json!({"full_attention": {"rope_type": "default"}}),
            "rotary embedding per layer type",
        ),
        ("partial_rotary_factor", json!(0.5), "partial_rotary_factor"),
        ("hidden_act", json!("gelu"), "activation `gelu`"),
        ("num_experts", json!(8), "mixture of experts"),
        (
            "quantization_config",
            json!({"quant_method": "gptq"}),
            "quantisation `gptq`",
        ),
        (
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
            "sliding_attention",
        ),
        (
            "hidden_size",
            json!("32"),
            "`hidden_size` is \"32\"; expected a whole number",
        ),
        ("hidden_size", json!(0), "hidden size is 0"),
        ("vocab_size", json!(1u64 << 60), "vocabulary size is"),
        ("head_dim", json!(15), "head dimension 15 is odd"),
        ("num_key_value_heads", json!(3), "no multiple of 3"),
        (
            "num_hidden_layers",
            Value::Null,
            "`num_hidden_layers` is missing",
        ),
        ("rope_theta", json!(-1.0), "rope_theta is -1"),
        ("eos_token_id", json!("end"), "`eos_token_id`"),
        (
            "num_hidden_layers",
            json!(3),
            "tensor `model.layers.2.input_layernorm.weight` is missing",
        ),
        ("num_hidden_layers", json!(1), "tensor `model.layers.1."),
        (
            "intermediate_size",
            json!(65),
            "has shape [64, 32], the configuration says [65, 32]",
        ),
    ] {
        let dir = tempdir().unwrap();
        saved(dir.path(), &model, &weights);
        set(dir.path(), key, value.clone());
        let text = refusal(dir.path());
        assert!(text.contains(says), "{key} = {value}: {text}");
        assert!(text.contains(&*dir.path().to_string_lossy()), "{text}");
    }
    let dir = tempdir().unwrap();
    saved(dir.path(), &model, &weights);
    for (key, value) in [
        ("use_sliding_window", json!(true)),
        ("sliding_window", json!(64)),
        ("max_window_layers", json!(1)),
    ] {
        set(dir.path(), key, value);
    }
    assert!(refusal(dir.path()).contains("sliding-window"));
    set(dir.path(), "max_window_layers", json!(2)); // no layer of two is beyond it
    assert_eq!(load(dir.path()).unwrap().weights, weights);
}

#[test]
fn a_missing_part_is_named_with_the_way_out() {
    let config = config(Family::Llama);
    let weights = weights(&config);
    let dir = tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    assert!(refusal(&at("nowhere")).contains("no such file or directory; expected a Hugging Face"));
    assert!(refusal(dir.path()).contains("no config.json in this directory"));
    saved(dir.path(), &config, &weights);
    assert!(refusal(&at("model.safetensors")).contains("give the directory"));
    assert!(refusal(&at("config.json")).contains("expected a Hugging Face model directory"));

    set(dir.path(), "tie_word_embeddings", json!(true));
    let tied = load(dir.path()).unwrap();
    assert!(tied.weights.head.is_none() && tied.unused.is_empty());
    set(dir.path(), "tie_word_embeddings", json!(false));
    let tensors = ModelConfig {
        tied_head: true,
        ..config.clone()
    };
    save_merged(
        dir.path(),
        &tensors,
        &Weights {
            head: None,
            ..weights
        },
        SaveDtype::F32,
        &ids(),
    )
    .unwrap();
    set(dir.path(), "tie_word_embeddings", json!(false));
    assert!(refusal(dir.path()).contains("set `tie_word_embeddings` to true"));

    fs::remove_file(at("model.safetensors")).unwrap();
    assert!(
        refusal(dir.path()).contains("no model.safetensors and no model.safetensors.index.json")
    );
    fs::write(at("pytorch_model.bin"), "x").unwrap();
    assert!(refusal(dir.path()).contains("pickle"));
    fs::write(at("config.json"), "{\"a\": 1,").unwrap();
    assert!(refusal(dir.path()).contains("not valid JSON"));
    fs::write(at("config.json"), "[1]").unwrap();
    assert!(refusal(dir.path()).contains("expected a JSON object"));
    fs::write(at("config.json"), [0xFF, 0xFE]).unwrap();
    assert!(refusal(dir.path()).contains("not UTF-8"));
}

#[test]
fn extra_tensors_are_reported_outside_layers_and_refused_inside() {
    let config = config(Family::Llama);
    let weights = weights(&config);
    let dir = tempdir().unwrap();
    saved(dir.path(), &config, &weights);
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let stored = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let ones = [0u8, 0, 128, 63].repeat(config.hidden);
    let with = |name: &str, dtype, data: &[u8]| {
        let extra =
            safetensors::tensor::TensorView::new(dtype, vec![data.len() / 4], data).unwrap();
        let all = stored
            .tensors()
            .into_iter()
            .chain([(name.to_owned(), extra)]);
        fs::write(&path, safetensors::serialize(all, None).unwrap()).unwrap();
    };
    let f32 = safetensors::Dtype::F32;
    with("model.layers.0.self_attn.rotary_emb.inv_freq", f32, &ones);
    assert!(load(dir.path()).unwrap().unused.is_empty());
    with("v_head.weight", f32, &ones);
    assert_eq!(load(dir.path()).unwrap().unused, ["v_head.weight"]);
    with("model.layers.0.mlp.gate_proj.bias", f32, &ones);
    assert!(refusal(dir.path()).contains("`model.layers.0.mlp.gate_proj.bias`"));
    with("model.layers.0.self_attn.o_proj.bias", f32, &ones);
    assert!(refusal(dir.path()).contains("a bias of the attention output"));
    with(
        "model.layers.0.self_attn.o_proj.bias",
        f32,
        &vec![0; 4 * config.hidden],
    );
    assert_eq!(load(dir.path()).unwrap().weights, weights);

    let wrong: Vec<_> = stored
        .tensors()
        .into_iter()
        .map(|(name, view)| match name.as_str() {
            "model.norm.weight" => {
                let data = view.data();
                (
                    name,
                    safetensors::tensor::TensorView::new(safetensors::Dtype::I32, vec![32], data)
                        .unwrap(),
                )
            }
            _ => (name, view),
        })
        .collect();
    fs::write(&path, safetensors::serialize(wrong, None).unwrap()).unwrap();
    let text = refusal(dir.path());
    assert!(
        text.contains("`model.norm.weight` is stored as I32; supported: F32, F16, BF16"),
        "{text}"
    );
}

#[test]
fn gguf_that_cannot_be_computed_is_refused_by_name() {
    let config = config(Family::Llama);
    let weights = weights(&config);
    let dir = tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    let check = |says: &str, change: &dyn Fn(&mut Gguf)| {
        let mut file = gguf(&config, &weights, F32);
        change(&mut file);
        fs::write(&path, file.bytes()).unwrap();
        let text = refusal(&path);
        assert!(text.contains(says), "{says}: {text}");
    };
    check("GGUF version 1 is not supported", &|f| f.version = 1);
    check("(big-endian)", &|f| f.version = 3u32.swap_bytes());
    check(
        "`mamba` is not supported; supported: llama, qwen2, qwen3",
        &|f| f.text("general.architecture", "mamba"),
    );
    check("`general.architecture` is missing", &|f| {
        drop(f.values.remove(0))
    });
    check("`llama.expert_count`", &|f| f.u32("llama.expert_count", 8));
    check("`llama.rope.dimension_count` = 8", &|f| {
        f.u32("llama.rope.dimension_count", 8)
    });
    check("rotary scaling `longrope`", &|f| {
        f.text("llama.rope.scaling.type", "longrope")
    });
    check("`llama.rope.scaling.factor` is missing", &|f| {
        f.text("llama.rope.scaling.type", "yarn")
    });
    check("expected a whole number", &|f| {
        f.text("llama.block_count", "two")
    });
    check("`llama.block_count` is missing", &|f| {
        f.values.retain(|(key, _)| key != "llama.block_count")
    });
    check("tensor `blk.2.attn_norm.weight` is missing", &|f| {
        f.u32("llama.block_count", 3)
    });
    check("tensor `token_embd.weight` is missing", &|f| {
        drop(f.tensors.remove(0))
    });
    check(
        "has shape [64, 32], the configuration says [96, 32]",
        &|f| f.u32("llama.attention.head_count", 6),
    );
    check(
        "stored as Q6_K; supported: F32, F16, BF16, Q4_0, Q4_1, Q8_0",
        &|f| f.tensors[1].2 = 14,
    );
    check("`blk.0.attn_norm.weight` is there twice", &|f| {
        f.tensors[4].0 = "blk.0.attn_norm.weight".into()
    });
    check("has 5 axes", &|f| f.tensors[1].1 = vec![1, 1, 1, 1, 32]);
    check("no whole number of Q8_0 blocks", &|f| {
        f.tensors[1].1 = vec![16];
        f.tensors[1].2 = Q8_0;
    });
    check("array of arrays", &|f| {
        f.raw("nested", 9, &[9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])
    });
    check("unknown type 77", &|f| f.raw("odd", 77, &[]));
    check("is the bool 7", &|f| f.raw("odd", 7, &[7]));
    check("`k` is there twice", &|f| {
        f.u32("k", 1);
        f.values.push(("k".into(), vec![4, 0, 0, 0, 1, 0, 0, 0]));
    });
    check("general.alignment", &|f| f.u32("general.alignment", 24));
    fs::write(&path, b"PK\x03\x04 not a model").unwrap();
    assert!(refusal(&path).contains("is it a GGUF file?"));
}

#[test]
fn a_value_beyond_float16_is_refused_and_nothing_is_left() {
    let config = config(Family::Llama);
    let mut weights = weights(&config);
    weights.final_norm[3] = 70_000.0;
    let dir = tempdir().unwrap();
    let out = dir.path().join("new");
    let text = save_merged(&out, &config, &weights, SaveDtype::F16, &ids())
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("`model.norm.weight`") && text.contains("bfloat16"),
        "{text}"
    );
    assert!(!out.exists());
    weights.final_norm[3] = 65_504.0;
    save_merged(&out, &config, &weights, SaveDtype::F16, &ids()).unwrap();
    let mut names: Vec<_> = fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors"]);
}

#[test]
fn weights_of_another_shape_are_not_written() {
    let model = config(Family::Qwen3);
    let good = weights(&model);
    let dir = tempdir().unwrap();
    let mut short = good.clone();
    short.layers[1].qkv.pop();
    let mut long = good.clone();
    long.layers[0].down.push(0.0);
    let mut few = good;
    few.layers.pop();
    for bad in [short, long, few] {
        assert!(save_merged(dir.path(), &model, &bad, SaveDtype::F32, &ids()).is_err());
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn an_adapter_that_is_not_plain_lora_is_refused_by_name() {
    let dir = tempdir().unwrap();
    let tensor = |name: &str, shape: [usize; 2]| AdapterTensor {
        name: name.into(),
        shape,
        values: vec![1.0; shape[0] * shape[1]],
    };
    let good = Adapter {
        rank: 2,
        alpha: 4.0,
        base_model: "tiny".into(),
        tensors: vec![
            tensor("m.q_proj.lora_A.weight", [2, 3]),
            tensor("m.q_proj.lora_B.weight", [5, 2]),
        ],
    };
    assert_eq!(good.target_modules(), ["q_proj"]);
    let says = |adapter: &Adapter| save_adapter(dir.path(), adapter).unwrap_err().to_string();
    let mut bad = good.clone();
    bad.tensors.pop();
    assert!(says(&bad).contains("`m.q_proj.lora_B.weight` is missing"));
    bad = good.clone();
    bad.rank = 3;
    assert!(says(&bad).contains("has shape [2, 3]"));
    bad = good.clone();
    bad.tensors[0].name = "m.embed.lora_embedding_A".into();
    assert!(says(&bad).contains("lora_embedding_A"));
    bad.tensors.clear();
    assert!(says(&bad).contains("holds no tensors"));

    save_adapter(dir.path(), &good).unwrap();
    let path = dir.path().join("adapter_config.json");
    let text = fs::read_to_string(&path).unwrap();
    for (key, value) in [
        ("peft_type", json!("IA3")),
        ("use_dora", json!(true)),
        ("use_rslora", json!(true)),
        ("rank_pattern", json!({"q_proj": 4})),
        ("alpha_pattern", json!({"q_proj": 4})),
        ("modules_to_save", json!(["lm_head"])),
        ("bias", json!("all")),
    ] {
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config[key] = value;
        fs::write(&path, config.to_string()).unwrap();
        let error = load_adapter(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("not supported") && error.contains("plain LoRA"),
            "{key}: {error}"
        );
    }
}
