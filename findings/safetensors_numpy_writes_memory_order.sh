#!/usr/bin/env bash
# A transposed array comes back from a safetensors file with other numbers.
#
# Versions: safetensors 0.8.0, numpy 2.4.1.
# What one expects: save_file writes the array that it is given, or refuses it, as its twin for torch does.
# What happens: the numpy writer takes the bytes of the buffer in the order of memory and the shape of the view.  A
#   transposed array returns with its shape right and its values in other places; nothing is raised.
# Seen: "wrote [[0, 3], [1, 4], [2, 5]], read [[0, 1], [2, 3], [4, 5]]".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.1
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

wrote = np.arange(6, dtype=np.int64).reshape(2, 3).T
save_file({"a": wrote}, "a.safetensors")
read = load_file("a.safetensors")["a"]
print(f"wrote {wrote.tolist()}, read {read.tolist()}")
sys.exit(0 if read.shape == wrote.shape and not np.array_equal(read, wrote) else 1)
PY
