#include "eplb/send_ranks.h"

#include <fmt/format.h>

#include <algorithm>

#include "eplb/evaluate.h"

namespace wideep::eplb {
namespace {

bool is_routed(std::span<const int32_t> chosen) {
  return std::any_of(chosen.begin(), chosen.end(), [](int32_t expert) { return expert >= 0; });
}

// The mean of the tokens that are added one by one.
class Mean {
 public:
  Mean(const Shape& shape, std::span<const int> slots) : send_ranks_(shape, slots) {}

  void add(std::span<const int32_t> chosen) {
    if (!is_routed(chosen)) return;
    sum_ += send_ranks_.of_token(chosen);
    ++num_tokens_;
  }

  SendRanksRow row(int layer) const {
    const double mean = num_tokens_ > 0 ? sum_ / static_cast<double>(num_tokens_) : 0;
    return {.layer = layer, .ranks = mean, .num_tokens = num_tokens_};
  }

 private:
  SendRanks send_ranks_;
  double sum_ = 0;
  int64_t num_tokens_ = 0;
};

}  // namespace

SendRanks::SendRanks(const Shape& shape, std::span<const int> slots)
    : starts_{0}, miss_(shape.num_ranks, 1.0) {
  const std::vector<int> replicas = count_replicas(shape, slots);
  std::vector<std::vector<int>> ranks_of(shape.num_experts);
  for (int slot = 0; slot < shape.num_slots; ++slot) {
    ranks_of[slots[slot]].push_back(shape.rank_of(slot));
  }
  for (int expert = 0; expert < shape.num_experts; ++expert) {
    const double miss = 1.0 - 1.0 / replicas[expert];
    for (const int rank : ranks_of[expert]) chances_.push_back({rank, miss});
    starts_.push_back(static_cast<int>(chances_.size()));
  }
}

double SendRanks::of_token(std::span<const int32_t> chosen) {
  for (const int32_t expert : chosen) {
    if (expert < 0) continue;
    for (int i = starts_[expert]; i < starts_[expert + 1]; ++i) {
      const Chance& chance = chances_[i];
      if (miss_[chance.rank] == 1.0) touched_.push_back(chance.rank);
      miss_[chance.rank] *= chance.miss;
    }
  }
  double expected = 0;
  for (const int rank : touched_) {
    expected += 1.0 - miss_[rank];
    miss_[rank] = 1.0;
  }
  touched_.clear();
  return expected;
}

Result<SendRanksRow> send_ranks_row(const std::vector<RawIds>& records, int layer,
                                    const Shape& shape, std::span<const int> slots) {
  Mean mean(shape, slots);
  for (const RawIds& record : records) {
    if (record.layer != layer) continue;
    CHECK(record.top_k > 0 && record.experts.size() % record.top_k == 0);
    for (const int32_t expert : record.experts) {
      if (expert >= shape.num_experts) {
        return Status::invalid_input(
            fmt::format("raw ids: rank {}, iteration {}, layer {}: expert {} is not one of 0 to {}",
                        record.rank, record.iteration, layer, expert, shape.num_experts - 1));
      }
    }
    const std::span<const int32_t> experts = record.experts;
    for (size_t token = 0; token < experts.size(); token += record.top_k) {
      mean.add(experts.subspan(token, record.top_k));
    }
  }
  return mean.row(layer);
}

SendRanksRow send_ranks_row(const Trace& trace, int layer_index, const Shape& shape,
                            std::span<const int> slots) {
  CHECK_EQ(trace.num_experts(), shape.num_experts);
  Mean mean(shape, slots);
  std::vector<int> chosen(trace.top_k());
  for (int64_t token = 0; token < trace.num_tokens(); ++token) {
    trace.experts(token, layer_index, chosen.data());
    mean.add(chosen);
  }
  return mean.row(trace.layers()[layer_index]);
}

double average_send_ranks(std::span<const SendRanksRow> rows) {
  double sum = 0;
  for (const SendRanksRow& row : rows) sum += row.ranks;
  return rows.empty() ? 0 : sum / static_cast<double>(rows.size());
}

}  // namespace wideep::eplb
