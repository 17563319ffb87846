#include "eplb/cooccurrence.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <utility>

#include "base/parallel.h"
#include "eplb/evaluate.h"

namespace wideep::eplb {
namespace {

void add_token(std::span<const int32_t> chosen, int64_t num_experts, std::span<int64_t> matrix) {
  for (const int32_t i : chosen) {
    if (i < 0) continue;
    for (const int32_t j : chosen) {
      if (j >= 0 && j != i) ++matrix[i * num_experts + j];
    }
  }
}

Status check_ids(std::span<const int32_t> experts, int num_experts) {
  for (const int32_t expert : experts) {
    if (expert < -1 || expert >= num_experts) {
      return Status::invalid_input(
          fmt::format("raw ids: expert {} is not one of 0 to {}, nor -1 for not routed", expert,
                      num_experts - 1));
    }
  }
  return Status::ok();
}

Status add_tokens(std::span<const int32_t> experts, int top_k, int num_experts,
                  std::span<int64_t> matrix) {
  CHECK(top_k > 0 && experts.size() % top_k == 0);
  RETURN_IF_ERROR(check_ids(experts, num_experts));
  for (size_t token = 0; token < experts.size(); token += top_k) {
    add_token(experts.subspan(token, top_k), num_experts, matrix);
  }
  return Status::ok();
}

std::vector<int64_t> empty_matrix(int num_experts) {
  return std::vector<int64_t>(static_cast<size_t>(num_experts) * num_experts);
}

// matrix_of(layer_index) of every layer, in parallel.
template <typename MatrixOf>
Cooccurrence of_layers(int num_experts, const std::vector<int>& layers, const MatrixOf& matrix_of) {
  const size_t size = static_cast<size_t>(num_experts) * num_experts;
  std::vector<int64_t> counts(layers.size() * size);
  parallel_for(static_cast<int>(layers.size()), 0, [&](int i) {
    const std::vector<int64_t> matrix = matrix_of(i);
    std::copy(matrix.begin(), matrix.end(), counts.begin() + static_cast<int64_t>(i * size));
  });
  return {num_experts, layers, std::move(counts)};
}

}  // namespace

Result<std::vector<int64_t>> cooccurrence_matrix(std::span<const int32_t> experts, int top_k,
                                                 int num_experts) {
  std::vector<int64_t> matrix = empty_matrix(num_experts);
  RETURN_IF_ERROR(add_tokens(experts, top_k, num_experts, matrix));
  return matrix;
}

Result<std::vector<int64_t>> cooccurrence_matrix(const std::vector<RawIds>& records, int layer,
                                                 int num_experts) {
  std::vector<int64_t> matrix = empty_matrix(num_experts);
  for (const RawIds& record : records) {
    if (record.layer != layer) continue;
    RETURN_IF_ERROR(add_tokens(record.experts, record.top_k, num_experts, matrix));
  }
  return matrix;
}

std::vector<int64_t> cooccurrence_matrix(const Trace& trace, int layer_index) {
  std::vector<int64_t> matrix = empty_matrix(trace.num_experts());
  std::vector<int> chosen(trace.top_k());
  for (int64_t token = 0; token < trace.num_tokens(); ++token) {
    trace.experts(token, layer_index, chosen.data());
    add_token(chosen, trace.num_experts(), matrix);
  }
  return matrix;
}

std::vector<int> layers_of(const std::vector<RawIds>& records) {
  std::set<int> layers;
  for (const RawIds& record : records) layers.insert(record.layer);
  return {layers.begin(), layers.end()};
}

Result<Cooccurrence> total_cooccurrence(const std::vector<RawIds>& records, int num_experts) {
  for (const RawIds& record : records) RETURN_IF_ERROR(check_ids(record.experts, num_experts));
  const std::vector<int> layers = layers_of(records);
  return of_layers(num_experts, layers, [&](int layer_index) {
    return cooccurrence_matrix(records, layers[layer_index], num_experts).value();
  });
}

Cooccurrence total_cooccurrence(const Trace& trace) {
  return of_layers(trace.num_experts(), trace.layers(),
                   [&](int layer_index) { return cooccurrence_matrix(trace, layer_index); });
}

CooccurrenceRow cooccurrence_row(int layer, std::span<const int64_t> matrix, const Shape& shape,
                                 std::span<const int> slots) {
  CHECK_EQ(matrix.size(), static_cast<size_t>(shape.num_experts) * shape.num_experts);
  const std::vector<int> replicas = count_replicas(shape, slots);
  CooccurrenceRow row{.layer = layer};
  for (int first = 0; first < shape.num_slots; first += shape.slots_per_rank()) {
    const auto rank = slots.subspan(first, shape.slots_per_rank());
    for (const int i : rank) {
      for (const int j : rank) {
        if (i == j) continue;
        const auto pairs = static_cast<double>(matrix[int64_t{i} * shape.num_experts + j]);
        row.within_rank += pairs / replicas[i] / replicas[j];
      }
    }
  }
  int64_t total = std::accumulate(matrix.begin(), matrix.end(), int64_t{0});
  for (int i = 0; i < shape.num_experts; ++i) total -= matrix[int64_t{i} * shape.num_experts + i];
  row.total = static_cast<double>(total);
  row.between_rank = row.total - row.within_rank;
  row.within_ratio = row.total > 0 ? row.within_rank / row.total : 0;
  return row;
}

CooccurrenceRow average_row(std::span<const CooccurrenceRow> rows) {
  CooccurrenceRow average{.layer = -1};
  const double share = rows.empty() ? 0 : 1.0 / static_cast<double>(rows.size());
  for (const CooccurrenceRow& row : rows) {
    average.within_rank += row.within_rank * share;
    average.between_rank += row.between_rank * share;
    average.total += row.total * share;
    average.within_ratio += row.within_ratio * share;
  }
  return average;
}

}  // namespace wideep::eplb
