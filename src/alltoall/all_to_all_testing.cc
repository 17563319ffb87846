#include "alltoall/all_to_all_testing.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <numeric>

namespace wideep::alltoall {
namespace {

float factor_of(int slot) {
  return 0.25F + static_cast<float>(slot % 7);
}

// What rank `rank` must receive: the rows and, for each of its slots, how many.
struct Expected {
  std::vector<float> rows;
  std::vector<int> offsets = {0};
};

Expected expected_rows(const BatchCase& batch, const GroupShape& shape, int rank) {
  Expected expected;
  const int slots_per_rank = shape.num_slots / batch.num_ranks();
  for (int slot = rank * slots_per_rank; slot < (rank + 1) * slots_per_rank; ++slot) {
    for (int source = 0; source < batch.num_ranks(); ++source) {
      for (size_t pair = 0; pair < batch.slots[source].size(); ++pair) {
        if (batch.slots[source][pair] != slot) continue;
        const float* x = batch.x[source].data() + pair / shape.top_k * shape.hidden_size;
        for (int i = 0; i < shape.hidden_size; ++i) {
          expected.rows.push_back(shape.weight_scales_input ? x[i] * batch.weights[source][pair]
                                                            : x[i]);
        }
      }
    }
    expected.offsets.push_back(static_cast<int>(expected.rows.size()) / shape.hidden_size);
  }
  return expected;
}

// One element of y in both orders of summation, in float, and the sum of its terms' magnitudes.
struct ExpectedElement {
  float exact = 0;
  float reduced = 0;
  double magnitude = 0;
};

ExpectedElement expected_element(const BatchCase& batch, const GroupShape& shape, int rank,
                                 int64_t token, int column) {
  const int slots_per_rank = shape.num_slots / batch.num_ranks();
  const float x = batch.x[rank][token * shape.hidden_size + column];
  std::vector<float> parts(static_cast<size_t>(batch.num_ranks()), 0.0F);
  ExpectedElement expected;
  for (int k = 0; k < shape.top_k; ++k) {
    const int64_t pair = token * shape.top_k + k;
    const int slot = batch.slots[rank][pair];
    if (slot < 0) continue;
    const float weight = batch.weights[rank][pair];
    const float in = shape.weight_scales_input ? x * weight : x;
    const float out = (shape.weight_scales_input ? 1.0F : weight) * (in * factor_of(slot));
    expected.exact += out;
    expected.magnitude += std::fabs(out);
    parts[slot / slots_per_rank] += out;
  }
  expected.reduced = std::accumulate(parts.begin(), parts.end(), 0.0F);
  return expected;
}

Status check_received(const BatchCase& batch, const GroupShape& shape, int rank,
                      const Received& received) {
  const Expected expected = expected_rows(batch, shape, rank);
  if (!std::ranges::equal(expected.offsets, received.offsets)) {
    return Status::invalid_input("offsets differ");
  }
  const std::span<const float> rows(received.rows.row<float>(0),
                                    static_cast<size_t>(received.rows.rows * shape.hidden_size));
  const auto bits = [](float value) { return std::bit_cast<uint32_t>(value); };
  if (!std::ranges::equal(rows, expected.rows, {}, bits, bits)) {
    return Status::invalid_input("received rows differ");
  }
  return Status::ok();
}

void run_experts(const GroupShape& shape, int rank, const Received& received) {
  const int slots_per_rank = static_cast<int>(received.offsets.size()) - 1;
  for (int s = 0; s < slots_per_rank; ++s) {
    for (int row = received.offsets[s]; row < received.offsets[s + 1]; ++row) {
      for (int i = 0; i < shape.hidden_size; ++i) {
        received.outputs.row<float>(row)[i] =
            received.rows.row<float>(row)[i] * factor_of(rank * slots_per_rank + s);
      }
    }
  }
}

Status check_counts(const BatchCase& batch, const GroupShape& shape,
                    std::span<const int32_t> rows_of_slots) {
  for (int rank = 0; rank < batch.num_ranks(); ++rank) {
    for (int slot = 0; slot < shape.num_slots; ++slot) {
      const auto count = std::ranges::count(batch.slots[rank], slot);
      if (rows_of_slots[rank * shape.num_slots + slot] != count) {
        return Status::invalid_input(fmt::format("rows of slot {} differ", slot));
      }
    }
  }
  return Status::ok();
}

}  // namespace

std::string BatchCase::describe() const {
  return fmt::format("{} ranks, {} slots, top-k {}, hidden {}, {} tokens, scaled input {}",
                     num_ranks(), shape.num_slots, shape.top_k, shape.hidden_size,
                     std::accumulate(num_tokens.begin(), num_tokens.end(), 0),
                     shape.weight_scales_input);
}

BatchCase make_batch(Random& random, const GroupShape& shape, std::vector<int> num_tokens) {
  BatchCase batch;
  batch.shape = shape;
  batch.num_tokens = std::move(num_tokens);
  const auto value = [&] { return static_cast<float>(2 * random.uniform() - 1); };
  for (const int count : batch.num_tokens) {
    std::vector<float>& x = batch.x.emplace_back(static_cast<size_t>(count) * shape.hidden_size);
    std::ranges::generate(x, value);
    std::vector<float>& weights =
        batch.weights.emplace_back(static_cast<size_t>(count) * shape.top_k);
    std::ranges::generate(weights, value);
    std::vector<int32_t>& slots =
        batch.slots.emplace_back(static_cast<size_t>(count) * shape.top_k);
    std::ranges::generate(slots, [&] {
      return random.below(10) == 0 ? -1 : static_cast<int32_t>(random.below(shape.num_slots));
    });
  }
  const int64_t total =
      std::accumulate(batch.num_tokens.begin(), batch.num_tokens.end(), int64_t{0});
  batch.shape.max_tokens = std::max<int64_t>(1, total);
  return batch;
}

BatchCase random_batch(Random& random) {
  const int ranks = 1 + static_cast<int>(random.below(9));
  GroupShape shape;
  shape.num_slots = ranks * (1 + static_cast<int>(random.below(5)));
  shape.top_k = 1 + static_cast<int>(random.below(9));
  shape.hidden_size = 1 + static_cast<int>(random.below(600));
  shape.weight_scales_input = random.below(3) == 0;
  std::vector<int> num_tokens;
  for (int rank = 0; rank < ranks; ++rank) {
    num_tokens.push_back(random.below(4) == 0 ? 0 : static_cast<int>(random.below(12)));
  }
  return make_batch(random, shape, num_tokens);
}

Status check_round_trip(const BatchCase& batch, const GroupShape& shape, Stream& stream, int rank,
                        AllToAll& all_to_all, const std::function<void(int)>& before_call) {
  const int tokens = batch.num_tokens[rank];
  before_call(0);
  RETURN_IF_ERROR(all_to_all.plan(stream, batch.routing(rank)));
  RETURN_IF_ERROR(check_counts(batch, shape, all_to_all.rows_of_slots()));
  before_call(1);
  ASSIGN_OR_RETURN(
      const Received received,
      all_to_all.dispatch(stream, matrix_view(batch.x[rank].data(), tokens, shape.hidden_size)));
  RETURN_IF_ERROR(check_received(batch, shape, rank, received));
  run_experts(shape, rank, received);
  before_call(2);
  std::vector<float> y(static_cast<size_t>(tokens) * shape.hidden_size, NAN);
  RETURN_IF_ERROR(all_to_all.combine(stream, matrix_view(y.data(), tokens, shape.hidden_size)));
  for (size_t i = 0; i < y.size(); ++i) {
    const auto token = static_cast<int64_t>(i) / shape.hidden_size;
    const ExpectedElement element =
        expected_element(batch, shape, rank, token, static_cast<int>(i % shape.hidden_size));
    const float expected = shape.combine == CombineMode::kExact ? element.exact : element.reduced;
    // What docs/wide_ep.md says of the two modes: each sum of top_k terms is off by at most
    // (top_k - 1) roundings of the terms' magnitudes.
    const double bound = 2 * (shape.top_k - 1) * 0x1p-24 * element.magnitude;
    if (std::fabs(double{element.exact} - double{element.reduced}) > bound) {
      return Status::invalid_input(fmt::format("y[{}]: the orders of summation differ too far", i));
    }
    // == rather than the bits: a sum over ranks may give either zero.
    if (y[i] != expected) {
      return Status::invalid_input(fmt::format("y[{}] is {}, not {}", i, y[i], expected));
    }
  }
  return Status::ok();
}

}  // namespace wideep::alltoall
