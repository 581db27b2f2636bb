//! Hostile and damaged files: whatever the bytes, reading ends in a model or an error; it never panics, and never takes
//! more memory than a small multiple of the file.
#![allow(clippy::unwrap_used)]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

use proptest::prelude::*;
use support::{F32, Q8_0, config, gguf, weights};
use tempfile::{TempDir, tempdir};
use tinsmith_engine::files::{
    FileError, Loaded, SaveDtype, TokenIds, config_to_json, gguf_tokenizer, load, save_merged,
};
use tinsmith_engine::{Family, ModelConfig};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// The counters are the process's: one measurement at a time.
static MEASURED: Mutex<()> = Mutex::new(());

struct Counting;

// SAFETY: every call goes to the system allocator unchanged; the counters are beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(
            LIVE.fetch_add(layout.size(), Relaxed) + layout.size(),
            Relaxed,
        );
        // SAFETY: the caller's contract is this one's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's contract is this one's.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Block formats widen up to 7.2 times; strings and tables take a few times their length.
const TIMES: usize = 16;
const FIXED: usize = 1 << 20;

/// Run `read`, and fail if it took more than the bound for a file of `length` bytes.
fn bounded<T>(length: usize, read: impl FnOnce() -> T) -> T {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let out = read();
    let taken = PEAK.load(Relaxed).saturating_sub(before);
    assert!(
        taken <= TIMES * length + FIXED,
        "{taken} bytes taken for a file of {length}"
    );
    out
}

struct Place {
    dir: TempDir,
    safetensors: bool,
}

impl Place {
    fn gguf() -> Self {
        Self {
            dir: tempdir().unwrap(),
            safetensors: false,
        }
    }

    /// With config.json in place, without fsync: there are thousands of these.
    fn safetensors() -> Self {
        let dir = tempdir().unwrap();
        fs::write(
            dir.path().join("config.json"),
            config_to_json(&model(), &TokenIds::default(), "float32"),
        )
        .unwrap();
        Self {
            dir,
            safetensors: true,
        }
    }

    /// One for all cases of a property.
    fn shared(safetensors: bool) -> &'static Self {
        static PLACES: OnceLock<[Place; 2]> = OnceLock::new();
        &PLACES.get_or_init(|| [Self::gguf(), Self::safetensors()])[usize::from(safetensors)]
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join(if self.safetensors {
            "model.safetensors"
        } else {
            "x.gguf"
        })
    }

    fn load(&self, bytes: &[u8]) -> Result<Loaded, FileError> {
        let file = self.file();
        fs::write(&file, bytes).unwrap();
        if self.safetensors {
            return bounded(bytes.len(), || load(self.dir.path()));
        }
        let _ = bounded(bytes.len(), || gguf_tokenizer(&file));
        bounded(bytes.len(), || load(&file))
    }
}

fn model() -> ModelConfig {
    ModelConfig {
        n_layers: 1,
        vocab: 8,
        intermediate: 32,
        tied_head: true,
        ..config(Family::Llama)
    }
}

fn valid_gguf() -> Vec<u8> {
    gguf(&model(), &weights(&model()), Q8_0).bytes()
}

fn valid_safetensors() -> Vec<u8> {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let make = || {
        let dir = tempdir().unwrap();
        save_merged(
            dir.path(),
            &model(),
            &weights(&model()),
            SaveDtype::F32,
            &TokenIds::default(),
        )
        .unwrap();
        fs::read(dir.path().join("model.safetensors")).unwrap()
    };
    BYTES.get_or_init(make).clone()
}

fn alone() -> std::sync::MutexGuard<'static, ()> {
    // Starts rayon's pool outside of every measurement.
    rayon::join(|| (), || ());
    MEASURED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One change of a file: a byte, an eight-byte number, a cut, bytes put in.
