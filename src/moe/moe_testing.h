// Small random MoE layers, their definition in double, and their weights as ranks hold them.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "base/random.h"
#include "moe/migration.h"
#include "moe/moe_layer.h"

namespace wideep::moe {

inline std::vector<float> random_values(Random& random, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(2 * random.uniform() - 1);
  return values;
}

// All experts of a layer, unpacked.
struct Experts {
  Experts(Random& random, int num_experts_in, int hidden_in, int intermediate_in)
      : num_experts(num_experts_in), hidden(hidden_in), intermediate(intermediate_in) {
    for (int e = 0; e < num_experts; ++e) {
      gate_up.push_back(random_values(random, int64_t{2} * intermediate * hidden));
      down.push_back(random_values(random, int64_t{hidden} * intermediate));
    }
  }

  int num_experts;
  int hidden;
  int intermediate;
  std::vector<std::vector<float>> gate_up;  // [2 * intermediate, hidden]
  std::vector<std::vector<float>> down;     // [hidden, intermediate]
};

// Tokens of one rank.
struct Tokens {
  Tokens(Random& random, const Experts& experts, int count_in, int top_k_in)
      : count(count_in),
        top_k(top_k_in),
        x(random_values(random, int64_t{count} * experts.hidden)) {
    for (int i = 0; i < count * top_k; ++i) {
      ids.push_back(static_cast<int32_t>(random.below(experts.num_experts)));
      weights.push_back(static_cast<float>(random.uniform()));
    }
  }

  int count;
  int top_k;
  std::vector<float> x;  // [count, hidden]
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

// The layer's definition in double.
inline std::vector<double> oracle(const Experts& experts, const Tokens& tokens, bool scales_input) {
  const int hidden = experts.hidden;
  std::vector<double> y(static_cast<size_t>(tokens.count) * hidden);
  for (int pair = 0; pair < tokens.count * tokens.top_k; ++pair) {
    const int token = pair / tokens.top_k;
    const int expert = tokens.ids[pair];
    const double weight = tokens.weights[pair];
    const auto project = [&](int row) {
      double sum = 0;
      for (int i = 0; i < hidden; ++i) {
        sum += (scales_input ? weight : 1) * tokens.x[token * hidden + i] *
               experts.gate_up[expert][row * hidden + i];
      }
      return sum;
    };
    for (int j = 0; j < experts.intermediate; ++j) {
      const double gate = project(j);
      const double activated = gate / (1 + std::exp(-gate)) * project(experts.intermediate + j);
      for (int o = 0; o < hidden; ++o) {
        y[token * hidden + o] += (scales_input ? 1 : weight) * activated *
                                 experts.down[expert][o * experts.intermediate + j];
      }
    }
  }
  return y;
}

// Experts of one rank, or slices of them, packed.
class PackedExperts {
 public:
  // ids: the experts, in the order of the slots. Columns [first_column, last_column) of each.
  PackedExperts(const Experts& experts, const std::vector<int>& ids, int first_column,
                int last_column) {
    const int columns = last_column - first_column;
    const int hidden = experts.hidden;
    for (const int e : ids) {
      std::vector<float> gate_up;
      for (const int half : {0, experts.intermediate}) {
        const float* rows = experts.gate_up[e].data() + (half + first_column) * hidden;
        gate_up.insert(gate_up.end(), rows, rows + columns * hidden);
      }
      std::vector<float> down;
      for (int o = 0; o < hidden; ++o) {
        const float* row = experts.down[e].data() + o * experts.intermediate;
        down.insert(down.end(), row + first_column, row + last_column);
      }
      gate_up_.push_back(pack(gate_up, 2 * columns, hidden));
      down_.push_back(pack(down, hidden, columns));
    }
    weights_ = {gate_up_, down_};
  }

  const ExpertWeights& weights() const { return weights_; }
  // The memory of each expert.
  std::vector<SlotBytes> bytes() const {
    std::vector<SlotBytes> slots;
    for (size_t i = 0; i < memory_.size(); i += 2) {
      slots.push_back({memory_[i].span<std::byte>(memory_[i].size()),
                       memory_[i + 1].span<std::byte>(memory_[i + 1].size())});
    }
    return slots;
  }

 private:
  kernels::PackedWeight pack(const std::vector<float>& rows, int out, int in) {
    memory_.push_back(Buffer::allocate(kernels::packed_weight_bytes(out, in, DType::kF32)).value());
    kernels::pack_weight_rows(matrix_view(rows.data(), out, in), 0, out, DType::kF32,
                              memory_.back().data());
    return {memory_.back().data(), DType::kF32, out, in};
  }

  std::vector<Buffer> memory_;
  std::vector<kernels::PackedWeight> gate_up_;
  std::vector<kernels::PackedWeight> down_;
  ExpertWeights weights_;
};

}  // namespace wideep::moe
