//! safetensors, one file or shards under an index. The header is checked by the `safetensors` crate
//! (contiguous, overflow-safe offsets; sizes that follow from shape and type); its length, the file's
//! length and the memory that it may take are checked here first.
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata};

use super::disk;
use super::error::FileError;
use super::tensor::{Encoding, StoredTensor};

/// A header is parsed to about 16 times its length at worst, so its own length is bounded; the header
/// of a model of 100,000 tensors has 12 MB.
const HEADER_LIMIT: usize = 25_000_000;
const INDEX_LIMIT: u64 = 64 << 20;
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Check a whole file's bytes and return its header and where the tensors' bytes start.
fn parse(bytes: &[u8], path: &Path) -> Result<(Metadata, usize), FileError> {
    let truncated = |what: &str, expected: u64| FileError::Truncated {
        path: path.into(),
        what: what.into(),
        expected,
        found: bytes.len() as u64,
    };
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(truncated("the length of the header", 8));
    };
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length).ok().filter(|n| *n <= HEADER_LIMIT).ok_or_else(|| {
        FileError::malformed(
            path,
            format!("says that its header has {length} bytes, above the limit of {HEADER_LIMIT}; is it a safetensors file?"),
        )
    })?;
    let Some(text) = rest.get(..header) else {
        return Err(truncated("the header", length + 8));
    };
    let metadata: Metadata = serde_json::from_slice(text)
        .map_err(|error| FileError::malformed(path, format!("bad safetensors header: {error}")))?;
    let expected = (metadata.data_len() as u64).saturating_add(length + 8);
    match (bytes.len() as u64).cmp(&expected) {
        std::cmp::Ordering::Less => Err(truncated("the tensors that its header lists", expected)),
        std::cmp::Ordering::Greater => Err(FileError::malformed(
            path,
            format!(
                "{} bytes follow the last tensor; the header does not belong to this file",
                bytes.len() as u64 - expected
            ),
        )),
        std::cmp::Ordering::Equal => Ok((metadata, header + 8)),
    }
}

/// One mapped, checked safetensors file.
pub struct SafetensorsFile {
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    data: usize,
}

impl SafetensorsFile {
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let map = disk::map(path)?;
        let (metadata, data) = parse(&map, path)?;
        Ok(Self {
            path: path.into(),
            map,
            metadata,
            data,
        })
    }

    /// Tensor names in the order of the file.
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    pub fn tensor(&self, name: &str) -> Result<Option<StoredTensor<'_>>, FileError> {
        let Some(info) = self.metadata.info(name) else {
            return Ok(None);
        };
        let encoding = match info.dtype {
            Dtype::F32 => Encoding::F32,
            Dtype::F16 => Encoding::F16,
            Dtype::BF16 => Encoding::Bf16,
            other => {
                return Err(FileError::Encoding {
                    path: self.path.clone(),
                    tensor: name.into(),
                    found: format!("{other:?}"),
                    supported: "F32, F16, BF16",
                    hint: "Save the model in one of these",
                });
            }
        };
        let (start, end) = info.data_offsets;
        let bytes = self
            .map
            .get(self.data + start..self.data + end)
            .ok_or_else(|| {
                FileError::malformed(&self.path, format!("tensor `{name}` lies outside the file"))
            })?;
        Ok(Some(StoredTensor {
            file: &self.path,
            name: name.into(),
            encoding,
            shape: info.shape.clone(),
            bytes,
            interleaved_heads: None,
        }))
    }
}

/// The safetensors of a Hugging Face directory.
pub struct SafetensorsDir {
    pub files: Vec<SafetensorsFile>,
    /// Tensor name to its place in `files`.
    pub names: HashMap<String, usize>,
    pub index: PathBuf,
}

impl SafetensorsDir {
    pub fn tensor(&self, name: &str) -> Result<Option<StoredTensor<'_>>, FileError> {
        self.names
            .get(name)
            .map_or(Ok(None), |place| self.files[*place].tensor(name))
    }

    /// `model.safetensors` where there is one, as transformers prefers it; else the shards of the index.
    pub fn open(dir: &Path) -> Result<Self, FileError> {
        let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
        if single.is_file() {
            let file = SafetensorsFile::open(&single)?;
            let names = file.names().into_iter().map(|name| (name, 0)).collect();
            return Ok(Self {
                files: vec![file],
                names,
                index: single,
            });
        }
        if !index.is_file() {
            let hint = if dir.join("pytorch_model.bin").exists()
                || dir.join("pytorch_model.bin.index.json").exists()
            {
                "pytorch_model.bin is a pickle and is not read: load it in transformers and save_pretrained(...) it again"
            } else {
                "expected a directory that transformers' save_pretrained(...) wrote"
            };
            return Err(FileError::Missing {
                path: dir.into(),
                what: format!("no {SINGLE} and no {INDEX} in this directory"),
                hint: hint.into(),
            });
        }
        Self::open_shards(dir, &index)
    }

    fn open_shards(dir: &Path, index: &Path) -> Result<Self, FileError> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let text = disk::read_text(index, INDEX_LIMIT)?;
        let parsed: Index = serde_json::from_str(&text).map_err(|error| {
            FileError::malformed(index, format!("not a safetensors index: {error}"))
        })?;
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        let mut files: Vec<SafetensorsFile> = Vec::new();
        let mut names = HashMap::new();
        for (name, shard) in &parsed.weight_map {
            let place = match places.get(shard.as_str()) {
                Some(place) => *place,
                None => {
                    // Only a plain name: an index must not lead out of its directory.
                    if Path::new(shard).file_name() != Some(shard.as_ref()) {
                        return Err(FileError::malformed(
                            index,
                            format!("shard name `{shard}` is no plain file name"),
                        ));
                    }
                    let path = dir.join(shard);
                    if !path.exists() {
                        return Err(FileError::Missing {
                            path,
                            what: format!("the shard of tensor `{name}` is missing"),
                            hint: format!("fetch every file that {INDEX} lists"),
                        });
                    }
                    files.push(SafetensorsFile::open(&path)?);
                    places.insert(shard, files.len() - 1);
                    files.len() - 1
                }
            };
            if files[place].metadata.info(name).is_none() {
                return Err(FileError::MissingTensor {
                    path: files[place].path.clone(),
                    tensor: name.clone(),
                    hint: format!(
                        "{INDEX} says that it is here; index and shards are of two models"
                    ),
                });
            }
            names.insert(name.clone(), place);
        }
        Ok(Self {
            files,
            names,
            index: index.into(),
        })
    }
}
