"""Tests of tools/check_includes, of the headers' tools and of those for GPUs, run by ctest."""

import hashlib
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import zipfile

TOOLS = pathlib.Path(__file__).resolve().parent


def load(name):
    loader = importlib.machinery.SourceFileLoader(name, str(TOOLS / name))
    sys.dont_write_bytecode = True
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


check_includes = load("check_includes")
unpack_headers = load("unpack_headers")


class CheckIncludes(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def found(self, path, text):
        """Violations in one file `path` with these contents, as "line: rule"."""
        self.write(path, text)
        return [line.split(":", 1)[1] for line in check_includes.violations(self.root)
                if line.startswith(path + ":")]

    def test_arrows_go_one_way(self):
        self.write("src/base/file.h", "#pragma once\n")
        self.write("src/eplb/types.h", "#pragma once\n")
        self.assertEqual(self.found("src/eplb/a.cc", '#include "base/file.h"\n'), [])
        self.assertEqual(self.found("src/eplb/a.cc", '#include "eplb/types.h"\n'), [])
        self.assertEqual(
            self.found("src/base/a.cc", '\n#include "eplb/types.h"\n'),
            ["2: base must not include eplb: it may use nothing of ours"])
        self.assertEqual(
            self.found("src/config/a.cc", '#include "eplb/types.h"\n'),
            ["1: config must not include eplb: it may use base"])

    def test_every_arrow_leads_down(self):
        order = list(check_includes.ARROWS)
        for folder, below in check_includes.ARROWS.items():
            for target in below:
                self.assertLess(order.index(target), order.index(folder), (folder, target))

    def test_serve_sees_only_the_front_door_of_engine(self):
        self.write("src/engine/llm.h", "#pragma once\n")
        self.write("src/engine/scheduler.h", "#pragma once\n")
        self.assertEqual(self.found("src/serve/a.cc", '#include "engine/llm.h"\n'), [])
        self.assertEqual(self.found("src/serve/a.cc", '#include "engine/scheduler.h"\n'),
                         ["1: serve sees only engine/llm.h of engine"])

    def test_unknown_paths_and_folders(self):
        self.assertIn("is not a file from src/", self.found("src/eplb/a.cc", '#include "a.h"\n')[0])
        self.assertEqual(self.found("src/util/a.cc", ""),
                         ["1: src/util is not a folder of ARCHITECTURE.md"])
        self.assertEqual(self.found("src/base/a.cc", "#include <base/a.h>\n"),
                         ['1: our own headers are included with quotes: "base/a.h"'])

    def test_external_headers_stay_in_their_places(self):
        cases = [
            ("<yaml-cpp/yaml.h>", "src/config/yaml.cc", "src/config/engine_config.cc"),
            ("<nlohmann/json.hpp>", "src/base/json.h", "src/eplb/load.cc"),
            ("<CLI/CLI.hpp>", "src/cli/main.cc", "src/config/flags.cc"),
            ("<nccl.h>", "src/dist/nccl.cc", "src/moe/layer.cc"),
            ("<nccl_device.h>", "src/alltoall/push.cu", "src/kernels/push.cu"),
            ("<flashinfer/page.cuh>", "src/kernels/adapters/page.cu", "src/kernels/page.cu"),
            ("<cublasLt.h>", "src/kernels/adapters/gemm.cc", "src/models/decoder.cc"),
            ("<cuda_runtime_api.h>", "src/base/device.cc", "src/eplb/planner.cc"),
            ("<gtest/gtest.h>", "src/eplb/load_test.cc", "src/eplb/load.cc"),
            ("<benchmark/benchmark.h>", "bench/eplb_bench.cc", "src/eplb/load.cc"),
        ]
        for header, right, wrong in cases:
            self.assertEqual(self.found(right, f"#pragma once\n#include {header}\n"), [], header)
            found = self.found(wrong, f"#include {header}\n")
            self.assertEqual([line.split(":")[0] for line in found], ["1"], (header, found))

    def test_calls(self):
        self.assertEqual(self.found("src/base/env.cc", 'getenv("A");\n'), [])
        self.assertEqual(self.found("src/config/a.cc", '\nstd::getenv("A");\n'),
                         ["2: only base/env.* reads the environment"])
        self.assertEqual(len(self.found("src/eplb/b.cc", 'std::cout << 1;\nfmt::print("x");\n')), 2)
        self.assertEqual(self.found("src/eplb/b.cc", "std::snprintf(a, 1, b);\n"), [])
        self.assertEqual(self.found("src/cli/b.cc", 'fmt::print("x");\n'), [])

    def test_comments_and_literals_are_not_code(self):
        text = '// getenv("A")\n/* printf(\n) */ auto a = "printf(";\nauto b = R"(puts( " )";\n'
        self.assertEqual(self.found("src/eplb/a.cc", text), [])
        self.assertEqual(self.found("src/eplb/a.cc", "if (c == '\"') getenv(x);  // \"\n"),
                         ["1: only base/env.* reads the environment"])

    def test_headers_are_guarded_and_compiled_alone(self):
        self.assertEqual(self.found("src/base/a.h", "int a;\n"),
                         ["1: a header starts with #pragma once"])
        self.write("src/base/a.h", "#pragma once\n")
        self.write("src/base/b.h", "#pragma once\n")
        self.assertEqual(
            self.found("src/base/a.cc", '#include "base/b.h"\n#include "base/a.h"\n'),
            ['1: the first include must be the file\'s own header, "base/a.h"'])

    def test_long_files_need_a_reason(self):
        lines = "int a;\n" * 801
        self.assertIn("801 lines", self.found("src/base/a.cc", lines)[0])
        self.assertEqual(self.found("src/base/a.cc", "int a;\n" * 800), [])
        self.assertEqual(self.found("src/base/a.cc", "// Long file: one table.\n" + lines), [])

    def test_exit_code(self):
        self.write("src/base/a.cc", "#include <nccl.h>\n")
        run = subprocess.run([str(TOOLS / "check_includes"), str(self.root)],
                             capture_output=True, text=True)
        self.assertEqual(run.returncode, 1)
        self.assertEqual(run.stdout, "src/base/a.cc:1: only dist and alltoall include NCCL\n")


class WheelsTestCase(unittest.TestCase):
    """Wheels like those of tools/wheels.txt, and a folder for everything."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        self.wheels = self.root / "wheels"
        self.wheels.mkdir()
        self.digests = {}
        self.make_wheel("flashinfer-python", [
            "flashinfer/data/include/flashinfer/page.cuh", "flashinfer/data/csrc/norm.cu",
            "flashinfer/data/cutlass/include/cutlass/version.h",
            "flashinfer/data/cccl/cub/cub/cub.cuh"])
        self.make_wheel("sgl-deep-gemm", ["deep_gemm/include/deep_gemm/impls/sm90_bf16_gemm.cuh"])

    def make_wheel(self, package, names):
        path = self.wheels / f"{package.replace('-', '_')}-1-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name in [*names, f"{package}.dist-info/licenses/LICENSE"]:
                archive.writestr(name, name)
        self.digests[package] = hashlib.sha256(path.read_bytes()).hexdigest()

    def write_pins(self, path):
        path.write_text("".join(f"{package}==1 \\\n    --hash=sha256:{digest}\n"
                                for package, digest in self.digests.items()))


class UnpackHeaders(WheelsTestCase):
    def run_tool(self, *flags):
        pins = self.root / "pins.txt"
        self.write_pins(pins)
        return subprocess.run(
            [str(TOOLS / "unpack_headers"), "--pins", str(pins), "--wheels", str(self.wheels),
             "--output", str(self.root / "deps"), *flags], capture_output=True, text=True)

    def test_unpacks_headers_and_licences_only(self):
        self.assertEqual(self.run_tool("--check").returncode, 1)
        self.assertEqual(self.run_tool().returncode, 0)
        files = {p.relative_to(self.root / "deps").as_posix()
                 for p in (self.root / "deps").rglob("*") if p.is_file() and p.name != ".wheel"}
        self.assertEqual(files, {
            "flashinfer/include/flashinfer/page.cuh", "flashinfer/licenses/LICENSE",
            "cutlass/include/cutlass/version.h", "cutlass/licenses/LICENSE",
            "cccl/include/cub/cub.cuh", "cccl/licenses/LICENSE",
            "deepgemm/include/deep_gemm/impls/sm90_bf16_gemm.cuh", "deepgemm/licenses/LICENSE"})
        self.assertEqual(self.run_tool("--check").returncode, 0)

    def test_a_new_pin_replaces_the_folder(self):
        self.assertEqual(self.run_tool().returncode, 0)
        self.make_wheel("sgl-deep-gemm", ["deep_gemm/include/deep_gemm/new.cuh"])
        self.assertEqual(self.run_tool("--check").returncode, 1)
        self.assertEqual(self.run_tool().returncode, 0)
        include = self.root / "deps" / "deepgemm" / "include" / "deep_gemm"
        self.assertEqual([p.name for p in include.iterdir()], ["new.cuh"])

    def test_a_wheel_of_another_hash_is_refused(self):
        self.digests["sgl-deep-gemm"] = "0" * 64
        run = self.run_tool()
        self.assertEqual(run.returncode, 1)
        self.assertIn("no wheel of sgl-deep-gemm with the pinned sha256", run.stderr)
        self.assertFalse((self.root / "deps" / "deepgemm").exists())

    def test_the_repository_pins_every_package(self):
        pins = unpack_headers.read_pins(TOOLS / "wheels.txt")
        self.assertEqual(set(pins), {"flashinfer-python", "sgl-deep-gemm"})


def copy_tools(root, *names):
    """A tree with these tools only."""
    (root / "tools").mkdir(parents=True)
    for name in names:
        shutil.copy(TOOLS / name, root / "tools")


def run_in(root, *command, **options):
    return subprocess.run([str(root / command[0]), *map(str, command[1:])], capture_output=True, text=True,
                          **options)


@unittest.skipUnless(shutil.which("dpkg"), "packs what Debian packages hold")
class GpuPack(WheelsTestCase):
    def setUp(self):
        super().setUp()
        self.here, self.there = self.root / "here", self.root / "there"
        for tree in [self.here, self.there]:
            copy_tools(tree, "gpu_pack.sh", "unpack_headers")
            self.write_pins(tree / "tools" / "wheels.txt")
            (tree / "build").mkdir()
        self.pack = self.here / "build" / "gpu_pack.tar.xz"

    def make_pack(self):
        run_in(self.here, "tools/unpack_headers", "--wheels", self.wheels)
        run = run_in(self.here, "tools/gpu_pack.sh")
        if "is missing on this machine" in run.stderr:
            self.skipTest(run.stderr)
        self.assertEqual(run.returncode, 0, run.stderr)
        shutil.copy(self.pack, self.there / "build")

    def test_refuses_without_headers(self):
        run = run_in(self.here, "tools/gpu_pack.sh")
        self.assertEqual(run.returncode, 1)
        self.assertIn("headers of tools/wheels.txt are missing in build/deps: run tools/setup.sh", run.stderr)
        self.assertEqual(list((self.here / "build").iterdir()), [])

    def test_unpacks_what_was_packed(self):
        self.make_pack()
        run = run_in(self.there, "tools/gpu_pack.sh", "--unpack")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(run_in(self.there, "tools/unpack_headers", "--check").returncode, 0)
        usr = self.there / "build" / "deps" / "root" / "usr"
        self.assertTrue((usr / "include" / "hwy" / "highway.h").is_file())
        self.assertTrue((usr / "share" / "cmake" / "CLI11" / "CLI11Config.cmake").is_file())
        library = next(usr.glob("lib/*/libpcre2-8.so"))
        self.assertTrue(library.is_file())  # what the link names is there, too
        self.assertIn(f"prefix={usr}\n", (library.parent / "pkgconfig" / "libpcre2-8.pc").read_text())

    def test_refuses_a_pack_of_other_pins(self):
        self.make_pack()
        self.digests["sgl-deep-gemm"] = "0" * 64
        self.write_pins(self.there / "tools" / "wheels.txt")
        run = run_in(self.there, "tools/gpu_pack.sh", "--unpack")
        self.assertEqual(run.returncode, 1)
        self.assertIn("other headers than tools/wheels.txt pins", run.stderr)

    def test_unpacking_names_a_pack_that_is_missing(self):
        run = run_in(self.there, "tools/gpu_pack.sh", "--unpack")
        self.assertEqual(run.returncode, 1)
        self.assertIn("build/gpu_pack.tar.xz is missing", run.stderr)

    def test_packs_every_library_but_mpi(self):
        def packages(tool):
            text = (TOOLS / tool).read_text()
            return {name for name in re.search(r"^packages=\((.*?)\)", text, re.M | re.S).group(1).split()
                    if name.endswith("-dev")}
        self.assertEqual(packages("gpu_pack.sh"), packages("setup.sh") - {"libopenmpi-dev"})


# Stands for build/wideep: writes the report that it is asked for, but for --routing one_rank.
FAKE_WIDEEP = """#!/bin/sh
case "$*" in *one_rank*) echo "no GPU answers" >&2; exit 7 ;; esac
while [ "$1" != --report_json ]; do what=$1; shift; done
echo '{"benchmark": "'$what'", "command": "wideep", "machine": {"gpus": ["H200"]}, "results": [{"us": 1.23456}]}' > $2
"""
FAKE_GOOGLE_BENCHMARK = """#!/bin/sh
for option in "$@"; do case $option in --benchmark_out=*) out=${option#*=} ;; esac; done
echo '{"context": {}, "benchmarks": [{"name": "add/8", "run_name": "add/8", "run_type": "iteration",
  "real_time": 2.0, "cpu_time": 1.0, "time_unit": "us", "copy": 0.5}]}' > $out
