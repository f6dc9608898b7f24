#!/usr/bin/env python3
"""Kills the program (SIGKILL) at random moments in every kind of long work, with a full disk, a read-only disk and a
second writer mixed in. After each kill no file under a final name is torn; at the end every run has the bytes of an
undisturbed one; nothing that was refused has changed anything.

    tests/e2e/campaign.py build/bin/moelora [--kills 200] [--seed 1] [--only train,eval,…]

Kinds of work: train, ranks (two processes), experiment, merge, eval, generate. A full and a read-only disk need a
small file system of their own, which is mounted where that is allowed (as root on Linux); otherwise that part is
skipped, visibly. Exit codes: 0 all holds, 1 something does not.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DISK_MEGABYTES = 96
TIMEOUT_S = 120


class Failure(Exception):
    pass


def environment(**more):
    env = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {**env, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "MOELORA_RANK_TIMEOUT": "5", **more}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Processes:
    """One command, started once or as several ranks, in a session of its own."""

    def __init__(self, command, log, ranks=1):
        self.children = []
        port = str(free_port())
        for rank in range(ranks):
            more = {}
            if ranks > 1:
                more = {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            with open(f"{log}.{rank}", "ab") as stream:
                child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
                                         env=environment(**more), start_new_session=True)
            self.children.append(child)

    def running(self):
        return any(child.poll() is None for child in self.children)

    def kill(self, which=None):
        for rank, child in enumerate(self.children):
            if which is None or rank == which:
                try:
                    os.killpg(child.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    def wait(self):
        """The exit codes; negative: ended by that signal."""
        end = time.monotonic() + TIMEOUT_S
        codes = []
        for child in self.children:
            try:
                codes.append(child.wait(timeout=max(0.1, end - time.monotonic())))
            except subprocess.TimeoutExpired:
                self.kill()
                raise Failure(f"did not end within {TIMEOUT_S} s: {child.args}")
        return codes


def is_temporary(path):
    return any(".tmp-" in part or part.endswith((".partial", ".lock")) or part == ".lock" for part in path.parts)


def torn(path):
    """What is wrong with a file that a user would take as whole; empty: nothing."""
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        if len(data) < 8:
            return "shorter than its header"
        (size,) = struct.unpack("<Q", data[:8])
        try:
            header = json.loads(data[8:8 + size])
        except ValueError:
            return "a header that is no JSON"
        end = max([entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"], default=0)
        return "" if len(data) == 8 + size + end else f"{len(data)} bytes, expected {8 + size + end}"
    if path.suffix == ".json":
        text = data.decode("utf-8", errors="strict")
        try:
            json.loads(text)
        except ValueError:
            try:
                for line in text.splitlines():
                    json.loads(line)
            except ValueError as error:
                return f"no JSON: {error}"
    return ""


def snapshot(folder):
    """Names and digests of all files that are not temporary."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.is_symlink() and not is_temporary(path.relative_to(folder))}


class Work:
    """One kind of work. `output` is reset by the campaign before each run."""

    name = ""
    ranks = 1
    resumable = True

    def __init__(self, program, inputs):
        self.program = str(program)
        self.inputs = inputs

    def command(self, output, resume):
        raise NotImplementedError

    def result(self, output):
        """What must be equal, as {name: text or digest}."""
        raise NotImplementedError

    def is_finished(self, output):
        """Whether a refused resume only says that nothing is left to do: a kill may come after the last write."""
        return False


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Train(Work):
    name = "train"

    def command(self, output, resume):
        return [self.program, "train", "--config", str(self.inputs / "train.json"), "--output", str(output)] + (
            ["--resume"] if resume else [])

    def result(self, output):
        log = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
        for line in log:
            line.pop("seconds", None)
        return {"adapter": digest(output / "adapter" / "adapter.safetensors"), "log": json.dumps(log)}


class Ranks(Train):
    name = "ranks"
    ranks = 2


class Experiment(Work):
    name = "experiment"

    def command(self, output, resume):
        return [self.program, "experiment", "--config", str(self.inputs / "experiment.json"), "--output", str(output)
                ] + (["--resume"] if resume else [])

    def result(self, output):
        found = {}
        for path in sorted((output / "cells").rglob("result.json")):
            result = json.loads(path.read_text())
            for key in ("seconds", "training_seconds", "peak_memory_bytes"):
                result.pop(key, None)
            found[str(path.relative_to(output))] = json.dumps(result, sort_keys=True)
        for path in sorted((output / "cells").rglob("predictions.json")):
            found[str(path.relative_to(output))] = digest(path)
        if not found:
            raise Failure("no cell has a result")
        return found


