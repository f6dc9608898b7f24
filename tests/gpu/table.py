#!/usr/bin/env python3
"""Turns what tests/gpu/run.sh measured into tables.

    tests/gpu/table.py build/gpu/results.json                  prints them
    tests/gpu/table.py build/gpu/results.json --write          puts them into tests/benchmarks/README.md
    tests/gpu/table.py --collect build/gpu                     joins lines and logs into results.json (run.sh does)
"""

import argparse
import json
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "benchmarks" / "README.md"
BEGIN, END = "<!-- tests/gpu/table.py: begin -->", "<!-- tests/gpu/table.py: end -->"


def collect(folder):
    """All lines of results.jsonl, the largest differences of each `verify`, and the ratio to PEFT."""
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines() if line.strip()]
    result = {"hardware": next((line for line in lines if "card" in line), {}),
              "checks": [line for line in lines if "check" in line],
              "rows": [line for line in lines if "row" in line]}
    for check in result["checks"]:
        report = folder / "logs" / (check["check"] + ".json")
        if report.exists():
            comparisons = json.loads(report.read_text())["comparisons"]
            check["largest_difference"] = max((one["difference"] for one in comparisons), default=0.0)
            check["comparisons"] = len(comparisons)
    ours = {line.get("dtype"): line for line in steps_of(lines)}
    for peft in (line for line in lines if "peft_samples_per_second" in line):
        step = ours.get(peft["dtype"])
        if step:
            value = step["samples_per_second"] / peft["peft_samples_per_second"]
            result["rows"].append({"row": 9, "measure": f"samples per second / {peft['what']} ({peft['dtype']})",
                                   "value": value, "better": "larger", "bar": 2.0, "stretch": 4.0,
                                   "holds": value >= 2.0, "ours_samples_per_second": step["samples_per_second"],
                                   "yardstick_samples_per_second": peft["peft_samples_per_second"]})
    return result


def steps_of(lines):
    """Lines of row 8 that have a speed, each with the dtype of the program that printed it."""
    dtype = None
    for line in lines:
        dtype = line.get("dtype", dtype) if "card" in line else dtype
        if "samples_per_second" in line:
            yield {**line, "dtype": dtype}


def number(value):
    return f"{value:.3g}"


def tables(result):
    hardware = result["hardware"]
    text = [f"{hardware.get('card', 'no card')} (compute capability {hardware.get('capability', '?')}, "
            f"{hardware.get('card_memory_gib', 0):.0f} GiB), LibTorch {hardware.get('libtorch', '?')}", "",
            "| row | measure | measured (95 % interval) | bar |", "|---|---|---|---|"]
    for row in sorted(result["rows"], key=lambda row: row["row"]):
        if "skipped" in row:
            text.append(f"| {row['row']} | {row['measure']} | not measured: {row['skipped']} | |")
            continue
        interval = f" ({number(row['low'])} – {number(row['high'])})" if "low" in row else ""
        unit = " " + row["unit"] if "unit" in row else ""
        bound = "≤" if row["better"] == "smaller" else "≥"
        missed = "" if row["holds"] else ", missed"
        text.append(f"| {row['row']} | {row['measure']} | {number(row['value'])}{unit}{interval} | "
                    f"{bound} {number(row['bar'])}{unit}{missed} |")
    text += ["", "| check | result |", "|---|---|"]
    for check in result["checks"]:
        if "skipped" in check:
            outcome = "not run: " + check["skipped"]
        else:
            outcome = "passed" if check["passed"] else f"FAILED (exit code {check['exit_code']})"
            if "largest_difference" in check:
                outcome += f"; {check['comparisons']} comparisons, largest difference {number(check['largest_difference'])}"
        text.append(f"| {check['check']} | {outcome} |")
    return "\n".join(text)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("results", nargs="?", type=Path)
    arguments.add_argument("--collect", type=Path)
    arguments.add_argument("--write", action="store_true")
    options = arguments.parse_args()
    if options.collect:
        print(json.dumps(collect(options.collect), indent=1, ensure_ascii=False))
        return 0
    if not options.results:
        arguments.error("which results?")
    text = tables(json.loads(options.results.read_text()))
    if not options.write:
        print(text)
        return 0
    readme = README.read_text()
    if BEGIN not in readme or END not in readme:
        print(f"{README} lacks the lines {BEGIN} and {END}", file=sys.stderr)
        return 1
    before, rest = readme.split(BEGIN)
    README.write_text(before + BEGIN + "\n" + text + "\n" + END + rest.split(END)[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
