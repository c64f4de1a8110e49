"""How fast a batch learns, against calls of `invert` and against one warm process; and workers against one worker.

python benchmarks/batch.py speed [--pictures 64] [--calls 64] [--warm 8] [--steps 100]
python benchmarks/batch.py workers [--pictures 64] [--steps 100]
python benchmarks/batch.py step [--tries 6]

Times are of the processors (user and system, children included) and of the clock; on a machine that others use too, only the
first can be compared. Threads are those of OMP_NUM_THREADS.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "batch"

WARM = """
import json, sys, time
from pathlib import Path
import sentinv
from sentinv.initializers import make
from sentinv.report.outputs import Outputs, write_result
from sentinv.report.run_page import Report
from sentinv.training.invert import find_start, learn, pictures_of
from sentinv.training.samples import sample_images
backbone, say = sentinv.load("toybox"), make("caption", "toybox")
config = sentinv.TrainConfig(steps=int(sys.argv[2]))
folder, paths = Path(sys.argv[1]), sys.argv[3:]
learn(backbone, pictures_of(paths[0]), find_start(backbone, pictures_of(paths[0]), say), sentinv.TrainConfig(steps=2))
laps = []
for path in paths:
    begun, clock = time.process_time(), time.perf_counter()
    pictures = pictures_of(path)
    learned = learn(backbone, pictures, find_start(backbone, pictures, say), config, token="<c>")
    name = folder / (Path(path).stem + ".safetensors")
    learned.concept.save(name)
    word, word_clock = time.process_time() - begun, time.perf_counter() - clock
    outputs = Outputs(name)
    with outputs.held(resume=False):
        write_result(outputs, Report(learned=learned, samples=sample_images(backbone, learned, 4), seconds={}))
    laps.append([word, word_clock, time.process_time() - begun, time.perf_counter() - clock])
print(json.dumps(laps))
"""


def pictures(folder: Path, count: int) -> list[Path]:
    """Copy so many different pictures of the studies' concepts into a folder."""
    found = [path for part in ("image", "view-?", "edit-?") for path in sorted(HERE.glob(f"concepts/*/{part}.png"))]
    made = []
    for path in found[:count]:
        made.append(folder / f"{path.parent.name}-{path.stem}.png")
        shutil.copy(path, made[-1])
    return made


def measured(*command: str) -> tuple[dict[str, float], str]:
    """Run a command: seconds of the processors and of the clock, peak memory in MB; and what it printed."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen([sys.executable, *command], stdout=out)
        _, status, usage = os.wait4(child.pid, 0)
        out.seek(0)
        said = out.read().decode()
    if status:
        sys.exit(f"{' '.join(command[:4])} ended with {os.waitstatus_to_exitcode(status)}")
    taken = {"cpu": usage.ru_utime + usage.ru_stime, "clock": time.perf_counter() - begun}
    return {**taken, "megabytes": usage.ru_maxrss / 1024}, said


def speed(given: argparse.Namespace) -> dict:
    """64 pictures at once; as many calls of `invert`; one warm process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        paths = pictures(folder / "photos", given.pictures)
        steps = str(given.steps)
        calls = []
        for path in paths[: given.calls]:
            word = str(folder / f"{path.stem}.safetensors")
            calls.append(measured("-m", "sentinv", "invert", str(path), "-o", word, "--steps", steps, "-q")[0])
            print("invert", calls[-1], flush=True)
        (folder / "warm").mkdir()
        warm, said = measured("-c", WARM, str(folder / "warm"), steps, *map(str, paths[: given.warm]))
        laps = json.loads(said.splitlines()[-1])
        print("warm", laps, flush=True)
        out = str(folder / "words")
        options = ("--steps", steps, "--at-once", str(given.at_once), "-q")
        together, _ = measured("-m", "sentinv", "batch", str(folder / "photos"), "-o", out, *options)
        print("batch", together, flush=True)
    count = len(paths)
    result = {"pictures": count, "steps": given.steps, "at_once": given.at_once, "calls": calls, "laps": laps}
    result |= {"batch": together, "warm_megabytes": warm["megabytes"]}
    for kind, index in (("cpu", 0), ("clock", 1)):
        each = together[kind] / count
        result[f"invert_over_batch_{kind}"] = sum(one[kind] for one in calls) / len(calls) / each
        result[f"warm_word_over_batch_{kind}"] = sum(lap[index] for lap in laps) / len(laps) / each
        result[f"warm_invert_over_batch_{kind}"] = sum(lap[index + 2] for lap in laps) / len(laps) / each
    return result


