#!/usr/bin/env bash
# What an NVIDIA GPU makes of actbench: its tests, then the benchmark's arms, in at most eight minutes.
#   bash benchmarks/gpu.sh OUTPUT [WHEELS]
# OUTPUT gets gpu_tests.txt, and a JSON file, a table and a picture for each workload. WHEELS is a folder with wheels of
# the packages that the machine lacks and cannot download.
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:?folder of the results}
mkdir -p "$output"
if [ $# -gt 1 ]; then
    python3 -m pip install -q --no-index --find-links "$2" -e '.[test]'
else
    python3 -m pip install -q -e '.[test]'
fi
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$output/gpu.txt"
timeout 150 python3 -m pytest -q -m gpu -n 0 tests/test_gpu.py > "$output/gpu_tests.txt" 2>&1 || true
tail -n 20 "$output/gpu_tests.txt"
measure() {
    timeout "$1" python3 benchmarks/engine.py --accelerator gpu --repetitions 1 --scaling --output "$output" "${@:2}" |
        tee -a "$output/tables.md" || echo "stopped: $*" | tee -a "$output/tables.md"
}
measure 110 --workload digits --replicates 300 --epochs 5 --arms lightning loop actbench engine
measure 110 --workload fake32 --replicates 30 --epochs 1 --arms loop actbench engine
measure 90 --workload fake32_resnet --replicates 30 --epochs 1 --arms loop actbench engine
