#!/usr/bin/env bash
# A live MP4 of one group of pictures per fragment leaves the muxer one fragment late.
#
# Versions: av 18.1.0 (FFmpeg in its wheel), CPython 3.11.
# What one expects: with frag_keyframe and flush_packets, a fragment leaves when its last picture was muxed.
# What happens: the muxer knows that a fragment has ended only when the next key frame comes, and writes it then.  A live
#   stream of 0.48 s per group is 0.48 s later than its pictures.  No option of the muxer says "this was the last"; an
#   explicit flush (a null packet to the interleaver) is not offered by PyAV.
# Seen: "bytes after each group of 12 pictures: [N0, N1, N2]; fragments complete: [0, 1, 2]".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.1
"$folder/venv/bin/python" - <<'PY'
import io
import sys

import av
import numpy as np


class Sink(io.RawIOBase):
    """Takes bytes and cannot seek, as a socket."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.data += bytes(data)
        return len(data)


sink = Sink()
options = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
with av.open(sink, "w", format="mp4", options=options) as container:
    stream = container.add_stream("libx264", rate=25, options={"g": "12", "tune": "zerolatency", "bf": "0"})
    stream.width = stream.height = 64
    stream.pix_fmt = "yuv420p"
    sizes, fragments = [], []
    for number in range(36):
        picture = np.full((64, 64, 3), 5 * number, dtype=np.uint8)
        for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
            container.mux(packet)
        if number % 12 == 11:
            sizes.append(len(sink.data))
            fragments.append(sink.data.count(b"mdat"))
    for packet in stream.encode(None):
        container.mux(packet)
print(f"bytes after each group of 12 pictures: {sizes}; fragments complete: {fragments}")
sys.exit(0 if fragments == [0, 1, 2] else 1)
PY
