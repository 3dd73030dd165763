#!/usr/bin/env bash
# A flow-matching scheduler applies its time shift twice when it is asked for a number of steps.
#
# Versions: diffusers 0.42.1, torch 2.13.0 (CPU).
# What one expects: FlowMatchEulerDiscreteScheduler(shift=3).set_timesteps(4) spaces four noise levels evenly and moves them
#   by s' = 3 s / (1 + 2 s), as the same class does with levels that are given (set_timesteps(sigmas=...)).
# What happens: the lowest level has been shifted when the object was made; all levels between it and 1 are spaced from it
#   and shifted again.  Four steps then run at 1, 0.858, 0.602 and 0.009: the last step moves almost nothing.  Weights
#   distilled on these levels need exactly them.
# Seen: "asked for 4 steps: [1.0, 0.8577, 0.6022, 0.0089]; one shift of even levels: [1.0, 0.9, 0.75, 0.5]".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy diffusers==0.42.1
"$folder/venv/bin/python" - <<'PY'
import sys

from diffusers import FlowMatchEulerDiscreteScheduler

asked = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
asked.set_timesteps(4)
given = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
given.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
levels, once = ([round(float(level), 4) for level in one.sigmas[:-1]] for one in (asked, given))
print(f"asked for 4 steps: {levels}; one shift of even levels: {once}")
sys.exit(0 if levels == [1.0, 0.8577, 0.6022, 0.0089] and once == [1.0, 0.9, 0.75, 0.5] else 1)
PY
