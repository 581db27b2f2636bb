//! The file system: bounded reads, memory maps, and writes that are whole or not there.
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::error::FileError;

/// Read a small text file, refused above `limit` bytes.
pub fn read_text(path: &Path, limit: u64) -> Result<String, FileError> {
    let length = length(path)?;
    if length > limit {
        return Err(FileError::malformed(
            path,
            format!("{length} bytes long; expected at most {limit}"),
        ));
    }
    let bytes = fs::read(path).map_err(|error| FileError::io(path, "read", error))?;
    String::from_utf8(bytes)
        .map_err(|error| FileError::malformed(path, format!("not UTF-8 text: {error}")))
}

/// Map a file for reading. An empty file is refused: no model format is empty.
pub fn map(path: &Path) -> Result<Mmap, FileError> {
    let length = length(path)?;
    if length == 0 {
        return Err(FileError::Truncated {
            path: path.into(),
            what: "any model file".into(),
            expected: 8,
            found: 0,
        });
    }
    let file = File::open(path).map_err(|error| FileError::io(path, "open", error))?;
    // SAFETY: the map is read-only and private to this process. As with every memory map, another
    // process that truncates the file meanwhile ends this one with SIGBUS; writers here never do so
    // (they write a new file and rename it over the old).
    unsafe { Mmap::map(&file) }.map_err(|error| FileError::io(path, "map", error))
}

fn length(path: &Path) -> Result<u64, FileError> {
    let meta = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => FileError::Missing {
            path: path.into(),
            what: "no such file".into(),
            hint: "check the path".into(),
        },
        _ => FileError::io(path, "open", error),
    })?;
    if !meta.is_file() {
        return Err(FileError::malformed(path, "not a regular file"));
    }
    Ok(meta.len())
}

/// Make `dir` and its parents; whether `dir` itself is new.
pub fn make_dir(dir: &Path) -> Result<bool, FileError> {
    let new = !dir.exists();
    fs::create_dir_all(dir).map_err(|error| FileError::io(dir, "make the directory", error))?;
    if new {
        sync_dir(dir.parent().unwrap_or(Path::new(".")))?;
    }
    Ok(new)
}

/// Write `path` so that at every moment, a crash included, it holds either what it held before or all
/// of the new content: a temporary file beside it, fsync, rename, fsync of the directory. On failure the
/// temporary file is removed.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), FileError> {
    let temporary = temporary_beside(path);
    let written = write_and_sync(&temporary, write)
        .map_err(|error| FileError::io(path, "write", error))
        .and_then(|()| {
            fs::rename(&temporary, path).map_err(|error| FileError::io(path, "rename", error))
        });
    if written.is_err() {
        // Best effort: the error that matters is the one above.
        let _ = fs::remove_file(&temporary);
        return written;
    }
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

fn write_and_sync(
    temporary: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(temporary)?;
    let mut buffered = BufWriter::with_capacity(1 << 20, file);
    write(&mut buffered)?;
    buffered
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .sync_all()
}

/// The name carries the process id, so that two writers never share a temporary file.
fn temporary_beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.partial", std::process::id()))
}

fn sync_dir(dir: &Path) -> Result<(), FileError> {
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    if cfg!(not(unix)) {
        return Ok(()); // other systems cannot open a directory to flush it
    }
    File::open(dir)
        .and_then(|handle| handle.sync_all())
        .map_err(|error| FileError::io(dir, "flush the directory", error))
}
