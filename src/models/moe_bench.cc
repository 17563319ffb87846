#include "models/moe_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <numeric>
#include <optional>
#include <thread>
#include <utility>

#include "base/arena.h"
#include "base/float_formats.h"
#include "base/random.h"
#include "base/share.h"
#include "kernels/transfer.h"
#include "models/tensor_list.h"
#include "models/weight_type.h"
#include "models/wide_ep_setup.h"

namespace wideep::models {
namespace {

using moe::Phase;

// Rows of the output that are kept, to be compared.
constexpr int64_t kKeptRows = 64;

// The first layers with experts.
Mapping::Layers range_of(const ModelConfig& model, int num_layers) {
  return {model.moe_layers.front(), model.moe_layers[static_cast<size_t>(num_layers) - 1] + 1};
}

// Fills memory of the stream's device with what `fill` writes, and waits for it.
Status fill_buffer(Stream& stream, Buffer& buffer, const std::function<void(std::byte*)>& fill) {
  ASSIGN_OR_RETURN(const auto staging, kernels::Staging::create(stream, buffer.size()));
  fill(staging->begin().data());
  staging->send(stream, buffer.size(), buffer.data());
  kernels::wait(stream);
  return stream.status();
}

}  // namespace

Status check_moe_layers(const ModelConfig& model, int num_layers) {
  if (num_layers >= 1 && num_layers <= std::ssize(model.moe_layers)) return Status::ok();
  return Status::invalid_input(
      fmt::format("--layers {}: the model has {} MoE layers", num_layers, model.moe_layers.size()));
}

Result<std::unique_ptr<MoeBench>> MoeBench::create(Stream& stream, const ModelOptions& options,
                                                   int num_layers) {
  RETURN_IF_ERROR(check_moe_layers(*options.config, num_layers));
  std::unique_ptr<MoeBench> bench(new MoeBench(stream, options, num_layers));
  if (bench->group_.size() > 1) {
    ASSIGN_OR_RETURN(bench->tensors_, dist::TensorGroup::create(bench->group_, stream));
  }
  for (int l = 0; l < num_layers; ++l) {
    const int layer = options.config->moe_layers[static_cast<size_t>(l)];
    bench->layers_.push_back(make_feed_forward(
        {.model = &bench->options_,
         .rank = options.groups->coordinates,
         .layer = layer,
         .prefix = fmt::format("{}model.layers.{}.", name_prefix(*options.config), layer),
         .tp = bench->tensors_.get(),
         .on_gpu = stream.is_cuda(),
         .observer = &bench->observer_,
         .wide_ep = bench->wide_ep_.get()},
        bench->store_));
  }
  RETURN_IF_ERROR(bench->allocate());
  RETURN_IF_ERROR(bench->store_.load(stream, *options.source));
  RETURN_IF_ERROR(bench->fill_rows());
  if (bench->wide_ep_ != nullptr) {
    std::vector<std::vector<moe::SlotBytes>> slots;
    for (const auto& layer : bench->layers_) slots.push_back(slot_bytes(bench->store_, *layer));
    RETURN_IF_ERROR(bench->wide_ep_->start(bench->group_, std::move(slots),
                                           stream.is_cuda() ? &stream : nullptr));
  }
  return bench;
}

MoeBench::MoeBench(Stream& stream, const ModelOptions& options, int num_layers)
    : stream_(stream),
      options_(options),
      config_(*options.config),
      group_(*options.groups->moe_ep),
      store_(kernels::space_of(stream)),
      states_(static_cast<size_t>(group_.size())) {
  if (options_.engine->moe.backend != MoeBackend::kWideEp) return;
  std::optional<DType> gpu_weights;
  if (stream.is_cuda()) gpu_weights = options.weight_dtype;
  wide_ep_ = std::make_unique<moe::WideEp>(wide_ep_options(
      config_, *options_.engine, *options_.mapping, range_of(config_, num_layers), gpu_weights));
}

int64_t MoeBench::scratch_bytes() const {
  const int rows = options_.engine->max_num_tokens;
  int64_t bytes = 0;
  for (const auto& layer : layers_) bytes = std::max(bytes, layer->scratch_bytes(rows));
  return bytes;
}

Status MoeBench::allocate() {
  const DType dtype = activation_dtype(stream_, options_.weight_dtype);
  const int64_t rows =
      Arena::matrix_bytes(options_.engine->max_num_tokens, config_.hidden_size, dtype);
  int64_t need = store_.bytes() + 2 * rows + scratch_bytes();
  if (wide_ep_ != nullptr && stream_.is_cuda()) {
    ASSIGN_OR_RETURN(const int64_t bytes, wide_ep_->device_bytes());
    need += bytes;
  }
  if (options_.available_bytes > 0 && need > options_.available_bytes) {
    constexpr double kGiB = 1024.0 * 1024 * 1024;
    return Status::unavailable(
        fmt::format("memory: the weights of {} layers, their scratch and the rows take {:.2f} GiB "
                    "on this rank, {:.2f} GiB "
                    "are free: use more ranks (--ep), fewer --layers, or a smaller --dtype",
                    layers_.size(), static_cast<double>(need) / kGiB,
                    static_cast<double>(options_.available_bytes) / kGiB));
  }
  const MemorySpace space = kernels::space_of(stream_);
  ASSIGN_OR_RETURN(x_, Buffer::allocate(rows, space));
  ASSIGN_OR_RETURN(y_, Buffer::allocate(rows, space));
  ASSIGN_OR_RETURN(scratch_, Buffer::allocate(scratch_bytes(), space));
  ASSIGN_OR_RETURN(flag_, Buffer::allocate(Arena::kAlignment, space));
  kernels::zero_bytes(stream_, flag_.span<std::byte>(flag_.size()));
  return Status::ok();
}

// Rows of mean square 1, as behind a norm.
Status MoeBench::fill_rows() {
  const DType dtype = activation_dtype(stream_, options_.weight_dtype);
  return fill_buffer(stream_, x_, [&](std::byte* memory) {
    Random random(7, {static_cast<uint64_t>(group_.rank())});
    const double range = std::sqrt(3.0);
    for (int64_t i = 0; i < x_.size() / dtype_size(dtype); ++i) {
      const auto value = static_cast<float>(range * (2 * random.uniform() - 1));
      if (dtype == DType::kF32) {
        reinterpret_cast<float*>(memory)[i] = value;
      } else {
        reinterpret_cast<uint16_t*>(memory)[i] = float_to_bf16(value);
      }
    }
  });
}

Status MoeBench::meet() {
  if (tensors_ == nullptr) return Status::ok();
  return tensors_->all_reduce_sum(matrix_view(flag_.as<float>(), 1, 1));
}

Status MoeBench::set_ids(const MoeBenchInput& input) {
  CHECK(!input.batches.empty() && input.tokens <= options_.engine->max_num_tokens);
  const auto each = static_cast<size_t>(input.tokens) * static_cast<size_t>(config_.moe.top_k);
  std::vector<int32_t> all;
  for (const auto& batch : input.batches) {
    CHECK_EQ(batch.size(), layers_.size());
    for (const std::vector<int32_t>& ids : batch) {
      CHECK_EQ(ids.size(), each);
      all.insert(all.end(), ids.begin(), ids.end());
    }
  }
  const std::span<const std::byte> bytes = std::as_bytes(std::span(all));
  ASSIGN_OR_RETURN(ids_, Buffer::allocate(std::ssize(bytes), kernels::space_of(stream_)));
  return fill_buffer(stream_, ids_, [&](std::byte* memory) { std::ranges::copy(bytes, memory); });
}

// What attention DP does before an iteration.
Status MoeBench::exchange_states() {
  if (wide_ep_ == nullptr) return Status::ok();
  const moe::RankState own = wide_ep_->state();
  return group_.all_gather(std::as_bytes(std::span(&own, 1)),
                           std::as_writable_bytes(std::span(states_)));
}

Status MoeBench::call(const MoeBenchInput& input, int number, moe::LayerProfile* profile) {
  const auto begin = [&](Phase phase) {
    if (profile != nullptr) profile->begin(stream_, phase);
  };
  const MoeModelConfig& moe = config_.moe;
  const DType dtype = activation_dtype(stream_, options_.weight_dtype);
  const int64_t tokens = input.tokens;
  const MatrixView x = {x_.data(), dtype, tokens, config_.hidden_size, config_.hidden_size};
  const MatrixView y = {y_.data(), dtype, tokens, config_.hidden_size, config_.hidden_size};
  const std::vector<int> dp_tokens(static_cast<size_t>(group_.size()), input.tokens);
  const int64_t batch = number % std::ssize(input.batches);
  const int32_t* ids = ids_.as<int32_t>() + batch * std::ssize(layers_) * tokens * moe.top_k;
  if (wide_ep_ != nullptr) {
    begin(Phase::kBalancer);
    RETURN_IF_ERROR(wide_ep_->begin_iteration(states_));
    ++iteration_;
  }
  Arena arena(scratch_.span<std::byte>(scratch_.size()));
  for (const auto& layer : layers_) {
    const Arena::Scope scope(arena);
    begin(Phase::kRouter);
    // The router's weights with the ids of the routing that was asked for.
    const std::span<int32_t> chosen = arena.take<int32_t>(tokens * moe.top_k);
    const std::span<float> weights = arena.take<float>(tokens * moe.top_k);
    layer->router()->forward(
        stream_, x, {arena.matrix(tokens, moe.num_experts), chosen.data(), weights.data()});
    layer->experts()->set_profile(profile);
    RETURN_IF_ERROR(
        layer->experts()->forward(stream_, arena, {x, ids, weights.data()}, dp_tokens, y));
    ids += tokens * moe.top_k;
  }
  if (profile != nullptr) profile->end(stream_);
  if (wide_ep_ != nullptr) RETURN_IF_ERROR(wide_ep_->end_iteration());
  return stream_.status();
}

void MoeBench::wait_for_planner() const {
  constexpr std::chrono::microseconds kPause{50};
  while (wide_ep_->state().num_planned < iteration_ - 1) std::this_thread::sleep_for(kPause);
}

Status MoeBench::warm_up(const MoeBenchInput& input, MoeBenchResult& result) {
  const bool is_online = wide_ep_ != nullptr && wide_ep_->options().layer_updates_per_iter > 0;
  for (int i = 0; i < input.warmup; ++i) {
    if (input.settle && is_online) wait_for_planner();
    RETURN_IF_ERROR(exchange_states());
    RETURN_IF_ERROR(call(input, i, nullptr));
    if (wide_ep_ != nullptr) result.transfers += wide_ep_->report().migration.transfers;
  }
  return Status::ok();
}

Status MoeBench::time_calls(const MoeBenchInput& input, MoeBenchResult& result) {
  enum Label { kCall, kBetween };
  const auto clock = kernels::StreamClock::create(stream_);
  for (int i = 0; i < input.calls; ++i) {
    RETURN_IF_ERROR(exchange_states());
    RETURN_IF_ERROR(meet());
    clock->mark(stream_, kCall);
    RETURN_IF_ERROR(call(input, i, nullptr));
    clock->mark(stream_, kBetween);
    if (wide_ep_ != nullptr) result.late_transfers += wide_ep_->report().migration.transfers;
  }
  ASSIGN_OR_RETURN(const std::vector<kernels::Lap> laps, clock->laps(stream_));
  std::vector<int64_t> slowest;  // in nanoseconds, as that is what ranks can compare
  for (const kernels::Lap& lap : laps) {
    if (lap.label == kCall) slowest.push_back(std::llround(1e3 * lap.us));
  }
  RETURN_IF_ERROR(group_.all_reduce_max(std::span<int64_t>(slowest)));
  for (const int64_t ns : slowest) {
    result.us.push_back(1e-3 * static_cast<double>(ns) / static_cast<double>(layers_.size()));
  }
  return Status::ok();
}

Status MoeBench::profile_calls(const MoeBenchInput& input, MoeBenchResult& result) {
  moe::LayerProfile profile(stream_, [this] { return meet(); });
  for (int i = 0; i < input.calls; ++i) {
    RETURN_IF_ERROR(exchange_states());
    RETURN_IF_ERROR(meet());
    RETURN_IF_ERROR(call(input, i, &profile));
    if (wide_ep_ != nullptr) result.late_transfers += wide_ep_->report().migration.transfers;
  }
  ASSIGN_OR_RETURN(result.phases, profile.finish(stream_, group_));
  const double calls = static_cast<double>(input.calls) * static_cast<double>(layers_.size());
  for (moe::LayerProfile::Times& times : result.phases) {
    for (double& us : times) us /= calls;
  }
  return Status::ok();
}

Result<std::optional<moe::MoveTimes>> MoeBench::time_moves() {
  const bool moves = wide_ep_ != nullptr && wide_ep_->options().layer_updates_per_iter > 0;
  if (!moves || !stream_.is_cuda() || group_.size() == 1) return std::optional<moe::MoveTimes>();
  const std::vector<moe::SlotBytes> slots = slot_bytes(store_, *layers_.front());
  ASSIGN_OR_RETURN(const moe::MoveTimes times, moe::time_moves(stream_, group_, slots.front()));
  return std::optional(times);
}

// Every batch once more, so that keeping loads takes no time of the others.
Status MoeBench::observe_calls(const MoeBenchInput& input, MoeBenchResult& result) {
  const auto count = static_cast<int>(std::ssize(input.batches));
  if (wide_ep_ != nullptr) wide_ep_->observe(true);
  for (int i = 0; i < count; ++i) {
    RETURN_IF_ERROR(exchange_states());
    RETURN_IF_ERROR(call(input, i, nullptr));
    ASSIGN_OR_RETURN(const double imbalance, sum_imbalance(input, i));
    result.imbalance += imbalance / (count * static_cast<double>(layers_.size()));
  }
  if (wide_ep_ != nullptr) wide_ep_->observe(false);
  return Status::ok();
}

// Of the last call, over its layers.
Result<double> MoeBench::sum_imbalance(const MoeBenchInput& input, int number) {
  double sum = 0;
  if (wide_ep_ != nullptr) {
    for (const moe::LayerReport& layer : wide_ep_->report().layers) sum += layer.imbalance;
    return sum;
  }
  const size_t batch = static_cast<size_t>(number) % input.batches.size();
  for (const std::vector<int32_t>& ids : input.batches[batch]) {
    std::vector<int64_t> rows(static_cast<size_t>(group_.size()));
    for (int rank = 0; rank < group_.size(); ++rank) {
      const Share experts = share_of(config_.moe.num_experts, group_.size(), rank);
      rows[rank] = std::ranges::count_if(ids, [&](int id) { return experts.contains(id); });
    }
    RETURN_IF_ERROR(group_.all_reduce_sum(std::span<int64_t>(rows)));
    const int64_t total = std::accumulate(rows.begin(), rows.end(), int64_t{0});
    if (total == 0) continue;
    sum +=
        static_cast<double>(std::ranges::max(rows) * group_.size()) / static_cast<double>(total) -
        1;
  }
  return sum;
}

Result<std::vector<float>> MoeBench::fetch_y(const MoeBenchInput& input) {
  RETURN_IF_ERROR(exchange_states());
  RETURN_IF_ERROR(call(input, 0, nullptr));
  const DType dtype = activation_dtype(stream_, options_.weight_dtype);
  const int64_t count = std::min<int64_t>(input.tokens, kKeptRows) * config_.hidden_size;
  std::vector<std::byte> bytes(static_cast<size_t>(count * dtype_size(dtype)));
  kernels::fetch_bytes(stream_, y_.span<const std::byte>(std::ssize(bytes)), bytes.data());
  RETURN_IF_ERROR(stream_.status());
  if (wide_ep_ != nullptr) RETURN_IF_ERROR(wide_ep_->check());
  std::vector<float> y(static_cast<size_t>(count));
  for (size_t i = 0; i < y.size(); ++i) {
    y[i] = dtype == DType::kF32 ? reinterpret_cast<const float*>(bytes.data())[i]
                                : bf16_to_float(reinterpret_cast<const uint16_t*>(bytes.data())[i]);
  }
  return y;
}

Result<MoeBenchResult> MoeBench::measure(const MoeBenchInput& input) {
  MoeBenchResult result;
  RETURN_IF_ERROR(set_ids(input));
  RETURN_IF_ERROR(warm_up(input, result));
  RETURN_IF_ERROR(time_calls(input, result));
  RETURN_IF_ERROR(profile_calls(input, result));
  RETURN_IF_ERROR(observe_calls(input, result));
  ASSIGN_OR_RETURN(result.y, fetch_y(input));
  return result;
}

}  // namespace wideep::models
