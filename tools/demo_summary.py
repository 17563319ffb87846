#!/usr/bin/env python3
"""The last lines of the demo: imbalance before and after, from the JSON of two reports.

usage: tools/demo_summary.py FOLDER     with before.json and after.json of `wideep eplb report`
"""

import json
import pathlib
import sys


def row(words, view):
    worst = max(layer["imbalance_ratio"] for layer in view["layers"])
    mean = view["average"]["imbalance_ratio"]
    return f"  {words:<36}{view['ep_size']:>5}{view['num_slots']:>7}{mean:>13.4f}{worst:>13.4f}"


def main():
    folder = pathlib.Path(sys.argv[1])
    before = json.loads((folder / "before.json").read_text())["recorded"]
    after = json.loads((folder / "after.json").read_text())
    print("\nImbalance ratio: how much longer the hottest rank works than the average one, which is")
    print("what every MoE layer waits for. Averaged over iterations.\n")
    print(f"  {'':<36}{'ranks':>5}{'slots':>7}{'all layers':>13}{'worst layer':>13}")
    print(row("before: experts in order", before))
    print(row("after: replicas share evenly", after["projected"]))
    print(row("after: each batch split at its best", after["projected_best_split"]))
    print(f"\nThe page of all layers, before and after: {folder}/report.html")
    print(f"The placement, for wideep and TensorRT-LLM: {folder}/moe_load_balancer.yaml")


if __name__ == "__main__":
    main()
