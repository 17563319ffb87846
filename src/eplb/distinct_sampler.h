// Draws the top_k different experts of a token so that each expert is drawn as often as its load
// says: what independent draws cannot do, because they may hit an expert twice.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/random.h"
#include "base/status.h"

namespace wideep::eplb {

// Systematic sampling (Madow 1949, On the theory of systematic sampling, II): lay the experts'
// inclusion probabilities, which sum to top_k, end to end on a line in random order and take the
// experts under u, u + 1, u + 2, ... for one uniform u in [0, 1). An expert whose share of the
// load is above 1 / top_k can at most be in every token; what that leaves over goes to the others
// in proportion to their load.
//
// The line is kept in integers (units of 2^-40), so that exactly top_k experts are hit and the
// result is the same everywhere. The order is drawn anew every few tokens: with one order, experts
// close to each other would never be chosen together.
class DistinctSampler {
 public:
  // tokens: [num_experts] load; kInvalidInput where fewer than top_k experts have any.
  // O(num_experts log num_experts).
  static Result<DistinctSampler> create(std::span<const int64_t> tokens, int top_k);

  // Ids of num_tokens tokens: [num_tokens, top_k] in no particular order. O(num_experts / 8 +
  // top_k log num_experts) a token.
  void draw(Random& random, int num_tokens, std::span<int32_t> ids) const;

  // [num_experts] probability that a token has the expert; sums to top_k.
  std::vector<double> inclusion_probabilities() const;

 private:
  struct Part {
    int32_t expert;
    int64_t length;  // of its place on the line
  };

  DistinctSampler(int num_experts, int top_k) : num_experts_(num_experts), top_k_(top_k) {}

  int num_experts_;
  int top_k_;
  std::vector<int32_t> certain_;  // in every token
  std::vector<Part> parts_;       // the others that have load
};

}  // namespace wideep::eplb