class Merge(Work):
    name = "merge"
    resumable = False

    def command(self, output, resume):
        return [self.program, "merge", "--model", str(self.inputs / "base"), "--adapter",
                str(self.inputs / "adapter"), "--all-tasks", "--output", str(output)]

    def result(self, output):
        return {name: value for name, value in snapshot(output).items() if name.endswith(".safetensors")}


class Eval(Work):
    name = "eval"

    def command(self, output, resume):
        return [self.program, "eval", "--model", str(self.inputs / "base"), "--adapter", str(self.inputs / "adapter"),
                "--data", str(self.inputs / "dev.json"), "--output", str(output), "--batch-size", "4",
                "--max-new-tokens", "24"] + (["--resume"] if resume else [])

    def result(self, output):
        report = json.loads((output / "report.json").read_text())
        return {"predictions": digest(output / "predictions.json"), "scores": json.dumps(report["scores"])}

    def is_finished(self, output):
        return (output / "report.json").exists() and not (output / "answers.partial").exists()


class Generate(Work):
    name = "generate"

    def command(self, output, resume):
        return [self.program, "generate", "--model", str(self.inputs / "base"), "--adapter",
                str(self.inputs / "adapter"), "--input", str(self.inputs / "dev.json"), "--output",
                str(output / "answers.json"), "--batch-size", "4", "--max-new-tokens", "24"] + (
                    ["--resume"] if resume else [])

    def result(self, output):
        return {"answers": digest(output / "answers.json")}

    def is_finished(self, output):
        return (output / "answers.json").exists() and not (output / "answers.json.partial").exists()


KINDS = [Train, Ranks, Experiment, Merge, Eval, Generate]
SHARE = {"train": 0.3, "ranks": 0.1, "experiment": 0.15, "merge": 0.15, "eval": 0.2, "generate": 0.1}


class Disk:
    """A folder on a small file system, which can be filled and made read-only; a plain folder where none is to be had."""

    def __init__(self, path):
        self.path = path
        path.mkdir()
        self.own = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "moelora", str(path)],
                                  stderr=subprocess.DEVNULL, check=False).returncode == 0

    def fill(self):
        try:
            with open(self.path / "filler", "wb", buffering=0) as stream:
                while stream.write(b"\0" * 65536):
                    pass
        except OSError:
            pass

    def drain(self):
        (self.path / "filler").unlink()

    def read_only(self, on):
        end = time.monotonic() + 10
        command = ["mount", "-o", "remount," + ("ro" if on else "rw"), str(self.path)]
        while subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode != 0:
            if time.monotonic() > end:  # processes of a killed one may need a moment to die
                raise Failure(f"the disk can't be remounted {'read-only' if on else 'read-write'}: it is in use")
            time.sleep(0.05)

    def close(self):
        if self.own:
            subprocess.run(["umount", "-l", str(self.path)], check=False)


