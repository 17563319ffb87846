// Kernels of measurements: data to measure with, and the simplest uses of memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/stream.h"
#include "base/tensor.h"

namespace wideep::kernels {

// y, kBF16 and without gaps, gets normally distributed numbers that depend on the seed alone.
void fill_normal(Stream& stream, MatrixView y, float deviation, uint64_t seed);

// 16 bytes at a time; sizes are multiples of 16.
void copy_by_threads(Stream& stream, std::span<const std::byte> from, std::byte* to);
// Reads and keeps nothing: `sink` gets a word that random bytes never sum up to.
void read_bytes(Stream& stream, std::span<const std::byte> from, uint32_t* sink);

}  // namespace wideep::kernels
