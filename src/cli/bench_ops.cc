// wideep bench ops: how long each op takes on this machine's GPU, against what the GPU can do.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "base/device.h"
#include "base/file.h"
#include "base/json.h"
#include "cli/bench_report.h"
#include "cli/commands.h"
#ifdef WIDEEP_CUDA
#include "kernels/op_bench.h"
#include "moe/replica_choice_bench.h"
#endif

namespace wideep::cli {
namespace {

struct OpsArguments {
  std::string ops;
  int replays = 10;
  std::string report_json;
};

#ifdef WIDEEP_CUDA

using kernels::MachineLimits;
using kernels::OpCase;
using kernels::OpLimit;

struct Rate {
  const char* limit;
  double of_limit;
};

// What the op is held against, and the share of it that is reached.
Rate rate_of(const OpCase& op, double us, const MachineLimits& limits) {
  const double gbps = op.bytes / us * 1e-3;
  const double tflops = op.flops / us * 1e-6;
  switch (op.limit) {
    case OpLimit::kRead:
      return {"read", gbps / limits.read_gbps};
    case OpLimit::kCopy:
      return {"copy", gbps / limits.copy_gbps};
    case OpLimit::kBf16:
      return {"bf16", tflops / limits.bf16_tflops};
    default:
      return {"fp8", tflops / limits.fp8_tflops};
  }
}

OrderedJson op_json(const OpCase& op, double us, const Rate& rate) {
  return {{"op", op.op},
          {"shape", op.shape},
          {"us", us},
          {"bytes", op.bytes},
          {"flops", op.flops},
          {"gbps", op.bytes / us * 1e-3},
          {"tflops", op.flops / us * 1e-6},
          {"limit", rate.limit},
          {"percent_of_limit", 100 * rate.of_limit}};
}

OrderedJson limits_json(const MachineLimits& limits) {
  return {{"copy_gbps", limits.copy_gbps},
          {"read_gbps", limits.read_gbps},
          {"bf16_tflops", limits.bf16_tflops},
          {"fp8_tflops", limits.fp8_tflops}};
}

Status run_ops(const OpsArguments& arguments) {
  const DeviceReport report = device_report();
  if (report.devices.empty()) {
    return Status::unavailable(fmt::format("bench ops needs a GPU: {}", report.problem));
  }
  ASSIGN_OR_RETURN(const auto bench, kernels::OpBench::create(arguments.replays));
  ASSIGN_OR_RETURN(const MachineLimits limits, kernels::measure_limits(*bench));
  fmt::print(
      "{}: copy {:.0f} GB/s, read {:.0f} GB/s, cuBLASLt 8192^3 bf16 {:.0f} TFLOP/s, fp8 {:.0f} "
      "TFLOP/s\n{:<30} {:<30} {:>10} {:>8} {:>9} {:>6}  {}\n",
      report.devices[0].name, limits.copy_gbps, limits.read_gbps, limits.bf16_tflops,
      limits.fp8_tflops, "op", "shape", "us", "GB/s", "TFLOP/s", "%", "of");
  OrderedJson results = OrderedJson::array();
  std::vector<OpCase> cases = kernels::gemm_cases();
  std::ranges::move(kernels::attention_cases(), std::back_inserter(cases));
  std::ranges::move(moe::replica_choice_cases(), std::back_inserter(cases));
  for (const OpCase& op : cases) {
    if (op.op.find(arguments.ops) == std::string::npos) continue;
    ASSIGN_OR_RETURN(const double us, op.run(*bench));
    const Rate rate = rate_of(op, us, limits);
    fmt::print("{:<30} {:<30} {:>10.2f} {:>8.0f} {:>9.1f} {:>6.1f}  {}\n", op.op, op.shape, us,
               op.bytes / us * 1e-3, op.flops / us * 1e-6, 100 * rate.of_limit, rate.limit);
    results.push_back(op_json(op, us, rate));
  }
  if (results.empty()) {
    return Status::invalid_input(fmt::format("--ops: no op's name has '{}' in it", arguments.ops));
  }
  if (arguments.report_json.empty()) return Status::ok();
  OrderedJson document = {{"benchmark", "ops"}};
  document.update(run_environment());
  document["limits"] = limits_json(limits);
  document["results"] = results;
  return write_file(arguments.report_json, document.dump(1) + "\n");
}

#else

Status run_ops(const OpsArguments&) {
  return Status::unavailable("bench ops: this build has no CUDA (preset cuda)");
}

#endif

}  // namespace

void add_bench_ops(CLI::App& bench) {
  const auto arguments = std::make_shared<OpsArguments>();
  CLI::App* command =
      bench.add_subcommand("ops", "Times the ops of this machine's GPU against its limits");
  command->add_option("--ops", arguments->ops, "Only ops with this in their name");
  command->add_option("--replays", arguments->replays, "Timed runs of each captured graph")
      ->check(CLI::PositiveNumber);
  command->add_option("--report_json", arguments->report_json, "Writes the results there");
  command->callback([arguments] { finish(run_ops(*arguments)); });
}

}  // namespace wideep::cli