"""
FAKE_NVIDIA_SMI = """#!/bin/sh
case "$*" in
  -L) echo "GPU 0: NVIDIA H200" ;;
  *name,*) echo "NVIDIA H200, 580" ;;
  *query*) echo "NVIDIA H200" ;;
  *) printf '\\033[4mGPU0\\033[0m\\n' ;;
esac
"""


class GpuCheck(unittest.TestCase):
    """tools/gpu_check.sh and tools/gpu_results with programs that only seem to use a GPU."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        copy_tools(self.root, "gpu_check.sh", "gpu_results", "bench_to_results")
        (self.root / "bench" / "results").mkdir(parents=True)
        self.write_program("build/wideep", FAKE_WIDEEP)
        self.write_program("build/bin/ops_gpu_bench", FAKE_GOOGLE_BENCHMARK)
        self.write_program("build/bin/first_gpu_test", "#!/bin/sh\nexit 3\n")
        self.write_program("build/bin/second_gpu_test", "#!/bin/sh\nexit 0\n")
        self.write_program("system/nvidia-smi", FAKE_NVIDIA_SMI)
        self.write_program("system/compute-sanitizer", "#!/bin/sh\n")
        self.write_program("system/nvcc", "#!/bin/sh\n")

    def write_program(self, path, text):
        program = self.root / path
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)

    def check(self, *flags):
        path = f"{self.root / 'system'}:/usr/bin:/bin"
        return run_in(self.root, "tools/gpu_check.sh", *flags, env={**os.environ, "PATH": path})

    def result(self):
        files = list((self.root / "bench" / "results").iterdir())
        self.assertEqual(len(files), 1)
        self.assertRegex(files[0].name, r"^\d{4}-\d\d-\d\d-gpu-check-1-h200\.json$")
        return json.loads(files[0].read_text())

    def test_what_fails_keeps_nothing_else_from_running(self):
        run = self.check("build")
        self.assertEqual(run.returncode, 1)
        self.assertEqual(run.stderr.splitlines()[-1],
                         "gpu_check: FAILED: first_gpu_test one_rank; logs are in build/gpu_check")
        self.assertIn("no GPU answers", (self.root / "build/gpu_check/one_rank.txt").read_text())
        result = self.result()
        codes = {name: step["exit_code"] for name, step in result["steps"].items()}
        self.assertEqual(codes.pop("first_gpu_test"), 3)
        self.assertEqual(codes.pop("one_rank"), 7)
        self.assertEqual(codes, dict.fromkeys(
            ["second_gpu_test", "memcheck", "sizes", "load", "multiprocessors", "exact", "moe", "ops", "plain_ops",
             "step", "profile"], 0))
        self.assertNotIn("one_rank", result)

    def test_results_hold_every_report(self):
        self.write_program("build/wideep", FAKE_WIDEEP.replace("one_rank*", "nothing*"))
        self.assertEqual(self.check("--tests_only", "build").returncode, 1)
        self.write_program("build/bin/first_gpu_test", "#!/bin/sh\n")
        self.assertEqual(self.check("--tests_only", "build").returncode, 0)
        self.assertEqual(self.check("--bench_only", "build").returncode, 0)
        result = self.result()
        self.assertEqual(result["command"],
                         "tools/gpu_check.sh --tests_only build && tools/gpu_check.sh --bench_only build")
        self.assertEqual(result["machine"], {"gpus": ["H200"]})
        self.assertEqual(result["topology"], ["NVIDIA H200, 580", "GPU0"])
        self.assertEqual(result["steps"]["first_gpu_test"]["exit_code"], 0)
        for name, benchmark in {"sizes": "all-to-all", "one_rank": "all-to-all", "moe": "moe", "ops": "ops",
                                "step": "step", "profile": "step"}.items():
            self.assertEqual(result[name], {"benchmark": benchmark, "command": "wideep",
                                            "results": [{"us": 1.235}]}, name)
        self.assertEqual(result["plain_ops"]["results"],
                         [{"name": "add/8", "real_ns": 2000, "cpu_ns": 1000, "copy": 0.5}])

    def test_more_gpus_than_there_are(self):
        run = self.check("--gpus", "2", "build")
        self.assertEqual((run.returncode, run.stderr), (1, "gpu_check: --gpus 2: this machine has 1\n"))

    def test_builds_with_what_was_brought_along(self):
        self.write_program("tools/gpu_pack.sh", "#!/bin/sh\necho unpacked $1\n")
        self.write_program("system/make", '#!/bin/sh\necho "$CMAKE_PREFIX_PATH: $@"\n')
        log = self.root / "build" / "gpu_check" / "build.txt"
        self.assertEqual(self.check("--build_only").returncode, 0)
        self.assertIn("SETUP=tools/setup.sh PRESET=cuda build", log.read_text())
        (self.root / "build" / "gpu_pack.tar.xz").touch()
        run = self.check("--build_only")
        self.assertIn("unpacked --unpack", run.stdout)
        self.assertEqual(log.read_text(), f"{self.root}/build/deps/root/usr: --no-print-directory "
                                          "SETUP=true PRESET=cuda build\n")

    def test_runs_nothing_that_could_not_be_built(self):
        self.write_program("system/make", "#!/bin/sh\nexit 2\n")
        run = self.check()
        self.assertEqual(run.returncode, 1)
        self.assertEqual(run.stderr, "gpu_check: FAILED: build; logs are in build/gpu_check\n")
        self.assertNotIn("first_gpu_test", run.stdout)


if __name__ == "__main__":
    unittest.main()
