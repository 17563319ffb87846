#include "eplb/distinct_sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"

namespace wideep::eplb {
namespace {

constexpr int64_t kUnit = int64_t{1} << 40;
constexpr int kTokensPerOrder = 8;

}  // namespace

Result<DistinctSampler> DistinctSampler::create(std::span<const int64_t> tokens, int top_k) {
  CHECK(top_k >= 1);
  std::vector<Part> loaded;
  int64_t total = 0;
  for (size_t e = 0; e < tokens.size(); ++e) {
    if (tokens[e] == 0) continue;
    loaded.push_back({static_cast<int32_t>(e), tokens[e]});
    total += tokens[e];
  }
  if (loaded.size() < static_cast<size_t>(top_k)) {
    return Status::invalid_input(
        fmt::format("{} experts have load, too few to give a token {}", loaded.size(), top_k));
  }
  std::sort(loaded.begin(), loaded.end(), [](const Part& a, const Part& b) {
    return std::pair(-a.length, a.expert) < std::pair(-b.length, b.expert);
  });
  DistinctSampler sampler(static_cast<int>(tokens.size()), top_k);
  // Heaviest first: an expert is certain if it alone fills a unit of what is left.
  size_t first = 0;
  int64_t left = top_k;
  while (left > 0 && static_cast<double>(loaded[first].length) * static_cast<double>(left) >=
                         static_cast<double>(total)) {
    sampler.certain_.push_back(loaded[first].expert);
    total -= loaded[first].length;
    ++first;
    --left;
  }
  if (left == 0) return sampler;
  int64_t missing = left * kUnit;
  for (; first < loaded.size(); ++first) {
    const double share = static_cast<double>(loaded[first].length) / static_cast<double>(total);
    const auto length =
        static_cast<int64_t>(share * static_cast<double>(left) * static_cast<double>(kUnit));
    sampler.parts_.push_back({loaded[first].expert, std::min(length, kUnit)});
    missing -= sampler.parts_.back().length;
  }
  // Rounding down left a few units over. Every part is short of one unit (else it were certain),
  // and there is no more missing than parts.
  for (size_t i = 0; missing != 0; i = (i + 1) % sampler.parts_.size()) {
    Part& part = sampler.parts_[i];
    const int64_t step = missing > 0 ? std::min<int64_t>(1, kUnit - part.length)
                                     : -std::min<int64_t>(1, part.length);
    part.length += step;
    missing -= step;
  }
  return sampler;
}

void DistinctSampler::draw(Random& random, int num_tokens, std::span<int32_t> ids) const {
  CHECK_EQ(ids.size(), static_cast<size_t>(num_tokens) * static_cast<size_t>(top_k_));
  std::vector<Part> line = parts_;
  std::vector<int64_t> ends(line.size());
  auto out = ids.begin();
  for (int token = 0; token < num_tokens; ++token) {
    out = std::copy(certain_.begin(), certain_.end(), out);
    if (line.empty()) continue;
    if (token % kTokensPerOrder == 0) {
      shuffle(random, std::span(line));
      int64_t end = 0;
      for (size_t i = 0; i < line.size(); ++i) ends[i] = end += line[i].length;
    }
    auto at = ends.begin();
    for (auto point = static_cast<int64_t>(random.below(kUnit)); point < ends.back();
         point += kUnit) {
      at = std::upper_bound(at, ends.end(), point);
      *out++ = line[static_cast<size_t>(at - ends.begin())].expert;
    }
  }
  CHECK(out == ids.end());
}

std::vector<double> DistinctSampler::inclusion_probabilities() const {
  std::vector<double> probabilities(static_cast<size_t>(num_experts_), 0.0);
  for (const int32_t expert : certain_) probabilities[static_cast<size_t>(expert)] = 1.0;
  for (const Part& part : parts_) {
    probabilities[static_cast<size_t>(part.expert)] =
        static_cast<double>(part.length) / static_cast<double>(kUnit);
  }
  return probabilities;
}

}  // namespace wideep::eplb