def workers(given: argparse.Namespace) -> dict:
    """The same pictures by one worker of one thread and by two, from the first result to the last: models are loaded then."""
    taken = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        pictures(folder / "photos", given.pictures)
        for count in (1, 2):
            options = ("--steps", str(given.steps), "--at-once", str(given.at_once), "-q", f"--workers={count}")
            out = folder / f"words-{count}"
            told, _ = measured("-m", "sentinv", "batch", str(folder / "photos"), "-o", str(out), *options, "--ray")
            ends = sorted(path.stat().st_mtime for path in out.glob("*-concept.safetensors"))
            later = sum(end > ends[0] + 0.5 for end in ends)  # a batch ends at once
            taken[count] = {**told, "per_minute": 60 * later / (ends[-1] - ends[0])}
            print(count, taken[count], os.getloadavg(), flush=True)
    ratio = taken[2]["per_minute"] / taken[1]["per_minute"]
    return {"pictures": given.pictures, "steps": given.steps, "workers": taken, "ratio": ratio}


def step(given: argparse.Namespace) -> dict:
    """Seconds of a training step for each word, with 1, 2, 4 and 8 words in a call: the least of some tries."""
    import torch

    import sentinv
    from sentinv.concepts.placeholder import PlaceholderRows
    from sentinv.training.data import TrainingSet
    from sentinv.training.lean_convolutions import lean_convolutions
    from sentinv.training.objective import DenoisingObjective

    backbone, generator = sentinv.load("toybox"), torch.Generator().manual_seed(0)
    start = sentinv.starting_rows(sentinv.Initialization("a red striped mug"), backbone)
    rows = PlaceholderRows({f"<w{number}>": start.rows for number in range(8)})
    picture, found = sentinv.read_image(HERE / "concepts/fox/image.png"), {}
    with rows.installed(backbone), lean_convolutions(backbone.unet):
        sets = [TrainingSet(backbone, [picture], rows, sentinv.TrainConfig(), token=token) for token in rows.vocabulary]
        batches, objective = [one.draw(generator) for one in sets], DenoisingObjective(backbone, 0.05)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for words in (1, 2, 4, 8) * given.tries:
                rows.zero_grad()
                clock, cpu = time.perf_counter(), time.process_time()
                objective(batches[0].joined(batches[1:words])).sum().backward()
                taken = ((time.perf_counter() - clock) / words, (time.process_time() - cpu) / words)
                least = found.setdefault(f"threads {threads}, words {words}", taken)
                found[f"threads {threads}, words {words}"] = tuple(map(min, least, taken))
    print(found)
    return {"seconds": {name: {"clock": clock, "cpu": cpu} for name, (clock, cpu) in found.items()}}


def main() -> None:
    """Measure, print, and write results/batch/<what>.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["speed", "workers", "step"])
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--calls", type=int, default=64)
    parser.add_argument("--warm", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--tries", type=int, default=6)
    given = parser.parse_args()
    result = {"speed": speed, "workers": workers, "step": step}[given.what](given)
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    result |= {
        "threads": threads,
        "load": os.getloadavg(),
        "command": f"python benchmarks/batch.py {' '.join(sys.argv[1:])}",
    }
    result["peak_megabytes_of_children"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{given.what}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: value for name, value in result.items() if isinstance(value, float)}, indent=1))


if __name__ == "__main__":
    main()
