// wideep bench all-to-all: dispatch and combine between the GPUs of this machine.
#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "base/device.h"
#include "base/file.h"
#include "base/json.h"
#include "cli/commands.h"
#ifdef WIDEEP_CUDA
#include "alltoall/nvlink_bench.h"
#include "base/random.h"
#endif

namespace wideep::cli {
namespace {

struct AllToAllArguments {
  int ranks = 0;  // 0: one a GPU
  std::vector<int> tokens = {1, 8, 32, 128, 512, 1024, 4096, 8192};
  std::vector<std::string> formats = {"bf16", "fp8"};
  std::vector<std::string> layouts = {"slot", "source"};
  std::vector<int> num_sms = {0};
  std::string routing = "uniform";
  std::string combine = "reduced";
  int hidden_size = 7168;
  int num_slots = 256;
  int top_k = 8;
  int replays = 40;
  double link_gbps = 371;
  std::string report_json;
};

#ifdef WIDEEP_CUDA

using alltoall::BenchCase;
using alltoall::BenchResult;
using alltoall::GroupShape;

GroupShape shape_of(const AllToAllArguments& arguments, int tokens, const std::string& format,
                    const std::string& layout, int num_sms) {
  GroupShape shape;
  shape.transport = alltoall::Transport::kNvlink;
  shape.num_slots = arguments.num_slots;
  shape.top_k = arguments.top_k;
  shape.hidden_size = arguments.hidden_size;
  shape.max_tokens_of_rank = tokens;
  shape.max_tokens = int64_t{tokens} * arguments.ranks;
  shape.format = format == "fp8" ? alltoall::RowFormat::kFp8 : alltoall::RowFormat::kBf16;
  shape.layout = layout == "source"   ? alltoall::RowLayout::kBySource
                 : layout == "masked" ? alltoall::RowLayout::kBySlotMasked
                                      : alltoall::RowLayout::kBySlot;
  shape.row_alignment = layout == "slot" ? 128 : 1;
  shape.num_sms = num_sms;
  shape.combine = arguments.combine == "exact" && layout != "source" ? CombineMode::kExact
                                                                     : CombineMode::kReduced;
  return shape;
}

// Slots of one rank's tokens: all alike, by a power law over the slots, or all on rank 0.
std::vector<int32_t> slots_of(const AllToAllArguments& arguments, int rank, int tokens,
                              const GroupShape& shape) {
  std::vector<int32_t> slots = alltoall::uniform_slots(1, rank, tokens, shape);
  if (arguments.routing == "one_rank") {
    for (int32_t& slot : slots) slot %= shape.num_slots / arguments.ranks;
  } else if (arguments.routing == "skewed") {
    // Cubing a uniform number sends half of the pairs to an eighth of the slots.
    Random random(2, {static_cast<uint64_t>(rank)});
    for (int32_t& slot : slots) {
      const double u = random.uniform();
      slot = static_cast<int32_t>(u * u * u * shape.num_slots);
    }
  }
  return slots;
}

BenchCase case_of(const AllToAllArguments& arguments, const GroupShape& shape, int rank,
                  int tokens) {
  BenchCase bench;
  bench.shape = shape;
  bench.num_tokens = tokens;
  bench.most_tokens = tokens;
  bench.slots = slots_of(arguments, rank, tokens, shape);
  bench.calls = tokens >= 1024 ? 10 : 30;
  bench.replays = arguments.replays;
  return bench;
}

OrderedJson time_json(const alltoall::CallTime& time, int64_t bytes, double link_gbps) {
  const double gbps = static_cast<double>(bytes) / time.median * 1e-3;
  return {{"us_median", time.median},
          {"us_p99", time.p99},
          {"us_median_fastest_rank", time.fastest_rank},
          {"link_bytes", bytes},
          {"link_gbps", gbps},
          {"percent_of_link", 100 * gbps / link_gbps}};
}

void print_header() {
  fmt::print(
      "{:>6} {:>5} {:>7} {:>4} | {:>9} {:>9} {:>6} {:>5} | {:>9} {:>9} {:>6} {:>5} | {:>9}\n",
      "tokens", "rows", "layout", "SMs", "dispatch", "p99", "GB/s", "%", "combine", "p99", "GB/s",
      "%", "both");
}

void print_row(const AllToAllArguments& arguments, const std::string& format,
               const std::string& layout, int tokens, int num_sms, const BenchResult& result) {
  const double dispatch =
      static_cast<double>(result.dispatch_bytes) / result.dispatch.median * 1e-3;
  const double combine = static_cast<double>(result.combine_bytes) / result.combine.median * 1e-3;
  fmt::print(
      "{:>6} {:>5} {:>7} {:>4} | {:>9.1f} {:>9.1f} {:>6.0f} {:>5.1f} | {:>9.1f} {:>9.1f} {:>6.0f} "
      "{:>5.1f} | {:>9.1f}\n",
      tokens, format, layout, num_sms == 0 ? "auto" : std::to_string(num_sms),
      result.dispatch.median, result.dispatch.p99, dispatch, 100 * dispatch / arguments.link_gbps,
      result.combine.median, result.combine.p99, combine, 100 * combine / arguments.link_gbps,
      result.pair.median);
}

OrderedJson machine_json() {
  const DeviceReport report = device_report();
  OrderedJson devices = OrderedJson::array();
  for (const Device& device : report.devices) devices.push_back(device.name);
  return {{"devices", devices},
          {"cuda_runtime", cuda_version_text(report.runtime_version)},
          {"cuda_driver", cuda_version_text(report.driver_version)}};
}

Status run_all_to_all(AllToAllArguments arguments) {
  const DeviceReport report = device_report();
  if (report.devices.empty()) {
    return Status::unavailable(fmt::format("bench all-to-all needs a GPU: {}", report.problem));
  }
  if (arguments.ranks == 0) arguments.ranks = static_cast<int>(report.devices.size());
  OrderedJson results = OrderedJson::array();
  print_header();
  for (const std::string& format : arguments.formats) {
    for (const std::string& layout : arguments.layouts) {
      for (const int tokens : arguments.tokens) {
        for (const int num_sms : arguments.num_sms) {
          const GroupShape shape = shape_of(arguments, tokens, format, layout, num_sms);
          ASSIGN_OR_RETURN(const BenchResult result,
                           alltoall::bench_on_local_ranks(arguments.ranks, [&](int rank) {
                             return case_of(arguments, shape, rank, tokens);
                           }));
          print_row(arguments, format, layout, tokens, num_sms, result);
          results.push_back(
              {{"tokens_a_rank", tokens},
               {"rows", format},
               {"layout", layout},
               {"num_sms", num_sms},
               {"dispatch", time_json(result.dispatch, result.dispatch_bytes, arguments.link_gbps)},
               {"combine", time_json(result.combine, result.combine_bytes, arguments.link_gbps)},
               {"dispatch_and_combine_us", result.pair.median}});
        }
      }
    }
  }
  if (arguments.report_json.empty()) return Status::ok();
  const OrderedJson document = {{"benchmark", "all-to-all"},
                                {"machine", machine_json()},
                                {"ranks", arguments.ranks},
                                {"hidden_size", arguments.hidden_size},
                                {"num_slots", arguments.num_slots},
                                {"top_k", arguments.top_k},
                                {"routing", arguments.routing},
                                {"combine", arguments.combine},
                                {"link_limit_gbps", arguments.link_gbps},
                                {"results", results}};
  return write_file(arguments.report_json, document.dump(1) + "\n");
}

#else

Status run_all_to_all(const AllToAllArguments&) {
  return Status::unavailable("bench all-to-all: this build has no CUDA (preset cuda)");
}

#endif

}  // namespace

void add_bench_all_to_all(CLI::App& bench) {
  const auto arguments = std::make_shared<AllToAllArguments>();
  CLI::App* command = bench.add_subcommand(
      "all-to-all", "Times dispatch and combine between the GPUs of this machine");
  command->add_option("--ranks", arguments->ranks, "Ranks; more than GPUs share them. 0: one a GPU")
      ->check(CLI::Range(0, 72));
  command->add_option("--tokens", arguments->tokens, "Tokens a rank")->delimiter(',');
  command->add_option("--formats", arguments->formats, "bf16, fp8 (quantised on the way)")
      ->delimiter(',')
      ->check(CLI::IsMember({"bf16", "fp8"}));
  command->add_option("--layouts", arguments->layouts, "slot, masked, source")
      ->delimiter(',')
      ->check(CLI::IsMember({"slot", "masked", "source"}));
  command->add_option("--num_sms", arguments->num_sms, "Multiprocessors; 0: the formula")
      ->delimiter(',');
  command->add_option("--routing", arguments->routing, "Where tokens go")
      ->check(CLI::IsMember({"uniform", "skewed", "one_rank"}));
  command->add_option("--combine", arguments->combine, "Sums")
      ->check(CLI::IsMember({"reduced", "exact"}));
  command->add_option("--hidden_size", arguments->hidden_size, "Columns of a row")
      ->check(CLI::PositiveNumber);
  command->add_option("--num_slots", arguments->num_slots, "Slots of all ranks")
      ->check(CLI::PositiveNumber);
  command->add_option("--top_k", arguments->top_k, "Slots a token")->check(CLI::PositiveNumber);
  command->add_option("--replays", arguments->replays, "Timed runs of each captured graph")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--link_gbps", arguments->link_gbps,
                   "Measured limit of a GPU's links in one direction, for percentages")
      ->check(CLI::PositiveNumber);
  command->add_option("--report_json", arguments->report_json, "Writes the results there");
  command->callback([arguments] { finish(run_all_to_all(*arguments)); });
}

}  // namespace wideep::cli
