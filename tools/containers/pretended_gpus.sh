#!/bin/sh
# pretended_gpus.sh COUNT: a CDI description of COUNT devices nvidia.com/gpu=0, 1 and so on, each of them /dev/null
# under another name.  What a container sees of them is real; that anything computes is not.
count=$1 index=0 devices=''
while [ "$index" -lt "$count" ]; do
	edits=$(printf '{"env": ["CUDA_VISIBLE_DEVICES=%d"], "deviceNodes": [{"path": "/dev/nvidia%d", "hostPath": "/dev/null", "type": "c", "major": 1, "minor": 3}]}' "$index" "$index")
	devices="$devices${devices:+, }{\"name\": \"$index\", \"containerEdits\": $edits}"
	index=$((index + 1))
done
printf '{"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": [%s]}\n' "$devices"
