#!/usr/bin/env bash
# Models that are compiled one by one share one limit of recompilations.
#
# Versions: torch 2.13.0 (CPU), CPython 3.11.
# What one expects: torch.compile(model) returns an object of its own, whose code is its own.
# What happens: compiled code is kept by Python function, not by compiled object.  Every further model of the same class
#   but another size counts as a recompilation of the first; after 8 of them (recompile_limit) the next model silently
#   runs uncompiled, however often it is called.
# Seen: "compiled calls of 10 models: [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PY'
import logging
import sys

import torch

logging.getLogger("torch._dynamo").setLevel(logging.CRITICAL)
calls = [0] * 10


class Layer(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.weight


def counting(model: int):
    """A backend that notes that the code it made is run."""

    def backend(graph, inputs):
        def run(*values):
            calls[model] += 1
            return graph.forward(*values)

        return run

    return backend


for number in range(10):
    model = torch.compile(Layer(number + 2), backend=counting(number), dynamic=False)
    model(torch.ones(number + 2))
print(f"compiled calls of 10 models: {calls}")
sys.exit(0 if calls[:8] == [1] * 8 and calls[8:] == [0, 0] else 1)
PY
