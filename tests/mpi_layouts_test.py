#!/usr/bin/env python3
"""The whole program under mpirun: every layout gives the tokens of one rank, and a failure ends the job.

usage: tests/mpi_layouts_test.py WIDEEP MPIEXEC
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
WIDEEP, MPIEXEC = "", ""
LAYOUTS = {
    "tp 2": (2, "--tp 2"),
    "tp 4, ep 4": (4, "--tp 4 --ep 4"),
    "attention DP 4, ep 4": (4, "--tp 4 --ep 4 --enable_attention_dp"),
    "ETP 2 x 2": (4, "--tp 4 --moe_tp 2 --ep 2"),
    "pp 3": (3, "--pp 3"),
    "cp 2": (2, "--cp 2"),
    "tp 2, pp 2": (4, "--tp 2 --pp 2"),
    "WideEP 4": (4, "--tp 4 --ep 4 --config WIDE_EP"),
}
WIDE_EP = """
enable_attention_dp: true
moe_config:
  backend: WideEP
  max_num_tokens: 100
  load_balancer:
    num_slots: 72
    layer_updates_per_iter: 4
    min_gain: 0
"""


def run(command):
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def mpirun(ranks, arguments):
    return run([MPIEXEC, "--allow-run-as-root", "--oversubscribe", "-n", str(ranks), WIDEEP, *arguments])


class MpiLayouts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        reference = json.loads((ROOT / "tests/models/dsv3-tiny-reference.json").read_text())
        prompts = [prompt for prompt in reference if len(prompt["token_ids"]) <= 200][:4]
        cls.wide_ep = f"{cls.folder.name}/wide_ep.yaml"
        pathlib.Path(cls.wide_ep).write_text(WIDE_EP)
        cls.prompts = f"{cls.folder.name}/prompts.json"
        pathlib.Path(cls.prompts).write_text(json.dumps(prompts))
        cls.expected = cls.evaluate([WIDEEP])

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @classmethod
    def evaluate(cls, program, flags=""):
        out = f"{cls.folder.name}/out.json"
        done = run([*program, "eval", "--model", str(ROOT / "models/dsv3-tiny"), "--dtype", "fp32",
                    "--prompts", cls.prompts, "--json", out, "--greedy", "8",
                    *flags.replace("WIDE_EP", cls.wide_ep).split()])
        if done.returncode != 0:
            raise AssertionError(done.stdout + done.stderr)
        return json.loads(pathlib.Path(out).read_text())

    def test_layouts_give_the_tokens_of_one_rank(self):
        for name, (ranks, flags) in LAYOUTS.items():
            with self.subTest(name):
                program = [MPIEXEC, "--allow-run-as-root", "--oversubscribe", "-n", str(ranks), WIDEEP]
                for actual, expected in zip(self.evaluate(program, flags), self.expected, strict=True):
                    self.assertEqual(actual["greedy"], expected["greedy"])
                    self.assertEqual(actual["routed_experts"], expected["routed_experts"])
                    self.assertAlmostEqual(actual["mean_nll"], expected["mean_nll"], delta=1e-5)

    def test_replicas_share_a_benchmark(self):
        done = mpirun(2, ["bench", "throughput", "--model", str(ROOT / "models/dsv3-tiny"),
                          "--num_requests", "6", "--output_tokens", "4", "--warmup", "0", "--dp", "2"])
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.count("request throughput"), 1)
        self.assertIn("(768 input and", done.stdout)

    def test_statistics_need_no_common_folder(self):
        """Rank 0 alone writes, and its variables hold for all: the others are given none."""
        folder = f"{self.folder.name}/statistics"
        variables = ["EXPERT_STATISTIC_PATH=" + folder, "EXPERT_STATISTIC_ITER_RANGE=0-1000"]
        bench = [WIDEEP, "bench", "throughput", "--model", str(ROOT / "models/dsv3-tiny"), "--tp", "2", "--ep", "2",
                 "--enable_attention_dp", "--num_requests", "4", "--input_tokens", "9", "--output_tokens", "1",
                 "--warmup", "0", "--eos_id", "-1"]
        done = run([MPIEXEC, "--allow-run-as-root", "--oversubscribe", "-n", "1", "env", *variables, *bench,
                    ":", "--oversubscribe", "-n", "1", *bench])
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(f"4 layers, 2 ranks: {folder}", done.stderr)
        self.assertEqual(done.stdout.count("Load statistics of 2 ranks"), 1)
        report = f"{self.folder.name}/report.json"
        done = run([WIDEEP, "eplb", "report", "--expert_statistic_path", folder, "--json", report])
        self.assertEqual(done.returncode, 0, done.stderr)
        recorded = json.loads(pathlib.Path(report).read_text())
        iterations = recorded["iter_stop"] - recorded["iter_start"]
        for layer in recorded["recorded"]["layers"]:
            self.assertAlmostEqual(sum(layer["tokens"]) * iterations, 4 * 9 * recorded["top_k"], delta=1e-6)

    def test_a_killed_rank_ends_the_job_by_name(self):
        command = [MPIEXEC, "--allow-run-as-root", "--oversubscribe", "-n", "4", WIDEEP, "bench", "throughput",
                   "--model", str(ROOT / "models/dsv3-tiny"), "--tp", "4", "--ep", "4", "--config", self.wide_ep,
                   "--num_requests", "4000", "--output_tokens", "400", "--eos_id", "-1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job:
            ranks = []
            deadline = time.monotonic() + 30
            while len(ranks) < 4 and time.monotonic() < deadline:
                time.sleep(0.2)
                ranks = run(["pgrep", "-P", str(job.pid), "wideep"]).stdout.split()
            self.assertEqual(len(ranks), 4)
            time.sleep(1)
            os.kill(int(ranks[2]), signal.SIGKILL)
            output, _ = job.communicate(timeout=30)
        self.assertNotEqual(job.returncode, 0)
        self.assertRegex(output, r"rank 2 .*signal 9")

    def test_bad_input_is_said_once(self):
        done = mpirun(2, ["eval", "--model", str(ROOT / "models/dsv3-tiny"), "--tp", "2",
                          "--prompts", "/nonexistent.json", "--json", f"{self.folder.name}/x.json"])
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(done.stderr.count("/nonexistent.json"), 1, done.stderr)

    def test_wrong_number_of_ranks_names_both(self):
        done = mpirun(3, ["bench", "throughput", "--model", str(ROOT / "models/dsv3-tiny"), "--tp", "2"])
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("= 2 ranks: 3 were started", done.stderr)


if __name__ == "__main__":
    WIDEEP, MPIEXEC = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1])
