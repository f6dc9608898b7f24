#!/usr/bin/env python3
"""Makes six tasks that ask different things of the same texts: python3 examples/pretrained/make_questions.py FOLDER

Writes train.json and dev.json: one JSON object per line, in Alpaca's fields (instruction, input, output) with `task` and,
where answers are fixed, `choices`. Every text stands there once for each task. A prompt without the instruction does not
say what is asked: then only the task does, and what is learned for one task is wrong for the others. The same bytes
wherever it runs. No text of dev.json is in train.json.
"""
import sys

from make_tasks import CITIES, ITEMS, NAMES, drawer, write

TRAIN, DEV = 160, 40  # texts; a record of each for every task
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

TASKS = {  # the question, and where its answer is in (name, city, count, item, day)
    "who": ("Who orders?", 0),
    "where": ("Which city is it for?", 1),
    "how many": ("How many pieces?", 2),
    "what": ("What is ordered?", 3),
    "when": ("On which day is it due?", 4),
    "size": ("Is the order large (thirty and more) or small?", None),
}


def order(draw):
    name, city, count, item, day = draw(NAMES), draw(CITIES), draw(range(2, 60)), draw(ITEMS), draw(DAYS)
    text = draw(["{n} in {c} needs {k} {i} by {d}.", "Please send {k} {i} to {c} on {d}, says {n}.",
                 "{d}, {c}: {k} {i} for {n}.", "{n} ran out of {i}; ship {k} to {c} before {d}."])
    return text.format(n=name, c=city, k=count, i=item, d=day), (name, city, count, item, day)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    draw = drawer("questions")
    orders = {}
    while len(orders) < TRAIN + DEV:
        text, facts = order(draw)
        orders.setdefault(text, facts)
    parts = {"train.json": [], "dev.json": []}
    for i, (text, facts) in enumerate(orders.items()):
        for task, (question, place) in TASKS.items():
            answer = str(facts[place]) if place is not None else "large" if facts[2] >= 30 else "small"
            record = {"instruction": question, "input": text, "output": answer, "task": task}
            if place is None:
                record["choices"] = ["small", "large"]
            parts["train.json" if i < TRAIN else "dev.json"].append(record)
    write(sys.argv[1], parts)


if __name__ == "__main__":
    main()
