#include "eplb/sampler.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace wideep::eplb {

void sample_counts(Random& random, std::span<const int64_t> tokens, int64_t draws,
                   std::span<int64_t> counts) {
  CHECK_EQ(tokens.size(), counts.size());
  std::fill(counts.begin(), counts.end(), 0);
  int64_t mass = std::accumulate(tokens.begin(), tokens.end(), int64_t{0});
  if (mass == 0) return;
  // A multinomial is a chain of binomials, each given what the ones before it left over.
  for (size_t e = 0; e < tokens.size() && draws > 0; ++e) {
    const double share = static_cast<double>(tokens[e]) / static_cast<double>(mass);
    counts[e] = tokens[e] == mass ? draws : random.binomial(draws, share);
    draws -= counts[e];
    mass -= tokens[e];
  }
}

}  // namespace wideep::eplb