class Campaign:
    def __init__(self, work_folder, chance):
        self.folder = work_folder
        self.disk = Disk(work_folder / "disk")
        self.chance = chance
        self.counts = Counter()
        if not self.disk.own:
            print("campaign: SKIPPED full and read-only disk: no file system can be mounted here", flush=True)

    def log_of(self, work):
        return self.folder / f"{work.name}.log"

    def end_of_log(self, work):
        text = ""
        for rank in range(work.ranks):
            path = Path(f"{self.log_of(work)}.{rank}")
            text += path.read_text(errors="replace")[-1500:] if path.exists() else ""
        return text

    def check_whole(self, work, output, what):
        if not output.exists():
            return
        for path in sorted(output.rglob("*")):
            if path.is_file() and not is_temporary(path.relative_to(output)):
                problem = torn(path)
                if problem:
                    raise Failure(f"{work.name}: {path} after {what}: {problem}")

    def clear(self, output):
        subprocess.run(["rm", "-rf", str(output)], check=True)
        if output.name == "generate":
            output.mkdir()

    def undisturbed(self, work):
        output = self.folder / f"{work.name}-undisturbed"
        self.clear(output)
        if work.name == "generate":
            output.mkdir(exist_ok=True)
        begin = time.monotonic()
        codes = Processes(work.command(output, False), self.log_of(work), work.ranks).wait()
        if any(codes):
            raise Failure(f"{work.name}: the undisturbed run ended with {codes}\n{self.end_of_log(work)}")
        return work.result(output), time.monotonic() - begin

    def refused(self, work, output, resume, codes_allowed, what):
        """Runs the command where it can't succeed. What was there must stay as it was."""
        before = snapshot(output) if output.exists() else {}
        codes = Processes(work.command(output, resume), self.log_of(work), work.ranks).wait()
        self.counts[what] += 1
        if not any(codes):
            return True  # nothing was left to write
        if any(code < 0 for code in codes):
            raise Failure(f"{work.name}: a signal ended it on {what}: {codes}")
        if not all(code in codes_allowed for code in codes if code):
            raise Failure(f"{work.name}: ended with {codes} on {what}\n{self.end_of_log(work)}")
        after = snapshot(output) if output.exists() else {}
        lost = [name for name in before if name not in after]
        kept = [name for name in lost if not name.startswith("checkpoints/") and "/checkpoints/" not in name]
        if kept:
            raise Failure(f"{work.name}: {kept} lost on {what}")
        self.check_whole(work, output, what)
        return False

    def disturb(self, work, output, resume):
        kinds = ["second writer"] + (["full disk", "read-only disk"] if self.disk.own else [])
        what = self.chance.choice(kinds)
        if what == "full disk":
            self.disk.fill()
            try:
                return self.refused(work, output, resume, (1, 2), what)
            finally:
                self.disk.drain()
        if what == "read-only disk":
            self.disk.read_only(True)
            try:
                return self.refused(work, output, resume, (1, 2), what)
            finally:
                self.disk.read_only(False)
        first = Processes(work.command(output, resume), self.log_of(work), work.ranks)
        lock = output / ".lock" if work.name != "generate" else None
        end = time.monotonic() + 5
        while lock and first.running() and not lock.exists() and time.monotonic() < end:
            time.sleep(0.002)
        log = self.folder / "second.log"
        Path(f"{log}.0").unlink(missing_ok=True)
        held = lock is not None and lock.exists()
        # As many ranks as the first: should it have ended by itself, this one may rightly go on.
        code = Processes(work.command(output, resume), log, work.ranks).wait()[0]
        held = held and lock.exists()  # all the time: nobody else makes that file
        first.kill()
        first.wait()
        if held:
            text = Path(f"{log}.0").read_text(errors="replace")
            if code != 2 or ("in use by" not in text and "exists and is not an empty folder" not in text):
                raise Failure(f"{work.name}: a second writer ended with {code}: {text[-800:]}")
            self.counts["second writer"] += 1
        self.counts["kills"] += 1
        self.counts[f"kills of {work.name}"] += 1
        self.check_whole(work, output, what)
        return False

    def one_run(self, work, reference, seconds, kills):
        """From nothing to the end with up to `kills` kills on the way; returns how many there were."""
        output = self.disk.path / work.name
        self.clear(output)
        done = 0
        resume = False
        while True:
            if not work.resumable:
                self.clear(output)
            elif resume and not output.exists():
                resume = False
            last = done >= kills
            if not last and self.chance.random() < 0.25:
                before = self.counts["kills"]
                if self.disturb(work, output, resume):
                    break
                done += self.counts["kills"] - before
                resume = work.resumable and output.exists()
                continue
            processes = Processes(work.command(output, resume), self.log_of(work), work.ranks)
            killed = False
            if not last:
                # Anywhere from the start to a little over half of a whole run, so that a run takes several kills.
                end = time.monotonic() + self.chance.uniform(0.02, 0.6 * seconds if work.resumable else seconds)
                while processes.running() and time.monotonic() < end:
                    time.sleep(0.002)
                if processes.running():
                    only = self.chance.randrange(work.ranks) if work.ranks > 1 and self.chance.random() < 0.5 else None
                    processes.kill(only)
                    killed = True
            codes = processes.wait()
            if killed and any(codes):
                done += 1
                self.counts["kills"] += 1
                self.counts[f"kills of {work.name}"] += 1
                self.check_whole(work, output, "a kill")
                resume = work.resumable
                continue
            if any(codes) and not (resume and work.is_finished(output)):
                raise Failure(f"{work.name}: ended with {codes}\n{self.end_of_log(work)}")
            break
        found = work.result(output)
        if found != reference:
            different = [name for name in reference if found.get(name) != reference[name]]
            raise Failure(f"{work.name}: {different or 'the files'} differ from the undisturbed run's after {done} kills")
        left = [str(path) for path in output.rglob("*") if is_temporary(path.relative_to(output))]
        if left:
            raise Failure(f"{work.name}: left behind at the end: {left}")
        self.counts[f"runs of {work.name}"] += 1
        return done


