#!/usr/bin/env python3
"""Makes the sample data: eight clinical tasks in PromptCBLUE's format (train, dev) and text for a tiny base.

All text is put together from the word lists and templates of this folder; the same seed gives the same bytes.
Needs only Python's standard library.
"""

import argparse
import json
import os
import random
import sys

import clinical_words as words
import eight_tasks
import pretraining_text

DEV_PER_TASK = 22


def record(source, target, choices, task_type, dataset, sample_id):
    return {"input": source, "target": target, "answer_choices": choices, "task_type": task_type,
            "task_dataset": dataset, "sample_id": sample_id}


def make_tasks(seed, per_task):
    """Records of train and dev, shuffled. The cores (inputs without instruction) of the two are disjoint."""
    train, dev, dev_cores = [], [], []
    for dataset, (task_type, maker) in eight_tasks.TASKS.items():
        rng = random.Random(f"{seed} {dataset}")
        seen = set()
        for part, wanted in (("dev", DEV_PER_TASK), ("train", per_task)):
            part_cores, made = set(), 0
            while made < wanted:
                core, source, target, choices = maker(rng, made)
                if source in seen or core in seen:
                    continue
                seen.add(source)
                part_cores.add(core)
                item = record(source, target, choices, task_type, dataset, f"sample-{part}-{dataset}-{made}")
                (dev if part == "dev" else train).append(item)
                made += 1
            if part == "dev":  # train may repeat a core under another instruction, but none of dev's
                seen |= part_cores
                dev_cores += sorted(part_cores)
    random.Random(f"{seed} order").shuffle(train)
    return train, dev, dev_cores


def make_text(seed, count, dev_cores):
    """Records for a tiny base, without any sentence of dev."""
    rng = random.Random(f"{seed} text")
    records, seen = [], set()
    while len(records) < count:
        kind = pretraining_text.SCHEDULE[len(records) % len(pretraining_text.SCHEDULE)]
        for _ in range(50):
            source, target = pretraining_text.KINDS[kind](rng)
            fresh = source not in seen or kind == "text-know"  # few facts, so these repeat
            if fresh and not any(core in source for core in dev_cores):
                break
        seen.add(source)
        records.append(record(source, target, None, "text", kind, f"sample-text-{len(records)}"))
    return records


def make_words():
    """Words that a tokenizer for this data should never take apart, each once."""
    lists = [pretraining_text.WORDS, words.QUALIFIERS, words.PART_FINDINGS, pretraining_text.FORMAT_WORDS,
             [intent[0] for intent in words.INTENTS.values()], [kind[0] for kind in words.CRITERIA.values()]]
    return list(dict.fromkeys(word for entries in lists for word in entries))


def write(path, lines, what):
    temporary = path + ".part"
    with open(temporary, "w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
    os.replace(temporary, path)
    print(f"{path}: {len(lines)} {what}")


def write_records(path, records):
    write(path, [json.dumps(item, ensure_ascii=False) for item in records], "records")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  generate.py                               train.json and dev.json beside this program\n"
               "  generate.py --what text --output F        10,000 records of text for a tiny base\n"
               "  generate.py --what words --output F       words that a tokenizer should keep whole\n"
               "  generate.py --what train --per-task 1000 --output F")
    parser.add_argument("--what", choices=["tasks", "train", "dev", "text", "words"], default="tasks",
                        help="what to make; tasks = train.json and dev.json in the folder --output (default)")
    parser.add_argument("--output", help="file (train, dev, text, words) or folder (tasks; default: this program's folder)")
    parser.add_argument("--seed", type=int, default=2024, help="default 2024, the seed of the committed files")
    parser.add_argument("--per-task", type=int, default=300, help="training records per task (default 300)")
    parser.add_argument("--count", type=int, default=10000, help="records of text (default 10000)")
    options = parser.parse_args()
    if options.what != "tasks" and not options.output:
        parser.error(f"--what {options.what} needs --output FILE")
    if options.per_task < 1 or options.count < 1:
        parser.error("--per-task and --count must be at least 1")

    train, dev, dev_cores = make_tasks(options.seed, options.per_task)
    try:
        if options.what == "tasks":
            folder = options.output or os.path.dirname(os.path.abspath(__file__))
            os.makedirs(folder, exist_ok=True)
            write_records(os.path.join(folder, "train.json"), train)
            write_records(os.path.join(folder, "dev.json"), dev)
        elif options.what == "text":
            write_records(options.output, make_text(options.seed, options.count, dev_cores))
        elif options.what == "words":
            write(options.output, make_words(), "words")
        else:
            write_records(options.output, train if options.what == "train" else dev)
    except OSError as error:
        print(f"cannot write: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
