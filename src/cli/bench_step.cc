// wideep bench step: the time of single steps of a model, decode and prefill, beside the time that
// the machine needs at least to read what they touch.

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/float_formats.h"
#include "base/json.h"
#include "base/random.h"
#include "cli/bench_report.h"
#include "cli/commands.h"
#include "cli/engine_flags.h"
#include "config/mapping.h"
#include "dist/groups.h"
#include "engine/rank_device.h"
#include "kernels/op_profile.h"
#include "kernels/transfer.h"
#include "models/model.h"

namespace wideep::cli {
namespace {

struct StepArguments {
  EngineFlags engine;
  std::vector<int> batches = {1, 16, 64, 128};
  int context = 1024;
  std::vector<int> prefills = {8192};
  int steps = 20;
  bool profile = false;
  std::string report_json;
};

// One kind of step, and what it took.
struct StepResult {
  std::string kind;
  int sequences = 0;
  int tokens = 0;       // of the step
  double us = 0;        // a step, one behind the other
  double floor_us = 0;  // of the bytes alone
  int64_t bytes = 0;    // weights and keys that the step touches
  double expert_flops = 0;
  double experts_a_layer = 0;        // distinct ones, mean
  std::vector<kernels::OpTime> ops;  // of one step, where they were asked for
};

// Distinct experts of each layer in a step.
class ExpertCounter : public models::RoutingObserver {
 public:
  void on_routing(int layer, int, std::span<const int32_t> ids, int) override {
    experts_[layer].insert(ids.begin(), ids.end());
  }
  int64_t total() const {
    int64_t sum = 0;
    for (const auto& [layer, experts] : experts_) sum += std::ssize(experts);
    return sum;
  }
  double mean() const {
    return experts_.empty() ? 0
                            : static_cast<double>(total()) / static_cast<double>(experts_.size());
  }

 private:
  std::map<int, std::set<int32_t>> experts_;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class StepBench {
 public:
  StepBench(const StepArguments& arguments, const EngineJob& job, models::Model& model,
            Stream& stream)
      : arguments_(arguments), job_(job), model_(model), stream_(stream) {}

  Result<std::vector<StepResult>> run() {
    RETURN_IF_ERROR(allocate());
    ASSIGN_OR_RETURN(bytes_a_second_, measure_copy());
    std::vector<StepResult> results;
    for (const int batch : arguments_.batches) {
      ASSIGN_OR_RETURN(StepResult result, measure("decode", batch, 1, arguments_.context));
      results.push_back(std::move(result));
    }
    for (const int tokens : arguments_.prefills) {
      ASSIGN_OR_RETURN(StepResult result, measure("prefill", 1, tokens, 0));
      results.push_back(std::move(result));
    }
    return results;
  }
  double bytes_a_second() const { return bytes_a_second_; }

 private:
  int page_size() const { return job_.engine.kv_cache.tokens_per_block; }
  int pages_of(int tokens) const { return (tokens + page_size() - 1) / page_size(); }

  Status allocate() {
    int pages = 0;
    for (const int batch : arguments_.batches) {
      pages = std::max(pages, batch * pages_of(arguments_.context + 1));
    }
    for (const int tokens : arguments_.prefills) pages = std::max(pages, pages_of(tokens));
    const MemorySpace space = kernels::space_of(stream_);
    const int64_t page_bytes = model_.kv_spec().bytes_per_token() * page_size();
    ASSIGN_OR_RETURN(kv_, Buffer::allocate(page_bytes * pages, space));
    RETURN_IF_ERROR(model_.set_kv_memory({kv_.data(), pages, page_size()}));
    const int rows = std::max(1, *std::ranges::max_element(arguments_.batches));
    ASSIGN_OR_RETURN(logits_, Buffer::allocate(int64_t{rows} * job_.model.vocab_size *
                                                   static_cast<int64_t>(sizeof(float)),
                                               space));
    return fill_cache(page_bytes);
  }

  // Values like those of a model: zeros would be read as fast, but multiplied faster.
  Status fill_cache(int64_t chunk_bytes) {
    ASSIGN_OR_RETURN(const auto staging, kernels::Staging::create(stream_, chunk_bytes));
    const std::span<std::byte> memory = staging->begin();
    Random random(1);
    const bool is_wide = model_.kv_spec().dtype == DType::kF32;
    for (int64_t i = 0; i < chunk_bytes / dtype_size(model_.kv_spec().dtype); ++i) {
      const auto value = static_cast<float>(random.uniform() - 0.5);
      if (is_wide) {
        reinterpret_cast<float*>(memory.data())[i] = value;
      } else {
        reinterpret_cast<uint16_t*>(memory.data())[i] = float_to_bf16(value);
      }
    }
    for (int64_t at = 0; at < kv_.size(); at += chunk_bytes) {
      staging->send(stream_, std::min(chunk_bytes, kv_.size() - at), kv_.data() + at);
    }
    kernels::wait(stream_);
    return stream_.status();
  }

  // Bytes read and written a second by copies within the device.
  Result<double> measure_copy() {
    constexpr int64_t kBytes = int64_t{512} << 20;
    constexpr int kCopies = 20;
    const MemorySpace space = kernels::space_of(stream_);
    ASSIGN_OR_RETURN(const Buffer from, Buffer::allocate(kBytes, space));
    ASSIGN_OR_RETURN(const Buffer to, Buffer::allocate(kBytes, space));
    const auto copy = [&] {
      kernels::copy_bytes(stream_, from.span<const std::byte>(kBytes), to.data());
    };
    copy();
    kernels::wait(stream_);
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kCopies; ++i) copy();
    kernels::wait(stream_);
    RETURN_IF_ERROR(stream_.status());
    return 2.0 * kBytes * kCopies / seconds_since(start);
  }

