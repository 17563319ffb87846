#include "moe/wide_ep_layer.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "base/share.h"

namespace wideep::moe {

WideEpLayer::WideEpLayer(Options options) : options_(std::move(options)) {
  CHECK(options_.wide_ep != nullptr);
  CHECK_EQ(std::ssize(options_.slots.down), options_.wide_ep->options().shape.slots_per_rank());
}

bool WideEpLayer::adds_residual() const {
  return options_.wide_ep->options().exchange.has_value();
}

int64_t WideEpLayer::scratch_bytes(int max_rows) const {
  const WideEpOptions& shared = options_.wide_ep->options();
  const int64_t pairs = int64_t{max_rows} * options_.shape.top_k;
  if (shared.exchange) {
    return Arena::matrix_bytes(pairs, 1) +
           WideEpDevice::choice_scratch_bytes({.exchange = *shared.exchange}) +
           exchange_scratch_bytes(*shared.exchange);
  }
  const int64_t ranks = shared.shape.num_ranks;
  // All tokens of a chunk may come to this rank.
  const int64_t most = std::min<int64_t>(max_rows * ranks, shared.all_to_all.max_tokens);
  return expert_scratch_bytes(most * options_.shape.top_k, options_.shape.intermediate_size) +
         Arena::matrix_bytes(pairs, 1) +
         Arena::matrix_bytes((ranks + 1) * shared.shape.num_experts, 1) + 8 * Arena::kAlignment;
}

Status WideEpLayer::forward(Stream& stream, Arena& arena, const MoeInput& input,
                            std::span<const int> dp_tokens, MatrixView y) {
  const WideEpOptions& shared = options_.wide_ep->options();
  CHECK_EQ(std::ssize(dp_tokens), shared.shape.num_ranks);
  const int64_t tokens = std::accumulate(dp_tokens.begin(), dp_tokens.end(), int64_t{0});
  if (tokens == 0) return Status::ok();
  const int chunks = num_chunks(tokens, shared.max_num_tokens);
  std::vector<int> chunk_tokens(dp_tokens.size());
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const auto [begin, end] = share_of(static_cast<int>(input.x.rows), chunks, chunk);
    const MoeInput rows = input.token_range(begin, end - begin, options_.shape.top_k);
    const MatrixView y_rows = y.row_range(begin, end - begin);
    if (!stream.is_cuda()) {
      RETURN_IF_ERROR(forward_chunk(stream, arena, rows, y_rows));
      continue;
    }
    std::ranges::transform(dp_tokens, chunk_tokens.begin(),
                           [&](int count) { return share_of(count, chunks, chunk).size(); });
    // Few tokens on many ranks may leave a chunk without any.
    if (*std::ranges::max_element(chunk_tokens) == 0) continue;
    RETURN_IF_ERROR(forward_on_device(stream, arena, rows, chunk_tokens, y_rows));
  }
  return Status::ok();
}

Status WideEpLayer::forward_on_device(Stream& stream, Arena& arena, const MoeInput& input,
                                      std::span<const int> tokens, MatrixView y) {
  const Arena::Scope scope(arena);
  WideEpDevice& device = *options_.wide_ep->device();
  const std::span<const int32_t> ids = input.all_ids(options_.shape.top_k);
  const std::span<int32_t> slots = arena.take<int32_t>(std::ssize(ids));
  RETURN_IF_ERROR(device.choose_slots(arena, options_.layer_index, ids, slots, profile()));
  if (options_.on_slots) options_.on_slots(stream, slots);
  MoeInput to_slots = input;
  to_slots.ids = slots.data();
  return device.exchange().forward(stream, arena,
                                   {.input = to_slots,
                                    .tokens = tokens,
                                    .slots = options_.slots,
                                    .rows_of_slots = device.counters(options_.layer_index),
                                    .copies = options_.wide_ep->copies(),
                                    .profile = profile()},
                                   y);
}

Status WideEpLayer::choose_slots(Stream& stream, Arena& arena, std::span<const int32_t> ids,
                                 std::span<int32_t> slots) {
  const Arena::Scope scope(arena);
  WideEp& shared = *options_.wide_ep;
  SlotChooser& chooser = shared.chooser(options_.layer_index);
  SlotChooser::Batch batch;
  batch.rank = shared.group().rank();
  batch.ids = ids;
  if (chooser.needs_counts()) {
    begin(stream, Phase::kCounts);
    const int num_experts = shared.options().shape.num_experts;
    const std::span<int32_t> own = arena.take<int32_t>(num_experts);
    std::ranges::fill(own, 0);
    for (const int32_t id : ids) {
      if (id >= 0) ++own[id];
    }
    const std::span<int32_t> all =
        arena.take<int32_t>(int64_t{shared.group().size()} * num_experts);
    RETURN_IF_ERROR(meet(stream, Phase::kCounts));
    RETURN_IF_ERROR(shared.group().all_gather(std::as_bytes(own), std::as_writable_bytes(all)));
    batch.counts = all;
  }
  begin(stream, Phase::kSplit);
  chooser.choose(batch, slots);
  return Status::ok();
}

Status WideEpLayer::forward_chunk(Stream& stream, Arena& arena, const MoeInput& input,
                                  MatrixView y) {
  const Arena::Scope scope(arena);
  WideEp& shared = *options_.wide_ep;
  alltoall::AllToAll& all_to_all = shared.all_to_all();
  const std::span<const int32_t> ids = input.all_ids(options_.shape.top_k);
  const std::span<int32_t> slots = arena.take<int32_t>(std::ssize(ids));
  RETURN_IF_ERROR(choose_slots(stream, arena, ids, slots));
  RETURN_IF_ERROR(meet(stream, Phase::kDispatch));
  RETURN_IF_ERROR(all_to_all.plan(stream, {input.x.rows, slots, input.weights}));
  begin(stream, Phase::kCounts);
  shared.count(options_.layer_index, ids);
  if (options_.on_slots) options_.on_slots(stream, slots);
  begin(stream, Phase::kDispatch);
  ASSIGN_OR_RETURN(const alltoall::Received received, all_to_all.dispatch(stream, input.x));
  begin(stream, Phase::kExperts);
  run_experts(stream, arena, options_.slots, received.offsets, received.rows, received.outputs);
  RETURN_IF_ERROR(meet(stream, Phase::kCombine));
  return all_to_all.combine(stream, y);
}

}  // namespace wideep::moe
