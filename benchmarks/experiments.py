"""`python -m benchmarks.experiments`: experiments in DVC's queue, one after the other and two at a time.

Each round queues the same experiments, of the preset `demo`, in its own temporary clone. All must succeed, and MLflow
must have one finished run for each, of the same name. Ends with one JSON line.
"""

import argparse
import json

from tools import presets
from tools.clones import experiments, logged_runs, run_queue, temporary_clone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latent", default="2,4,8,16", help="values of model.latent: an experiment for each")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    seconds: dict[int, float] = {}
    for jobs in options.jobs:
        with temporary_clone() as folder:
            settings = [*presets.settings("demo"), "-S", f"model.latent={options.latent}"]
            seconds[jobs] = run_queue(folder, settings, jobs)
            states, runs = experiments(folder), logged_runs(folder)
        print(f"{jobs} at a time: {seconds[jobs]:.0f} s; experiments {states}, runs {runs}", flush=True)
        if runs != [(name, "FINISHED", runs[0][2]) for name in sorted(states)] or set(states.values()) != {"success"}:
            raise SystemExit("an experiment failed, or its run is missing or doubled in MLflow")
    first, last = options.jobs[0], options.jobs[-1]
    print(json.dumps({"seconds": seconds, "ratio": round(seconds[first] / seconds[last], 2)}))


if __name__ == "__main__":
    main()
