#!/usr/bin/env bash
# The same AAC begins at 0 in MP4 and 21 ms later in Matroska.
#
# Versions: av 18.1.0 (FFmpeg in its wheel), CPython 3.11.
# What one expects: remuxing or recording a track into another container moves nothing.
# What happens: the encoder's first 1024 samples are priming.  MP4 written by FFmpeg lets its own reader see them as samples
#   0..1023, so decoded sound is 21.3 ms longer and begins at 0; Matroska drops them, and decoded sound begins at 0.021 s.
#   Whoever pairs sound and pictures by counting samples from the first decoded one is 21 ms off in one of the two.
# Seen: "mp4: first sample at 0.000 s, 48128 samples; mkv: first sample at 0.021 s, 47104 samples".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.1
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys

import av
import numpy as np

told = {}
for kind in ("mp4", "mkv"):
    with av.open(f"a.{kind}", "w") as container:
        stream = container.add_stream("aac", rate=48_000, layout="mono")
        wave = np.sin(np.arange(47_104) / 20, dtype=np.float32)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(f"a.{kind}") as container:
        frames = list(container.decode(audio=0))
    told[kind] = (round(frames[0].time, 3), sum(frame.samples for frame in frames))
print("; ".join(f"{kind}: first sample at {at:.3f} s, {count} samples" for kind, (at, count) in told.items()))
sys.exit(0 if told["mp4"][0] == 0.0 and told["mkv"][0] == 0.021 and told["mp4"][1] > told["mkv"][1] else 1)
PY
