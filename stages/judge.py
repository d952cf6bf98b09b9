"""Judge: train the classifier that judges drawn images, once for each data set."""

import sys
import time

import torch

from pipeline.config import load_params
from pipeline.data.dataset import load_dataset
from pipeline.judge.checkpoint import save_judge
from pipeline.judge.training import measure, train
from pipeline.process.cli import parse_paths
from pipeline.process.device import environment, set_up
from pipeline.process.lifecycle import run_stage
from pipeline.storage.files import write_json


def main() -> None:
    arguments = parse_paths(__doc__, "data", "judge", "metrics")
    settings = load_params().judge
    # Always one thread of the CPU: every experiment, device and number of queue workers has the same judge.
    device = set_up("cpu", settings.seed)
    torch.set_num_threads(1)
    dataset = load_dataset(arguments.data)

    if not dataset.labelled:
        save_judge(arguments.judge, None, dataset)
        write_json(arguments.metrics, {"judge": {"images": 0}, "environment": environment(device)})
        print("the training images have no labels of two or more classes, so there is no judge")
        return
    start = time.monotonic()
    judge = train(dataset, settings, device)
    print(f"the judge was trained in {time.monotonic() - start:.0f} s")
    metrics = measure(judge, dataset)
    save_judge(arguments.judge, judge, dataset)
    write_json(arguments.metrics, {"judge": metrics, "environment": environment(device)})
    print(f"accuracy {metrics['accuracy']:.2%}, recognised {metrics['recognised']:.2%} of the test images")


if __name__ == "__main__":
    sys.exit(run_stage(main))
