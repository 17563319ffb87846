#include "eplb/cooccurrence.h"

#include <fmt/format.h>

#include <numeric>

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

CooccurrenceRow cooccurrence_row(int layer, std::span<const int64_t> matrix, const Shape& shape,
                                 std::span<const int> slots) {
  CHECK_EQ(matrix.size(), static_cast<size_t>(shape.num_experts) * shape.num_experts);
  const std::vector<int> replicas = count_replicas(shape, slots);
  CooccurrenceRow row{.layer = layer};
  for (int first = 0; first < shape.num_slots; first += shape.slots_per_rank()) {
    const auto rank = slots.subspan(first, shape.slots_per_rank());
    for (const int i : rank) {
      for (const int j : rank) {
        const auto pairs = static_cast<double>(matrix[int64_t{i} * shape.num_experts + j]);
        row.within_rank += pairs / replicas[i] / replicas[j];
      }
    }
  }
  row.total = static_cast<double>(std::accumulate(matrix.begin(), matrix.end(), int64_t{0}));
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
