#!/usr/bin/env python3
"""Serving processes of which one dies: the job ends soon, and its error names the rank.

usage: tests/soak_killed_rank_test.py SOAK MPIEXEC
"""

import subprocess
import sys
import time
import unittest

SOAK, MPIEXEC = "", ""
RANKS, LOST = 3, 1
SECONDS_TO_END = 30  # of a job whose rank has died


class KilledRank(unittest.TestCase):
    def test_ends_the_job_by_name(self):
        command = [MPIEXEC, "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", str(RANKS), SOAK,
                   "--world", "mpi", "--seconds", "2", "--delays", "--kill_rank", str(LOST)]
        output, killed = "", None
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job:
            for line in job.stdout:
                output += line
                if line == f"rank {LOST} kills itself\n":
                    killed = time.monotonic()
        ended = time.monotonic()
        self.assertIsNotNone(killed, output)
        self.assertNotEqual(job.returncode, 0)
        self.assertIn("no wrong token", output)
        self.assertRegex(output, rf"rank {LOST} .*signal 9")
        self.assertNotIn("the others went on", output)
        self.assertLess(ended - killed, SECONDS_TO_END, output)


if __name__ == "__main__":
    SOAK, MPIEXEC = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1])
