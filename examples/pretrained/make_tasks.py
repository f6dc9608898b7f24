#!/usr/bin/env python3
"""Makes a small set of six English tasks, without any source: python3 examples/pretrained/make_tasks.py FOLDER

Writes train.json and dev.json: one JSON object per line, in Alpaca's fields (instruction, input, output) with `task` and,
for tasks with a fixed set of answers, `choices`. The same bytes wherever it runs. No input of dev.json is in train.json.
"""
import json
import os
import random
import sys

TRAIN, DEV = 160, 40  # records of each task

CITIES = "Oslo Lisbon Vienna Prague Dublin Athens Warsaw Madrid Helsinki Zurich Milan Porto".split()
NAMES = "Anna Ben Clara David Emma Felix Grace Hugo Iris Jonas Kate Liam".split()
ITEMS = "lamps chairs notebooks mugs cables tents jackets pens towels baskets bottles clocks".split()
MONTHS = ("January February March April May June July August September October November December").split()


def sentiment(draw):
    thing = draw(["film", "hotel", "phone", "restaurant", "book", "train ride", "camera", "concert"])
    good = ["worked better than I hoped", "made the whole evening", "is worth every cent", "kept me smiling",
            "I would pick it again tomorrow", "nothing to complain about"]
    bad = ["fell apart within a day", "was a waste of money", "I want those hours back", "kept disappointing me",
           "I would not wish it on anyone", "nothing about it was right"]
    label = draw(["positive", "negative"])
    opening = draw(["Honestly, the", "After a week, the", "The", "My sister chose this, and the", "Well, the"])
    return (f"{opening} {thing} of {draw(NAMES)} in {draw(CITIES)}: {draw(good if label == 'positive' else bad)}.", label)


def intent(draw):
    forms = {"alarm": ["Wake me at {h} in {c}", "Don't let me sleep past {h}", "Ring at {h} so that I can call {n}"],
             "weather": ["Do I need an umbrella in {c} at {h}?", "How warm will {c} be when {n} lands?",
                         "Is it windy in {c} around {h}?"],
             "music": ["Play something calm for {n}", "Put on the songs that {n} liked in {c}",
                       "I want to hear jazz until {h}"],
             "travel": ["Find me a seat to {c} before {h}", "How does {n} get from here to {c}?",
                        "Book two nights in {c} for {n}"]}
    label = draw(sorted(forms))
    hour = draw([f"{h}:{m}" for h in range(1, 13) for m in ("00", "15", "30", "45")])
    return draw(forms[label]).format(h=hour, c=draw(CITIES), n=draw(NAMES)), label


def urgency(draw):
    forms = {"high": ["nobody can log in and customers are waiting", "payments are charged twice right now",
                      "the site has been down since {h}"],
             "medium": ["the export takes an hour instead of a minute", "every third message to {n} arrives late",
                        "search in {c} shows old prices"],
             "low": ["the logo on the {c} page looks blurred", "could the button be green some day, asks {n}",
                     "there is a typo in the letter to {n}"]}
    label = draw(sorted(forms))
    text = draw(forms[label]).format(h=f"{draw(range(1, 12))} o'clock", c=draw(CITIES), n=draw(NAMES))
    return f"{draw(NAMES)} from {draw(CITIES)} writes: {text}.", label


def date(draw):
    day, month, year = draw(range(1, 29)), draw(range(1, 13)), draw(range(1990, 2040))
    name = MONTHS[month - 1]
    written = draw([f"{name} {day}, {year}", f"{day} {name} {year}", f"the {day}. of {name} {year}"])
    text = draw(["The meeting in {c} is on {d}.", "{n} was born on {d}.", "We signed it on {d} in {c}.",
                 "On {d} {n} moved to {c}."])
    return text.format(d=written, c=draw(CITIES), n=draw(NAMES)), f"{year}-{month:02}-{day:02}"


def order(draw):
    count, item, city = draw(range(2, 60)), draw(ITEMS), draw(CITIES)
    text = draw(["Please send {k} {i} to {c}.", "{n} in {c} needs {k} {i} by Friday.", "{c} office: {k} {i}, signed {n}.",
                 "We ran out of {i}; ship {k} to {c}."])
    return text.format(k=count, i=item, c=city, n=draw(NAMES)), f"{count} | {item} | {city}"


def verdict(draw):
    """Needs both sentences: whether the second follows from, contradicts, or has nothing to do with the first."""
    name, other = draw(NAMES), draw(NAMES)
    count, item, city = draw(range(2, 40)), draw(ITEMS), draw(CITIES)
    label = draw(["yes", "no", "unknown"])
    claim = {"yes": [f"{name} has {item}.", f"{name} bought something in {city}."],
             "no": [f"{name} bought nothing in {city}.", f"{name} has never seen {item}."],
             "unknown": [f"{name} likes {city}.", f"{other} is a friend of {name}."]}[label]
    return f"{name} bought {count} {item} in {city}. Claim: {draw(claim)}", label


TASKS = {
    "sentiment": ("Is the review positive or negative?", sentiment, ["positive", "negative"]),
    "intent": ("What does the speaker want: alarm, weather, music or travel?", intent,
               ["alarm", "weather", "music", "travel"]),
    "urgency": ("How urgent is the ticket: high, medium or low?", urgency, ["high", "medium", "low"]),
    "date": ("Write the date as YYYY-MM-DD.", date, None),
    "order": ("Write the order as: count | item | city.", order, None),
    "verdict": ("Does the claim follow? Answer yes, no or unknown.", verdict, ["yes", "no", "unknown"]),
}


def drawer(seed):
    """draw(options), the same in every Python."""
    numbers = random.Random(seed)
    return lambda options: options[int(numbers.random() * len(options))]


def write(folder, parts):
    """Each part's records in their file, in an order of its own."""
    os.makedirs(folder, exist_ok=True)
    for name, records in parts.items():
        random.Random(name).shuffle(records)
        with open(os.path.join(folder, name), "w", encoding="utf-8", newline="\n") as file:
            for record in records:
                file.write(json.dumps(record) + "\n")
        tasks = {record["task"] for record in records}
        print(f"{os.path.join(folder, name)}: {len(records)} records of {len(tasks)} tasks")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    parts = {"train.json": [], "dev.json": []}
    for task, (instruction, make, choices) in TASKS.items():
        draw = drawer(task)
        seen = {}
        while len(seen) < TRAIN + DEV:
            text, answer = make(draw)
            seen.setdefault(text, answer)
        for i, (text, answer) in enumerate(seen.items()):
            record = {"instruction": instruction, "input": text, "output": answer, "task": task}
            if choices:
                record["choices"] = choices
            parts["train.json" if i < TRAIN else "dev.json"].append(record)
    write(sys.argv[1], parts)


if __name__ == "__main__":
    main()
