// Random numbers that are the same on every machine and for every number of threads: a generator is
// made from a seed and the coordinates of what it is for (layer, iteration, rank, ...).
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <utility>

namespace wideep {

// xoshiro256++ (Blackman and Vigna, 2019), seeded by splitmix64 over seed and coordinates.
class Random {
 public:
  explicit Random(uint64_t seed, std::initializer_list<uint64_t> coordinates = {});

  uint64_t next();
  // Uniform in [0, 1), 53 bits.
  double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }
  // Uniform in [0, bound), bound >= 1.
  uint64_t below(uint64_t bound);
  // Successes of n trials of probability p: inversion for small means, transformed rejection (BTRS,
  // Hoermann 1993) for large ones; expected O(1) for large n p.
  int64_t binomial(int64_t n, double p);

 private:
  uint64_t state_[4];
};

// Every order is as likely (Fisher and Yates).
template <typename T>
void shuffle(Random& random, std::span<T> values) {
  for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[random.below(i)]);
}

}  // namespace wideep