  models::Batch make_batch(int sequences, int rows, int first_position) {
    models::Batch batch;
    Random random(7);
    const int pages = pages_of(first_position + rows);
    pages_.resize(static_cast<size_t>(sequences) * pages);
    std::iota(pages_.begin(), pages_.end(), 0);
    for (int s = 0; s < sequences; ++s) {
      const std::span<const int> own = std::span<const int>(pages_).subspan(
          static_cast<size_t>(s) * pages, static_cast<size_t>(pages));
      batch.sequences.push_back({s * rows, rows, first_position, own});
      for (int r = 0; r < rows; ++r) {
        batch.token_ids.push_back(static_cast<int>(random.below(job_.model.vocab_size)));
      }
      batch.logits_rows.push_back((s + 1) * rows - 1);
    }
    return batch;
  }

  Status forward(const models::Batch& batch) {
    return model_.forward(batch, matrix_view(logits_.as<float>(), std::ssize(batch.logits_rows),
                                             job_.model.vocab_size));
  }

  Result<std::vector<kernels::OpTime>> profile(const models::Batch& batch) {
    RETURN_IF_ERROR(kernels::begin_profile(stream_));
    RETURN_IF_ERROR(forward(batch));
    return kernels::end_profile(stream_);
  }

  Result<StepResult> measure(const char* kind, int sequences, int rows, int first_position) {
    const models::Batch batch = make_batch(sequences, rows, first_position);
    ExpertCounter experts;
    model_.add_routing_observer(experts);
    const Status counted = forward(batch);
    model_.remove_routing_observer(experts);
    RETURN_IF_ERROR(counted);
    // The first steps choose kernels and capture graphs.
    for (int i = 0; i < 3; ++i) RETURN_IF_ERROR(forward(batch));
    kernels::wait(stream_);
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < arguments_.steps; ++i) RETURN_IF_ERROR(forward(batch));
    kernels::wait(stream_);
    RETURN_IF_ERROR(stream_.status());