fn change(bytes: &mut Vec<u8>, at: usize, kind: u8, number: u64) {
    let at = at % bytes.len();
    match kind {
        0 => bytes[at] = number as u8,
        1 => bytes
            .iter_mut()
            .skip(at)
            .zip(number.to_le_bytes())
            .for_each(|(byte, new)| *byte = new),
        2 => bytes.truncate(at),
        _ => drop(
            bytes
                .splice(at..at, number.to_le_bytes())
                .collect::<Vec<_>>(),
        ),
    }
}

fn changes() -> impl Strategy<Value = Vec<(usize, u8, u64)>> {
    let numbers = prop_oneof![
        any::<u64>(),
        0u64..64,
        (0u32..64).prop_map(|power| 1 << power),
        (0u32..64).prop_map(|power| (1u64 << power).wrapping_neg()),
    ];
    // Headers are where the traps are: most changes go there.
    let places = prop_oneof![3 => 0usize..1200, 1 => any::<usize>()];
    prop::collection::vec((places, 0u8..4, numbers), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_bytes_are_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..400), magic in any::<bool>()) {
        let _alone = alone();
        prop_assert!(Place::shared(true).load(&bytes).is_err());
        if magic {
            bytes.splice(0..0, *b"GGUF\x03\0\0\0");
        }
        prop_assert!(Place::shared(false).load(&bytes).is_err());
    }

    #[test]
    fn a_changed_gguf_is_a_model_or_an_error(changes in changes()) {
        let _alone = alone();
        let mut bytes = valid_gguf();
        for (at, kind, number) in changes {
            if !bytes.is_empty() {
                change(&mut bytes, at, kind, number);
            }
        }
        let _ = Place::shared(false).load(&bytes);
    }

    #[test]
    fn a_changed_safetensors_is_a_model_or_an_error(changes in changes()) {
        let _alone = alone();
        let place = Place::shared(true);
        let mut bytes = valid_safetensors();
        for (at, kind, number) in changes {
            if !bytes.is_empty() {
                change(&mut bytes, at, kind, number);
            }
        }
        let _ = place.load(&bytes);
    }

    /// Headers that are JSON, of the right form, with wild numbers.
    #[test]
    fn safetensors_offsets_are_never_trusted(
        rows in prop::collection::vec((any::<u64>(), any::<u64>(), prop::collection::vec(any::<u64>(), 0..4)), 1..5),
    ) {
        let _alone = alone();
        let mut header = serde_json::Map::new();
        for (i, (start, end, shape)) in rows.into_iter().enumerate() {
            header.insert(format!("t{i}"), serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}));
        }
        let text = serde_json::Value::Object(header).to_string();
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        prop_assert!(Place::shared(true).load(&bytes).is_err());
    }
}

#[test]
fn every_prefix_of_a_file_is_refused() {
    let _alone = alone();
    let place = Place::gguf();
    let bytes = valid_gguf();
    place.load(&bytes).unwrap();
    // All of the header; of the data, one cut in 61.
    for length in (0..2500)
        .chain((2500..bytes.len()).step_by(61))
        .chain([bytes.len() - 1])
    {
        let error = place.load(&bytes[..length]).unwrap_err();
        assert!(
            matches!(error, FileError::Truncated { .. }),
            "{length}: {error}"
        );
    }
    let place = Place::safetensors();
    let bytes = valid_safetensors();
    place.load(&bytes).unwrap();
    for length in (0..2500)
        .chain((2500..bytes.len()).step_by(61))
        .chain([bytes.len() - 1])
    {
        let error = place.load(&bytes[..length]).unwrap_err();
        assert!(
            matches!(error, FileError::Truncated { .. }),
            "{length}: {error}"
        );
    }
    assert!(
        place
            .load(&[&bytes[..], b"more"].concat())
            .unwrap_err()
            .to_string()
            .contains("4 bytes follow")
    );
}

