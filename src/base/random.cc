#include "base/random.h"

#include <bit>
#include <cmath>

#include "base/check.h"

namespace wideep {
namespace {

uint64_t splitmix64(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// Counts trials by skipping the failures between successes; expected n p + 1 steps.
int64_t binomial_by_gaps(Random& random, int64_t n, double p) {
  const double log_failure = std::log1p(-p);
  int64_t successes = 0;
  double trial = 0;
  while (true) {
    trial += std::floor(std::log1p(-random.uniform()) / log_failure) + 1;
    if (trial > static_cast<double>(n)) return successes;
    ++successes;
  }
}

// log(k!) minus Stirling's first terms.
double stirling_tail(double k) {
  static constexpr double kTail[] = {0.0810614667953272, 0.0413406959554093, 0.0276779256849983,
                                     0.0207906721037651, 0.0166446911898212, 0.0138761288230707,
                                     0.0118967099458917, 0.0104112652619720, 0.0092554621827127,
                                     0.0083305634333631};
  if (k <= 9) return kTail[static_cast<int>(k)];
  const double square = (k + 1) * (k + 1);
  return (1.0 / 12 - (1.0 / 360 - 1.0 / 1260 / square) / square) / (k + 1);
}

// Needs p <= 0.5 and n p >= 10.
int64_t binomial_by_rejection(Random& random, int64_t trials, double p) {
  const double n = static_cast<double>(trials);
  const double deviation = std::sqrt(n * p * (1 - p));
  const double b = 1.15 + 2.53 * deviation;
  const double a = -0.0873 + 0.0248 * b + 0.01 * p;
  const double center = n * p + 0.5;
  const double v_r = 0.92 - 4.2 / b;
  const double odds = p / (1 - p);
  const double alpha = (2.83 + 5.1 / b) * deviation;
  const double mode = std::floor((n + 1) * p);
  while (true) {
    const double u = random.uniform() - 0.5;
    double v = random.uniform();
    const double us = 0.5 - std::abs(u);
    const double k = std::floor((2 * a / us + b) * u + center);
    if (us >= 0.07 && v <= v_r) return static_cast<int64_t>(k);
    if (k < 0 || k > n) continue;
    v = std::log(v * alpha / (a / (us * us) + b));
    const double bound = (mode + 0.5) * std::log((mode + 1) / (odds * (n - mode + 1))) +
                         (n + 1) * std::log((n - mode + 1) / (n - k + 1)) +
                         (k + 0.5) * std::log(odds * (n - k + 1) / (k + 1)) + stirling_tail(mode) +
                         stirling_tail(n - mode) - stirling_tail(k) - stirling_tail(n - k);
    if (v <= bound) return static_cast<int64_t>(k);
  }
}

}  // namespace

Random::Random(uint64_t seed, std::initializer_list<uint64_t> coordinates) {
  uint64_t mixed = seed;
  for (const uint64_t coordinate : coordinates) {
    mixed = splitmix64(mixed) ^ (coordinate * 0xd6e8feb86659fd93u);
  }
  for (uint64_t& word : state_) word = splitmix64(mixed);
}

uint64_t Random::next() {
  const uint64_t result = std::rotl(state_[0] + state_[3], 23) + state_[0];
  const uint64_t t = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= t;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

uint64_t Random::below(uint64_t bound) {
  CHECK(bound >= 1);
  // The high half of a 128-bit product; its bias is under bound / 2^64.
  return static_cast<uint64_t>((static_cast<unsigned __int128>(next()) * bound) >> 64);
}

int64_t Random::binomial(int64_t n, double p) {
  CHECK(n >= 0);
  if (n == 0 || p <= 0) return 0;
  if (p >= 1) return n;
  if (p > 0.5) return n - binomial(n, 1 - p);
  if (static_cast<double>(n) * p < 10) return binomial_by_gaps(*this, n, p);
  return binomial_by_rejection(*this, n, p);
}

}  // namespace wideep