    const double seconds = seconds_since(start);
    StepResult result;
    if (arguments_.profile) {
      ASSIGN_OR_RETURN(result.ops, profile(batch));
    }
    result.kind = kind;
    result.sequences = sequences;
    result.tokens = sequences * rows;
    result.us = seconds / arguments_.steps * 1e6;
    result.experts_a_layer = experts.mean();
    result.bytes = touched_bytes(sequences, rows, first_position, experts.total());
    result.floor_us = static_cast<double>(result.bytes) / bytes_a_second_ * 1e6;
    const ModelConfig& model = job_.model;
    result.expert_flops = 6.0 * result.tokens * model.moe.top_k * model.hidden_size *
                          model.moe.intermediate_size *
                          static_cast<double>(model.moe_layers.size());
    return result;
  }

  // Of all weights but the embedding and the experts that no token went to, and of the keys.
  int64_t touched_bytes(int sequences, int rows, int first_position, int64_t experts) const {
    const ModelConfig& model = job_.model;
    const int64_t dense_size = dtype_size(models::unquantized(job_.dtype));
    const int64_t expert_bytes =
        int64_t{3} * model.hidden_size * model.moe.intermediate_size * dtype_size(job_.dtype);
    const int64_t all_experts = model.moe.num_experts * std::ssize(model.moe_layers);
    const int64_t weights = model_.memory().weights -
                            int64_t{model.vocab_size} * model.hidden_size * dense_size -
                            (all_experts - experts) * expert_bytes;
    return weights + model_.kv_spec().bytes_per_token() * sequences * (first_position + rows);
  }

