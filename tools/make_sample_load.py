#!/usr/bin/env python3
"""Makes data/sample_load.json: a synthetic expert load with the shape of DeepSeek-V3.

61 decoder layers (the first 3 dense: zero rows), 256 experts, in SGLang's `logical_count` format.
Nothing in it was measured. Experts' popularities are lognormal; the spread differs from layer to
layer, as it does in real models, and is set so that without balancing 32 ranks of 8 experts have an
imbalance ratio ((max - mean) / mean) near 1.56 on average, what NVIDIA reports for DeepSeek-R1.

usage: tools/make_sample_load.py > data/sample_load.json      (the same bytes every time)
"""

import json
import math
import random

NUM_LAYERS = 61
NUM_DENSE_LAYERS = 3
NUM_EXPERTS = 256
TOKENS_PER_EXPERT = 10_000  # mean; every token has 8 experts
NUM_RANKS = 32


def layer_counts(rng: random.Random) -> list[int]:
    """Counts of one layer; they sum to exactly TOKENS_PER_EXPERT * NUM_EXPERTS."""
    spread = rng.uniform(0.65, 1.50)
    weights = [math.exp(spread * rng.gauss(0.0, 1.0)) for _ in range(NUM_EXPERTS)]
    total = TOKENS_PER_EXPERT * NUM_EXPERTS
    exact = [w / math.fsum(weights) * total for w in weights]
    counts = [math.floor(x) for x in exact]
    by_remainder = sorted(range(NUM_EXPERTS), key=lambda e: counts[e] - exact[e])
    for e in by_remainder[: total - sum(counts)]:
        counts[e] += 1
    return counts


def imbalance_ratio(counts: list[int]) -> float:
    per_rank = NUM_EXPERTS // NUM_RANKS
    loads = [sum(counts[r * per_rank : (r + 1) * per_rank]) for r in range(NUM_RANKS)]
    return max(loads) / (sum(loads) / NUM_RANKS) - 1


def main() -> None:
    rng = random.Random(2025)
    rows = [[0] * NUM_EXPERTS for _ in range(NUM_DENSE_LAYERS)]
    rows += [layer_counts(rng) for _ in range(NUM_LAYERS - NUM_DENSE_LAYERS)]
    ratios = [imbalance_ratio(row) for row in rows[NUM_DENSE_LAYERS:]]
    mean = sum(ratios) / len(ratios)
    assert 1.4 < mean < 1.7, mean
    body = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    print('{"logical_count":[\n' + body + "\n]}")


if __name__ == "__main__":
    main()
