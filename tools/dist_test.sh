#!/usr/bin/env bash
# Test with N processes on this machine: bash tools/dist_test.sh CONFIG CHECKPOINT N [arguments of tools/test.py]
# Several machines: the same command on each, with NNODES, NODE_RANK (0, 1, ...), MASTER_ADDR and PORT set.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: bash tools/dist_test.sh CONFIG CHECKPOINT N [arguments of tools/test.py]" >&2
    exit 2
fi
CONFIG=$1
CHECKPOINT=$2
N=$3
shift 3
NNODES=${NNODES:-1}
NODE_RANK=${NODE_RANK:-0}
MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}
PORT=${PORT:-29500}
TOOLS=$(cd "$(dirname "$0")" && pwd)

# torchrun would answer with pages of tracebacks
if [ "$NODE_RANK" = 0 ] && ! "${PYTHON:-python}" -c '
import socket, sys
with socket.socket() as one:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("", int(sys.argv[1])))' "$PORT" 2>/dev/null; then
    echo "error: PORT $PORT: not a port, or another process uses it; set PORT to another" >&2
    exit 2
fi

# $$ is torchrun's process, too
MMDET_R2_LAUNCHER=$$ PYTHONPATH="$TOOLS/..:${PYTHONPATH:-}" exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="$NNODES" \
    --node_rank="$NODE_RANK" \
    --master_addr="$MASTER_ADDR" \
    --master_port="$PORT" \
    --nproc_per_node="$N" \
    "$TOOLS/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "$@"