def make_inputs(folder, program):
    """A tiny base, records with answers of different lengths, an adapter and the configurations."""
    folder.mkdir()
    base = ROOT / "tests" / "fixtures" / "chatglm-tiny"
    (folder / "base").symlink_to(base)
    lines = []
    for i in range(240):
        task = i % 3
        lines.append({"input": f"{i} {i * 7 % 31} {i * i % 17}", "target": str(i * 7 % 31 + task),
                      "task_dataset": f"task-{task}", "sample_id": str(i)})
    write = lambda name, rows: (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    write("records.json", lines)
    write("dev.json", [{**row, "sample_id": f"dev-{row['sample_id']}"} for row in lines[:120]])
    adapter = {"rank": 8, "num_experts": 4, "alpha": 16, "dropout": 0.1, "task_embedding_dim": 8}
    data = {"train": str(folder / "records.json"), "validation_size": 12, "max_source_length": 64,
            "max_target_length": 32}
    training = {"steps": 120, "batch_size": 8, "micro_batch_tokens": 96, "learning_rate": 1e-3, "warmup_steps": 5,
                "checkpoint_every": 7, "validate_every": 10, "log_every": 3, "threads": 1, "seed": 11}
    (folder / "train.json").write_text(json.dumps(
        {"model": {"path": str(base)}, "adapter": adapter, "data": data, "training": training}))
    (folder / "experiment.json").write_text(json.dumps(
        {"model": {"path": str(base)}, "adapter": adapter, "data": data, "evaluation": str(folder / "dev.json"),
         "training": {**training, "steps": 12, "checkpoint_every": 3},
         "methods": ["base", "lora-full", "lora-single", "task-arithmetic", "moelora-d"],
         "composition": {"lambdas": [0.3, 1.0]}, "costs": False, "jobs": 2}))
    run = subprocess.run([program, "train", "--config", folder / "train.json", "--set", "training.steps=20", "--output",
                          folder / "run"], env=environment(), capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise Failure(f"no adapter to work with: {run.stderr}")
    (folder / "adapter").symlink_to(folder / "run" / "adapter")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", type=Path, help="a new folder for everything that a failure leaves")
    options = parser.parse_args()
    program = options.program.resolve()
    only = [name for name in options.only.split(",") if name]
    kinds = [kind for kind in KINDS if not only or kind.name in only]
    if not kinds:
        parser.error(f"--only: expected some of {', '.join(SHARE)}, found {options.only}")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    if "process groups: gloo" not in version and Ranks in kinds:
        print("campaign: SKIPPED ranks: this build has no process groups", flush=True)
        kinds.remove(Ranks)
    with tempfile.TemporaryDirectory(prefix="moelora-campaign-") as temporary:
        folder = Path(temporary)
        campaign = None
        try:
            make_inputs(folder / "inputs", program)
            campaign = Campaign(folder, random.Random(options.seed))
            whole = sum(SHARE[kind.name] for kind in kinds)
            for kind in kinds:
                work = kind(program, folder / "inputs")
                reference, seconds = campaign.undisturbed(work)
                wanted = max(1, round(options.kills * SHARE[work.name] / whole))
                begin = time.monotonic()
                done = 0
                while done < wanted:
                    done += campaign.one_run(work, reference, seconds, min(4, wanted - done))
                print(f"campaign: {work.name}: {done} kills, {campaign.counts[f'runs of {work.name}']} runs, all equal "
                      f"to the undisturbed one ({seconds:.1f} s); took {time.monotonic() - begin:.0f} s", flush=True)
            parts = ", ".join(f"{count} {what}" for what, count in sorted(campaign.counts.items()) if "of" not in what)
            print(f"campaign: {parts}: nothing torn, same final bytes")
        except Failure as failure:
            print(f"campaign: FAILED: {failure}", file=sys.stderr)
            if options.keep:
                subprocess.run(["cp", "-r", str(folder), str(options.keep)], check=False)
            return 1
        finally:
            if campaign:
                campaign.disk.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