  const StepArguments& arguments_;
  const EngineJob& job_;
  models::Model& model_;
  Stream& stream_;
  Buffer kv_;
  Buffer logits_;
  std::vector<int> pages_;
  double bytes_a_second_ = 0;
};

OrderedJson ops_json(const std::vector<kernels::OpTime>& ops) {
  OrderedJson json = OrderedJson::object();
  for (const kernels::OpTime& time : ops) {
    json[time.op] = {{"calls", time.calls}, {"us", time.us}};
  }
  return json;
}

OrderedJson to_json(const StepResult& result) {
  return {{"kind", result.kind},
          {"sequences", result.sequences},
          {"tokens", result.tokens},
          {"us", result.us},
          {"floor_us", result.floor_us},
          {"times_floor", result.us / result.floor_us},
          {"bytes", result.bytes},
          {"experts_a_layer", result.experts_a_layer},
          {"expert_tflops", result.expert_flops / result.us * 1e-6},
          {"ops", ops_json(result.ops)}};
}

void print(const std::vector<StepResult>& results, double bytes_a_second) {
  fmt::print("copies within the device: {:.0f} GB/s\n", bytes_a_second * 1e-9);
  fmt::print("{:<8} {:>9} {:>7} {:>8} {:>10} {:>10} {:>7} {:>10}\n", "step", "sequences", "tokens",
             "experts", "us", "floor us", "times", "TFLOP/s");
  for (const StepResult& result : results) {
    fmt::print("{:<8} {:>9} {:>7} {:>8.1f} {:>10.1f} {:>10.1f} {:>7.2f} {:>10.1f}\n", result.kind,
               result.sequences, result.tokens, result.experts_a_layer, result.us, result.floor_us,
               result.us / result.floor_us, result.expert_flops / result.us * 1e-6);
  }
  for (const StepResult& result : results) {
    if (result.ops.empty()) continue;
    fmt::print("\n{} of {} tokens: calls and us of each op\n", result.kind, result.tokens);
    for (const kernels::OpTime& time : result.ops) {
      fmt::print("  {:<28} {:>4} {:>10.1f}\n", time.op, time.calls, time.us);
    }
  }
  fmt::print(
      "floor: bytes of weights and keys that a step touches, at the rate of copies; experts: "
      "distinct ones a layer; TFLOP/s: of the experts' products over the whole step\n");
}

Status step_rank(const StepArguments& arguments, EngineJob job, ThreadPool& pool,
                 dist::Communicator& world) {
  if (arguments.profile) job.engine.cuda_graph.reset();
  if (world.size() > 1) {
    return Status::invalid_input("bench step: runs on one rank: leave out --tp, --pp, --cp, --ep");
  }
  ASSIGN_OR_RETURN(const Mapping mapping, Mapping::create(job.engine.parallel));
  ASSIGN_OR_RETURN(dist::Groups groups, dist::make_groups(mapping, world));
  ASSIGN_OR_RETURN(const auto device, engine::RankDevice::open(job.device, pool, world));
  ASSIGN_OR_RETURN(const auto source,
                   models::open_weights(job.engine.load_format, job.folder, job.model));
  models::ModelOptions options;
  options.config = &job.model;
  options.engine = &job.engine;
  options.mapping = &mapping;
  options.groups = &groups;
  options.source = source.get();
  options.weight_dtype = job.dtype;
  options.kv_dtype = models::unquantized(job.dtype);
  options.available_bytes = device->available_bytes();
  const auto start = std::chrono::steady_clock::now();
  ASSIGN_OR_RETURN(const auto model, models::Model::create(device->stream(), options));
  fmt::print(stderr, "{:.2f} GB of weights in {:.1f} s\n",
             static_cast<double>(model->memory().weights) * 1e-9, seconds_since(start));
  StepBench bench(arguments, job, *model, device->stream());
  ASSIGN_OR_RETURN(const std::vector<StepResult> results, bench.run());
  print(results, bench.bytes_a_second());
  if (arguments.report_json.empty()) return Status::ok();
  OrderedJson report = {{"benchmark", "step"}};
  report.update(run_environment());
  report["model"] = {{"folder", job.folder}, {"dtype", dtype_name(job.dtype)}};
  report["context"] = arguments.context;
  report["copy_gbps"] = bench.bytes_a_second() * 1e-9;
  OrderedJson list = OrderedJson::array();
  for (const StepResult& result : results) list.push_back(to_json(result));
  report["results"] = list;
  return write_file(arguments.report_json, report.dump(1) + "\n");
}

// What the steps need of the configuration.
void complete(StepArguments& arguments) {
  EngineOverrides& overrides = arguments.engine.overrides;
  const int rows = std::max(*std::ranges::max_element(arguments.batches),
                            *std::ranges::max_element(arguments.prefills));
  if (!overrides.max_num_tokens) overrides.max_num_tokens = rows;
  if (!overrides.max_batch_size) {
    overrides.max_batch_size = *std::ranges::max_element(arguments.batches);
  }
  if (!overrides.max_seq_len) {
    overrides.max_seq_len =
        std::max(arguments.context + 1, *std::ranges::max_element(arguments.prefills) + 1);
  }
}

}  // namespace

void add_bench_step(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "step", "Time single steps of a model on one rank, beside what reading its weights takes");
  auto arguments = std::make_shared<StepArguments>();
  add_engine_flags(*command, arguments->engine);
  command->add_option("--batch", arguments->batches, "Sequences of the decode steps")
      ->delimiter(',')
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command->add_option("--context", arguments->context, "Tokens that each of them has in the cache")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command->add_option("--prefill", arguments->prefills, "Tokens of the prefill steps")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--steps", arguments->steps, "Steps to time")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command->add_flag("--profile", arguments->profile,
                    "Run eagerly, and time each op of a step, too (on a GPU)");
  command->add_option("--report_json", arguments->report_json, "Write the results here");
  command->callback([arguments] {
    complete(*arguments);
    run_ranks(arguments->engine,
              [&](const EngineJob& job, ThreadPool& pool, dist::Communicator& world) {
                return step_rank(*arguments, job, pool, world);
              });
  });
}

}  // namespace wideep::cli
