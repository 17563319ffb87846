#include "eplb/alias_table.h"

#include <cmath>
#include <numeric>

#include "base/check.h"

namespace wideep::eplb {

AliasTable::AliasTable(std::span<const int64_t> tokens) {
  // Only experts with load have columns: rounding can then never draw one without.
  std::vector<double> shares;
  const auto total = static_cast<double>(std::accumulate(tokens.begin(), tokens.end(), int64_t{0}));
  CHECK(total > 0);
  for (size_t e = 0; e < tokens.size(); ++e) {
    if (tokens[e] == 0) continue;
    const auto expert = static_cast<int32_t>(e);
    columns_.push_back({uint64_t{1} << 32, expert, expert});
    shares.push_back(static_cast<double>(tokens[e]) / total);
  }
  std::vector<size_t> light;  // share of a column that is below 1
  std::vector<size_t> heavy;
  for (size_t i = 0; i < shares.size(); ++i) {
    shares[i] *= static_cast<double>(shares.size());
    (shares[i] < 1 ? light : heavy).push_back(i);
  }
  // A light expert's column is filled up by a heavy one. What rounding leaves in either list keeps
  // its whole column.
  while (!light.empty() && !heavy.empty()) {
    const size_t small = light.back();
    const size_t large = heavy.back();
    light.pop_back();
    columns_[small].threshold = static_cast<uint64_t>(std::llround(shares[small] * 0x1.0p32));
    columns_[small].alias = columns_[large].expert;
    shares[large] -= 1 - shares[small];
    if (shares[large] >= 1) continue;
    heavy.pop_back();
    light.push_back(large);
  }
}

}  // namespace wideep::eplb
