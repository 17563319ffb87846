// wideep bench all-to-all: dispatch and combine between the GPUs of this machine.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/device.h"
#include "base/file.h"
#include "base/json.h"
#include "cli/bench_report.h"
#include "cli/commands.h"
#ifdef WIDEEP_CUDA
#include "alltoall/nccl_bench.h"
#include "alltoall/nvlink_bench.h"
#include "base/thread_pool.h"
#include "cli/worlds.h"
#include "dist/world.h"
#include "eplb/load.h"
#include "kernels/device_stream.h"
#endif

namespace wideep::cli {
namespace {

struct AllToAllArguments {
  int ranks = 0;  // 0: one a GPU
  std::vector<int> tokens = {1, 8, 32, 128, 512, 1024, 4096, 8192};
  std::vector<std::string> formats = {"bf16", "fp8"};
  std::vector<std::string> layouts = {"slot", "source"};
  std::vector<int> num_sms = {0};
  std::vector<std::string> routings = {"uniform"};
  std::string load;  // a file of loads, for routing "load"
  int layer = -1;    // of its rows; -1: the one whose busiest slot has most
  std::string combine = "reduced";
  int hidden_size = 7168;
  int num_slots = 256;
  int top_k = 8;
  int replays = 40;
  bool nccl = false;
  double link_gbps = 371;
  std::string report_json;
};

#ifdef WIDEEP_CUDA

using alltoall::BenchCase;
using alltoall::BenchResult;
using alltoall::GroupShape;

// What all ranks measure, and what rank 0 keeps of it.
struct Job {
  AllToAllArguments arguments;
  std::vector<double> slot_loads;  // [num_slots] for routing "load"
  OrderedJson results = OrderedJson::array();
  OrderedJson nccl = OrderedJson::array();
};

GroupShape shape_of(const AllToAllArguments& arguments, const std::string& format,
                    const std::string& layout, int num_sms) {
  GroupShape shape;
  shape.transport = alltoall::Transport::kNvlink;
  shape.num_slots = arguments.num_slots;
  shape.top_k = arguments.top_k;
  shape.hidden_size = arguments.hidden_size;
  shape.max_tokens_of_rank = std::ranges::max(arguments.tokens);
  shape.max_tokens = shape.max_tokens_of_rank * arguments.ranks;
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

int64_t row_bytes(const AllToAllArguments& arguments, const std::string& format) {
  constexpr int kScaleGroup = 128;
  const int64_t columns = arguments.hidden_size;
  return format == "fp8" ? columns + 4 * (columns / kScaleGroup) : 2 * columns;
}

BenchCase case_of(const Job& job, const std::string& routing, int rank, int tokens) {
  const AllToAllArguments& arguments = job.arguments;
  BenchCase bench;
  bench.num_tokens = tokens;
  bench.most_tokens = tokens;
  bench.slots = alltoall::draw_slots(1, rank, tokens, arguments.num_slots, arguments.top_k,
                                     routing == "load" ? job.slot_loads : std::vector<double>());
  if (routing == "one_rank") {
    for (int32_t& slot : bench.slots) slot %= arguments.num_slots / arguments.ranks;
  }
  bench.calls = tokens >= 1024 ? 10 : 30;
  bench.replays = arguments.replays;
  return bench;
}

OrderedJson time_json(const alltoall::CallTime& time, const alltoall::Traffic& traffic,
                      int64_t bytes, double link_gbps) {
  const auto gbps = [&](int64_t rows) {
    return static_cast<double>(rows * bytes) / time.median * 1e-3;
  };
  return {{"us_median", time.median},
          {"us_p99", time.p99},
          {"us_median_fastest_rank", time.fastest_rank},
          {"link_bytes", traffic.link_rows * bytes},
          {"link_gbps", gbps(traffic.link_rows)},
          {"percent_of_link", 100 * gbps(traffic.link_rows) / link_gbps},
          {"gbps_with_own_rows", gbps(traffic.all_rows)}};
}

void print_header() {
  fmt::print(
      "{:>8} {:>6} {:>5} {:>10} {:>4} | {:>9} {:>9} {:>6} {:>5} | {:>9} {:>9} {:>6} {:>5} "
      "| {:>9}\n",
      "routing", "tokens", "rows", "layout", "SMs", "dispatch", "p99", "GB/s", "%", "combine",
      "p99", "GB/s", "%", "both");
}

void print_row(const std::string& what, const OrderedJson& dispatch, const OrderedJson& combine,
               const std::string& both) {
  const auto columns = [](const OrderedJson& time) {
    return fmt::format("{:>9.1f} {:>9.1f} {:>6.0f} {:>5.1f}", time["us_median"].get<double>(),
                       time["us_p99"].get<double>(), time["link_gbps"].get<double>(),
                       time["percent_of_link"].get<double>());
  };
  fmt::print("{} | {} | {} | {:>9}\n", what, columns(dispatch), columns(combine), both);
}

// One batch, by an all-to-all.
Status run_case(Job& job, dist::Communicator& group, Stream& stream, alltoall::AllToAll& all_to_all,
                const GroupShape& shape, const alltoall::BenchRows& rows,
                const OrderedJson& names) {
  const std::string routing = names["routing"];
  const std::string format = names["rows"];
  const BenchCase bench = case_of(job, routing, group.rank(), names["tokens_a_rank"]);
  ASSIGN_OR_RETURN(const BenchResult result,
                   alltoall::bench_all_to_all(group, stream, all_to_all, shape, rows, bench));
  ASSIGN_OR_RETURN(const std::vector<int64_t> between, alltoall::rows_between(group, shape, bench));
  if (group.rank() != 0) return Status::ok();
  const double limit = job.arguments.link_gbps;
  const alltoall::Traffic traffic = alltoall::busiest(between, group.size());
  OrderedJson entry = names;
  entry["dispatch"] = time_json(result.dispatch, traffic, row_bytes(job.arguments, format), limit);
  entry["combine"] = time_json(result.combine, traffic, row_bytes(job.arguments, "bf16"), limit);
  entry["dispatch_and_combine_us"] = result.pair.median;
  const int num_sms = names["num_sms"];
  print_row(fmt::format("{:>8} {:>6} {:>5} {:>10} {:>4}", routing, bench.most_tokens, format,
                        names["layout"].get<std::string>(),
                        num_sms == 0 ? "auto" : std::to_string(num_sms)),
            entry["dispatch"], entry["combine"], fmt::format("{:.1f}", result.pair.median));
  job.results.push_back(std::move(entry));
  return Status::ok();
}

// The same batch by NCCL's collectives.
Status run_nccl_case(Job& job, dist::Communicator& group, Stream& stream, alltoall::NcclBench& nccl,
                     const std::string& routing, const std::string& format, int tokens) {
  const AllToAllArguments& arguments = job.arguments;
  const BenchCase bench = case_of(job, routing, group.rank(), tokens);
  const GroupShape shape = shape_of(arguments, format, "source", 0);
  ASSIGN_OR_RETURN(const std::vector<int64_t> between, alltoall::rows_between(group, shape, bench));
  const int64_t bytes = row_bytes(arguments, format);
  const int64_t back = row_bytes(arguments, "bf16");
  ASSIGN_OR_RETURN(const alltoall::CollectiveTimes exchange,
                   nccl.time_all_to_all(stream, bench, between, bytes, back));
  ASSIGN_OR_RETURN(const alltoall::CollectiveTimes gather,
                   nccl.time_gather_scatter(stream, bench, bytes, back));
  if (group.rank() != 0) return Status::ok();
  const auto keep = [&](const char* name, const alltoall::CollectiveTimes& times,
                        const alltoall::Traffic& traffic) {
    const OrderedJson dispatch = time_json(times.dispatch, traffic, bytes, arguments.link_gbps);
    const OrderedJson combine = time_json(times.combine, traffic, back, arguments.link_gbps);
    print_row(fmt::format("{:>8} {:>6} {:>5} {:>15}", routing, tokens, format, name), dispatch,
              combine, "");
    job.nccl.push_back({{"routing", routing},
                        {"tokens_a_rank", tokens},
                        {"rows", format},
                        {"collective", name},
                        {"dispatch", dispatch},
                        {"combine", combine}});
  };
  keep("all-to-all", exchange, alltoall::busiest(between, group.size()));
  const int64_t others = int64_t{tokens} * (group.size() - 1);
  keep("gather, scatter", gather, {.link_rows = others, .all_rows = others + tokens});
  return Status::ok();
}

Status run_rank(Job& job, dist::Communicator& group, Stream& stream) {
  const AllToAllArguments& arguments = job.arguments;
  const int most = std::ranges::max(arguments.tokens);
  ASSIGN_OR_RETURN(const alltoall::BenchRows rows,
                   alltoall::BenchRows::create(group.rank(), most, arguments.hidden_size));
  if (group.rank() == 0) print_header();
  for (const std::string& format : arguments.formats) {
    for (const std::string& layout : arguments.layouts) {
      for (const int num_sms : arguments.num_sms) {
        const GroupShape shape = shape_of(arguments, format, layout, num_sms);
        ASSIGN_OR_RETURN(const auto all_to_all, alltoall::AllToAll::create(group, shape));
        for (const std::string& routing : arguments.routings) {
          for (const int tokens : arguments.tokens) {
            const OrderedJson names = {{"routing", routing},
                                       {"tokens_a_rank", tokens},
                                       {"rows", format},
                                       {"layout", layout},
                                       {"num_sms", num_sms}};
            RETURN_IF_ERROR(run_case(job, group, stream, *all_to_all, shape, rows, names));
          }
        }
      }
    }
  }
  if (!arguments.nccl) return Status::ok();
  ASSIGN_OR_RETURN(const auto nccl,
                   alltoall::NcclBench::create(group, most, row_bytes(arguments, "bf16")));
  for (const std::string& format : arguments.formats) {
    for (const std::string& routing : arguments.routings) {
      for (const int tokens : arguments.tokens) {
        RETURN_IF_ERROR(run_nccl_case(job, group, stream, *nccl, routing, format, tokens));
      }
    }
  }
  return Status::ok();
}

// The loads of the slots, one expert a slot, from the file of routing "load".
Result<std::vector<double>> read_slot_loads(AllToAllArguments& arguments) {
  ASSIGN_OR_RETURN(const eplb::Load load, eplb::read_load(arguments.load));
  if (load.num_experts != arguments.num_slots) {
    return Status::invalid_input(fmt::format("{}: {} experts: --num_slots is {}", arguments.load,
                                             load.num_experts, arguments.num_slots));
  }
  if (arguments.layer < 0) {
    const auto share = [&](int i) {
      double sum = 0;
      for (const int64_t tokens : load.row(i)) sum += static_cast<double>(tokens);
      return static_cast<double>(std::ranges::max(load.row(i))) / sum;
    };
    int busiest = 0;
    for (int i = 1; i < load.num_layers(); ++i) busiest = share(i) > share(busiest) ? i : busiest;
    arguments.layer = load.layers[static_cast<size_t>(busiest)];
  }
  const auto row = std::ranges::find(load.layers, arguments.layer);
  if (row == load.layers.end()) {
    return Status::invalid_input(
        fmt::format("{}: has no layer {} (--layer)", arguments.load, arguments.layer));
  }
  const auto tokens = load.row(static_cast<int>(row - load.layers.begin()));
  if (std::ranges::count_if(tokens, [](int64_t t) { return t > 0; }) < arguments.top_k) {
    return Status::invalid_input(fmt::format("{}: layer {} has tokens on fewer than top_k experts",
                                             arguments.load, arguments.layer));
  }
  return std::vector<double>(tokens.begin(), tokens.end());
}

Status check_arguments(const AllToAllArguments& arguments) {
  if (arguments.tokens.empty() || std::ranges::min(arguments.tokens) < 1) {
    return Status::invalid_input("--tokens: each must be at least 1");
  }
  if (arguments.top_k > arguments.num_slots) {
    return Status::invalid_input(fmt::format("--top_k {}: only {} slots (--num_slots)",
                                             arguments.top_k, arguments.num_slots));
  }
  const bool loads = std::ranges::find(arguments.routings, "load") != arguments.routings.end();
  if (loads && arguments.load.empty()) {
    return Status::invalid_input("--routing load: needs a file of loads (--load)");
  }
  return Status::ok();
}

// Processes of mpirun, or threads of this one.
Result<dist::World> make_world(AllToAllArguments& arguments, int num_devices,
                               const std::optional<dist::Launch>& launch) {
  if (!launch) {
    if (arguments.ranks == 0) arguments.ranks = num_devices;
    return local_world(arguments.ranks);
  }
  ASSIGN_OR_RETURN(dist::World world, mpi_world());
  if (arguments.ranks != 0 && arguments.ranks != world.size()) {
    return Status::invalid_input(
        fmt::format("--ranks {}: mpirun started {}", arguments.ranks, world.size()));
  }
  arguments.ranks = world.size();
  return world;
}

Status write_report(const Job& job, bool mpi) {
  const AllToAllArguments& arguments = job.arguments;
  if (arguments.report_json.empty()) return Status::ok();
  OrderedJson document = {{"benchmark", "all-to-all"}};
  document.update(run_environment());
  document["ranks"] = arguments.ranks;
  document["world"] = mpi ? "mpi" : "local";
  document["hidden_size"] = arguments.hidden_size;
  document["num_slots"] = arguments.num_slots;
  document["top_k"] = arguments.top_k;
  document["combine"] = arguments.combine;
  document["link_limit_gbps"] = arguments.link_gbps;
  if (!arguments.load.empty()) {
    document["load"] = {{"file", arguments.load}, {"layer", arguments.layer}};
  }
  document["results"] = job.results;
  document["nccl"] = job.nccl;
  return write_file(arguments.report_json, document.dump(1) + "\n");
}

Status run_all_to_all(const AllToAllArguments& wanted) {
  const DeviceReport report = device_report();
  if (report.devices.empty()) {
    return Status::unavailable(fmt::format("bench all-to-all needs a GPU: {}", report.problem));
  }
  RETURN_IF_ERROR(check_arguments(wanted));
  Job job = {.arguments = wanted, .slot_loads = {}};
  if (!wanted.load.empty()) {
    ASSIGN_OR_RETURN(job.slot_loads, read_slot_loads(job.arguments));
  }
  const int num_devices = static_cast<int>(report.devices.size());
  ASSIGN_OR_RETURN(const std::optional<dist::Launch> launch, dist::launch_from_environment());
  ASSIGN_OR_RETURN(dist::World world, make_world(job.arguments, num_devices, launch));
  ThreadPool pool(1);
  const Status status = world.run([&](dist::Communicator& group) -> Status {
    const int place = launch ? launch->local_rank : group.rank();
    ASSIGN_OR_RETURN(const auto device, kernels::DeviceStream::open(pool, place % num_devices));
    return run_rank(job, group, device->stream());
  });
  if (!world.holds_rank_zero()) return Status::ok();
  RETURN_IF_ERROR(status);
  return write_report(job, launch.has_value());
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
  command
      ->add_option("--routing", arguments->routings,
                   "Where tokens go; load: as the slots of --load have tokens")
      ->delimiter(',')
      ->check(CLI::IsMember({"uniform", "load", "one_rank"}));
  command->add_option("--load", arguments->load, "Load of the slots, a file as eplb generate reads")
      ->check(CLI::ExistingPath);
  command->add_option("--layer", arguments->layer,
                      "Layer of --load; -1: the one with the largest share on a slot");
  command->add_flag("--nccl", arguments->nccl,
                    "Also times NCCL's all-to-all, all-gather and reduce-scatter of the same rows");
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