#[test]
fn safetensors_sizes_that_add_up_past_the_address_space_are_refused() {
    let _alone = alone();
    // Nine tensors, each within bounds, whose total wraps around 64 bits.
    let each = (1u64 << 61) - 1;
    let rows: Vec<String> = (0..8)
        .map(|i| {
            format!(
                r#""t{i}":{{"dtype":"U8","shape":[{each}],"data_offsets":[{},{}]}}"#,
                i * each,
                (i + 1) * each
            )
        })
        .collect();
    let text = format!("{{{}}}", rows.join(","));
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    let error = Place::safetensors().load(&bytes).unwrap_err();
    assert!(matches!(error, FileError::Truncated { .. }), "{error}");
}

#[test]
fn a_gguf_that_counts_more_than_it_holds_is_refused_before_memory_is_taken() {
    let _alone = alone();
    for counts in [[u64::MAX, 0], [0, u64::MAX], [1 << 40, 1], [1, 1 << 40]] {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(counts.iter().flat_map(|n| n.to_le_bytes()));
        bytes.extend([0; 64]);
        let error = Place::gguf().load(&bytes).unwrap_err();
        assert!(matches!(error, FileError::Truncated { .. }), "{error}");
    }
    for (count, kind) in [
        (u64::MAX, 8u32),
        (1 << 62, 10),
        (u64::MAX / 8, 12),
        (1 << 40, 0),
    ] {
        let mut file = gguf(&model(), &weights(&model()), F32);
        let mut array = kind.to_le_bytes().to_vec();
        array.extend(count.to_le_bytes());
        file.raw("tokenizer.ggml.tokens", 9, &array);
        assert!(matches!(
            Place::gguf().load(&file.bytes()).unwrap_err(),
            FileError::Truncated { .. }
        ));
    }
    let mut file = gguf(&model(), &weights(&model()), F32);
    file.tensors[0].1 = vec![1 << 32, 1 << 32];
    let text = Place::gguf().load(&file.bytes()).unwrap_err().to_string();
    assert!(text.contains("more than memory can address"), "{text}");
}

/// Many tensors on the same bytes would widen a small file into a large model.
#[test]
fn overlapping_gguf_tensors_are_refused() {
    let _alone = alone();
    let mut bytes = valid_gguf();
    let place = Place::gguf();
    // The second tensor's offset: after its name, one axis and its type.
    let name = b"blk.0.attn_norm.weight";
    let at = bytes
        .windows(name.len())
        .position(|window| window == name)
        .unwrap()
        + name.len()
        + 4
        + 8
        + 4;
    bytes[at..at + 8].copy_from_slice(&0u64.to_le_bytes());
    assert!(
        place
            .load(&bytes)
            .unwrap_err()
            .to_string()
            .contains("overlap")
    );
    bytes[at..at + 8].copy_from_slice(&33u64.to_le_bytes());
    assert!(
        place
            .load(&bytes)
            .unwrap_err()
            .to_string()
            .contains("not aligned to 32")
    );
    bytes[at..at + 8].copy_from_slice(&(u64::MAX - 31).to_le_bytes());
    assert!(matches!(
        place.load(&bytes).unwrap_err(),
        FileError::Truncated { .. }
    ));
}

#[test]
fn a_safetensors_header_of_the_wrong_form_is_refused() {
    let _alone = alone();
    for text in [
        "",
        "null",
        "[]",
        "{\"t\": 1}",
        "{\"t\": {\"dtype\": \"F32\"}}",
        "{\"t\": {\"dtype\": \"F33\", \"shape\": [], \"data_offsets\": [0, 4]}}",
        "{\"t\": {\"dtype\": \"F32\", \"shape\": [-1], \"data_offsets\": [0, 4]}}",
        "{\"t\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 4]}}",
        "{\"t\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [4, 0]}}",
        "{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}, \"b\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}",
        "{\"__metadata__\": {\"x\": 1}}",
        "\u{1F980}",
    ] {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes.extend([0; 8]);
        let error = Place::safetensors().load(&bytes).unwrap_err();
        assert!(
            matches!(error, FileError::Malformed { .. }),
            "{text}: {error}"
        );
    }
    let error = Place::safetensors().load(&[0xFF; 64]).unwrap_err();
    assert!(
        error.to_string().contains("is it a safetensors file?"),
        "{error}"
    );
}
