#!/usr/bin/env bash
# Small inputs that went wrong once, through the program: for each the exit code and what the output must (or, behind !,
# must not) say. Exit codes: 0 all as expected, 1 something is not, 77 the folder of cases is absent.
#
#   tests/e2e/cases.sh build/bin/moelora [CASES=$MOELORA_SHARED_DIR/cases]
set -uo pipefail

moelora=$(realpath "$1")
root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
cases=${2:-${MOELORA_SHARED_DIR:-$root/../shared}/cases}
[ -d "$cases" ] || { echo "SKIPPED: no cases in $cases (MOELORA_SHARED_DIR names the folder above)"; exit 77; }
cases=$(realpath "$cases")
work=$(mktemp -d "${TMPDIR:-/tmp}/moelora-cases-XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
tiny=$root/tests/fixtures/chatglm-tiny
count=0
failed=0

# expect NAME CODE [TEXT | !TEXT]… -- COMMAND…: texts are extended regular expressions
expect() {
  local name=$1 code=$2 status=0 texts=() text problem=
  shift 2
  while [ "$1" != -- ]; do texts+=("$1"); shift; done
  shift
  timeout 120 "$@" >"$name.out" 2>&1 </dev/null || status=$?
  [ "$status" = "$code" ] || problem="exit code $status, expected $code"
  for text in "${texts[@]}"; do
    if [ "${text#!}" != "$text" ]; then
      ! grep -Eq -- "${text#!}" "$name.out" || problem="$problem; says '${text#!}'"
    else
      grep -Eq -- "$text" "$name.out" || problem="$problem; does not say '$text'"
    fi
  done
  # No library's own text reaches a user.
  ! grep -Eq 'json\.exception|terminate called|basic_string|std::|filesystem error|sentencepiece_processor' "$name.out" ||
    problem="$problem; raw text of a library"
  count=$((count + 1))
  if [ -n "$problem" ]; then
    failed=$((failed + 1))
    echo "cases: $name: ${problem#; }" >&2
    head -c 1500 "$name.out" | sed 's/^/    /' >&2
  fi
}

same() {
  count=$((count + 1))
  cmp -s "$2" "$3" || { failed=$((failed + 1)); echo "cases: $1: $2 and $3 differ" >&2; }
}

import() { expect "$1" "$2" "${@:3}" -- "$moelora" import --adapter "$cases/$1" --output "imported/$1"; }
# A training of four steps on the tiny base that ships with the repository.
cat >train.json <<JSON
{"model": {"path": "$root/examples/tiny_base/model"},
 "adapter": {"rank": 4, "num_experts": 2, "alpha": 8, "task_embedding_dim": 8},
 "data": {"train": "", "validation_size": 4, "max_source_length": 256, "max_target_length": 64},
 "training": {"steps": 4, "batch_size": 4, "learning_rate": 5e-3, "checkpoint_every": 2, "threads": 1}}
JSON
train() { expect "$1" "$2" "${@:4}" -- "$moelora" train --config train.json --set "data.train=$cases/$3" --output "run/$1"; }
score() { expect "$1" "$2" "${@:4}" -- "$moelora" eval --predictions "$cases/$3" --data "$cases/$3" --json "$1.json"; }

# Adapters, as people save them
import a01-default-name 0 'Wrote'
import a02-orig-mod 0 'Wrote'
import a02b-module 0 'Wrote'
import a03-empty-bin 2 'adapter_model\.bin' 'empty|no tensors?'
import a04-rank-pattern 0 'Wrote'
import a08-typo-target 0 'q_proj' 'Wrote'
# What the clean names give.
expect clean-adapter 0 'Wrote' -- "$moelora" import --adapter "$root/tests/fixtures/lora-tiny" --output imported/clean
for name in a01-default-name a02-orig-mod a02b-module; do
  same "$name" "imported/$name/adapter.safetensors" imported/clean/adapter.safetensors
done
import a12-zero-B 0 'changes nothing|zero' 'Wrote'
import a19-chatglm2 2 'ChatGLM2'
import a24-lfs 2 'Git LFS pointer' 'git lfs pull'
import a26-lm-head 2 'lm_head'

# Whole checkpoints
answer() { "$moelora" generate --model "$1" --prompt 5 --max-new-tokens 3; }
expect b03-module 0 -- bash -c "$(declare -f answer); moelora='$moelora' answer '$cases/b03-module' 2>/dev/null"
expect clean 0 -- bash -c "$(declare -f answer); moelora='$moelora' answer '$tiny' 2>/dev/null"
same b03-module b03-module.out clean.out
expect b07b-prefix-weights 2 'prefix_encoder' -- "$moelora" generate --model "$cases/b07b-prefix-weights" --prompt 5
expect b07c-prefix-only 2 'prefix' 'import' -- "$moelora" generate --model "$cases/b07c-prefix-only" --prompt 5
import b07c-prefix-only 0 'Wrote'

# Records
train d01b-utf16 0 d01b-utf16/train.json
train d02c-pretty 0 d02c-pretty/train.json
train d02e-two-arrays 0 d02e-two-arrays/train.json 'training: 60 records'
train d09-long 0 d09-long/train.json 'cut'
train d15-lfs 2 d15-lfs/train.json 'Git LFS pointer'
train d19-task-variants 0 d19-task-variants/train.json 'warning'
score two-arrays 0 x-arrays/two-arrays.json 'average .* 6 '
score stray-bracket 2 x-arrays/stray-bracket.json 'stray-bracket\.json:3:231: '
score d04-test-no-target 2 d04-test-no-target/train.json 'target'

# Splits
train dups 0 x-splits/dups.json
train long-tail 0 x-splits/long-tail.json
train only-meddg 0 x-splits/only-meddg.json
train same-input 0 x-splits/same-input.json

# A validation loss that is no number
mkdir nan
cp -r "$tiny" nan/BASE
cp "$cases"/x-nan-validation/* nan/
rm nan/BASE/*.bin*
python3 - nan/BASE <<'PYTHON'
# NaN in the embedding row of the piece "5".
import json, pathlib, struct, sys

folder = pathlib.Path(sys.argv[1])


def fields(data):
    """(number, bytes) of the length-delimited fields of a protocol buffer's message; others are passed over."""
    at = 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = number()
        kind = key & 7
        if kind == 2:
            size = number()
            yield key >> 3, data[at:at + size]
            at += size
        elif kind == 0:
            number()
        else:
            at += 4 if kind == 5 else 8


pieces = [dict(fields(piece))[1].decode() for number, piece in fields((folder / "ice_text.model").read_bytes())
          if number == 1]
row = pieces.index("5")
path = folder / "model.safetensors"
data = bytearray(path.read_bytes())
(size,) = struct.unpack("<Q", data[:8])
entry = json.loads(data[8:8 + size])["transformer.word_embeddings.weight"]
assert entry["dtype"] == "F32", entry["dtype"]
width = entry["shape"][1]
begin = 8 + size + entry["data_offsets"][0] + 4 * width * row
data[begin:begin + 4 * width] = struct.pack("<f", float("nan")) * width
path.write_bytes(data)
PYTHON
expect x-nan-validation 2 'warning.*validation' 'not finite' -- \
  env -C nan "$moelora" train --config nan-valid-config.json --output out

# Names that are paths
for up in .. ../../../../../..; do
  rm -rf escape
  mkdir escape
  cp "$cases"/x-escape/* escape/
  python3 - "$root" "$up" escape <<'PYTHON'
import json, pathlib, sys

root, up, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
for path in folder.glob("escape*.json"):
    text = path.read_text().replace("../escaped", up + "/escaped")
    path.unlink()
    path.write_text(text)
config = json.loads((folder / "escape.json").read_text())
config["model"]["path"] = root + "/examples/tiny_base/model"
(folder / "escape.json").write_text(json.dumps(config))
PYTHON
  expect "x-escape-${up//[^.]/}" 0 -- env -C escape "$moelora" experiment --config escape.json --output deep/er/out
  count=$((count + 1))
  outside=$(find . -name escaped)
  [ -z "$outside" ] || { failed=$((failed + 1)); echo "cases: x-escape: the task's name became a path: $outside" >&2; }
done

# Readers whose memory and time are bounded by the file
expect st-header 2 -- bash -c "ulimit -v 4000000; ulimit -t 10; exec '$moelora' inspect '$cases/x-readers/st-header'"
expect pickle-bomb 2 '!out of memory' -- bash -c "ulimit -v 4000000; ulimit -t 10; exec '$moelora' inspect '$cases/x-readers/pickle-bomb'"

[ "$failed" = 0 ] || { echo "cases: $failed of $count not as expected" >&2; exit 1; }
echo "cases: $count checks, all as expected"
