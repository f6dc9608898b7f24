#!/usr/bin/env bash
# A family of models that the library does not have, through every verb. Usage: run.sh TOY_MOELORA TOY_GOLDEN WORK_FOLDER
set -euo pipefail
moelora=$1
golden=$2
work=$3
here=$(cd "$(dirname "$0")" && pwd)
export OMP_NUM_THREADS=1
rm -rf "$work"
mkdir -p "$work/tokenizer"
cd "$work"
echo '{}' >tokenizer/bytes.json

python3 - <<'PYTHON'
import json, random
random.seed(1)
for name, count in (("train", 160), ("dev", 24)):
    with open(name + ".json", "w") as file:
        for i in range(count):
            task = ("first", "last")[i % 2]
            word = "".join(random.choice("abcd") for _ in range(4))
            answer = word[0] if task == "first" else word[-1]
            file.write(json.dumps({"input": word, "target": answer, "answer_choices": list("abcd"), "task_type": "cls",
                                   "task_dataset": task, "sample_id": f"{name}-{i}"}) + "\n")
PYTHON
training='"batch_size": 16, "micro_batch_tokens": 512, "warmup_steps": 2, "log_every": 20'
cat >base.json <<END
{ "mode": "full",
  "model": { "init": { "model_type": "toy_decoder", "vocab_size": 260, "hidden_size": 32, "layers": 2, "heads": 4,
                       "kv_heads": 2, "head_dim": 12, "max_sequence_length": 256, "torch_dtype": "float32" },
             "tokenizer": "tokenizer", "seed": 1 },
  "data": { "train": "train.json", "validation_size": 16, "max_source_length": 32, "max_target_length": 8 },
  "training": { "steps": 40, "learning_rate": 5e-3, $training } }
END
cat >adapter.json <<END
{ "model": { "path": "base/model" },
  "adapter": { "rank": 8, "num_experts": 4, "alpha": 32, "dropout": 0.1, "task_embedding_dim": 8,
               "targets": ["q", "k", "v", "o", "up", "down"] },
  "data": { "train": "train.json", "validation_size": 16, "max_source_length": 32, "max_target_length": 8 },
  "training": { "steps": 120, "learning_rate": 2e-2, $training } }
END

say() { printf '== %s\n' "$*"; }
expect() { grep -qF -- "$2" "$1" || { echo "$1 lacks '$2':"; cat "$1"; exit 1; }; }

say "train a base from scratch, then an adapter"
"$moelora" train --config base.json --output base
"$moelora" inspect base/model | tee inspect.txt
expect inspect.txt "toy decoder"
"$moelora" train --config adapter.json --output run

say "verify against plain operations"
"$golden" base/model
"$moelora" verify base/model --json verify.json
python3 - <<'PYTHON'
import json
report = json.load(open("verify.json"))
assert len(report["comparisons"]) >= 8, report
PYTHON
rm base/model/golden.safetensors

say "eval: the adapter has learned which letter is asked for"
"$moelora" eval --model base/model --adapter run/adapter --data dev.json --output after --json scores.json
python3 - <<'PYTHON'
import json
average = json.load(open("scores.json"))["average"]
assert average > 0.6, f"expected an average above 0.6 (chance is 0.25), found {average}"
PYTHON

say "generate, merge (answers compared token by token), export"
"$moelora" generate --model base/model --adapter run/adapter --task last --prompt abca | tee answer.txt
[ -s answer.txt ]
"$moelora" merge --model base/model --adapter run/adapter --all-tasks --check dev.json --output merged
"$moelora" eval --model merged/last --data dev.json --output merged-last >/dev/null
"$moelora" export --adapter run/adapter --format peft --task last --output peft
say "a folder of no family is refused by name"
mkdir -p other
echo '{"model_type": "unheard_of"}' >other/config.json
if "$moelora" inspect other >refused.txt 2>&1; then echo "accepted"; exit 1; fi
expect refused.txt "the toy decoder"
say "all verbs work on the toy decoder"
