#!/usr/bin/env bash
# The sdist and the wheel build, install in a bare environment, and work there.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-.venv/bin/python}

"$python" -m maturin sdist --out "$work/dist"
sdist=("$work"/dist/*.tar.gz)
mkdir "$work/src" && tar -xzf "${sdist[0]}" -C "$work/src" --strip-components=1
# Built from the unpacked sdist, so that a file missing from it is found; the shared target directory saves time only.
(cd "$work/src" && CARGO_TARGET_DIR="$root/target" "$root/$python" -m maturin build --release --out "$work/dist")
wheel=("$work"/dist/*.whl)

"$python" -m venv "$work/bare"
"$work/bare/bin/python" -m pip install --quiet "${wheel[0]}"
cd "$work"
bare/bin/python - <<'PY'
import sys
import tinsmith
heavy = {"torch", "tinker", "transformers", "datasets", "sympy", "tokenizers", "cattrs", "rich"} & set(sys.modules)
assert not heavy, f"import tinsmith loads {heavy}"
PY
bare/bin/tinsmith --version
bare/bin/tinsmith >/dev/null
bare/bin/tinsmith rl-basic max_steps=2 groups_per_batch=8 test_size=8 log_path="$work/run" >/dev/null
test "$(wc -l < "$work/run/metrics.jsonl")" = 2
bytes=$(stat -c %s "${wheel[0]}")
echo "package: $(basename "${sdist[0]}") and $(basename "${wheel[0]}") ($bytes bytes) install and run in a bare environment"
