//! What can be wrong with a model file: each error says which file, which part of it, and the way out.
use std::io;
use std::path::{Path, PathBuf};

/// Why a model could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Nothing is at the path, or a file that must be there is not.
    #[error("{}: {what}; {hint}", path.display())]
    Missing {
        path: PathBuf,
        what: String,
        hint: String,
    },

    /// The operating system refused: no permission, a full disk, a failing device.
    #[error("{}: could not {action}: {source}{}", path.display(), hint_for(source))]
    Io {
        path: PathBuf,
        action: &'static str,
        source: io::Error,
    },

    /// The bytes are not what the format says.
    #[error("{}: {detail}", path.display())]
    Malformed { path: PathBuf, detail: String },

    /// The file ends before its own header says it does.
    #[error("{}: {what} needs {expected} bytes, the file has {found}; it was cut short: fetch or copy it again", path.display())]
    Truncated {
        path: PathBuf,
        what: String,
        expected: u64,
        found: u64,
    },

    /// Well-formed, but nothing here can compute it.
    #[error("{}: {what} is not supported; {hint}", path.display())]
    Unsupported {
        path: PathBuf,
        what: String,
        hint: String,
    },

    /// The configuration asks for a tensor that no file holds.
    #[error("{}: tensor `{tensor}` is missing; {hint}", path.display())]
    MissingTensor {
        path: PathBuf,
        tensor: String,
        hint: String,
    },

    /// A tensor's shape is not the one that the configuration gives it.
    #[error("{}: tensor `{tensor}` has shape {found:?}, the configuration says {expected:?}; \
             config and weights are of two models", path.display())]
    Shape {
        path: PathBuf,
        tensor: String,
        expected: Vec<usize>,
        found: Vec<usize>,
    },

    /// A tensor is stored in an encoding that is not read here.
    #[error("{}: tensor `{tensor}` is stored as {found}; supported: {supported}. {hint}", path.display())]
    Encoding {
        path: PathBuf,
        tensor: String,
        found: String,
        supported: &'static str,
        hint: &'static str,
    },
}

fn hint_for(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space or choose another directory (nothing half-written was left behind)"
        }
        io::ErrorKind::PermissionDenied => "; check the permissions or choose another directory",
        _ => "",
    }
}

impl FileError {
    pub(crate) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io {
            path: path.to_path_buf(),
            action,
            source,
        }
    }

    pub(crate) fn malformed(path: &Path, detail: impl Into<String>) -> Self {
        Self::Malformed {
            path: path.to_path_buf(),
            detail: detail.into(),
        }
    }

    pub(crate) fn unsupported(
        path: &Path,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::Unsupported {
            path: path.to_path_buf(),
            what: what.into(),
            hint: hint.into(),
        }
    }
}
