#include "base/float_formats.h"

#include <cstring>

#include "base/check.h"

namespace wideep {
namespace {

uint16_t load_u16(const std::byte* from) {
  uint16_t bits = 0;
  std::memcpy(&bits, from, sizeof bits);
  return bits;
}

}  // namespace

void bf16_to_float(const std::byte* from, std::span<float> out) {
  float* to = out.data();
  const size_t count = out.size();
  for (size_t i = 0; i < count; ++i) to[i] = bf16_to_float(load_u16(from + 2 * i));
}

void f16_to_float(const std::byte* from, std::span<float> out) {
  float* to = out.data();
  const size_t count = out.size();
  for (size_t i = 0; i < count; ++i) to[i] = f16_to_float(load_u16(from + 2 * i));
}

void e4m3_to_float(const std::byte* from, float scale, std::span<float> out) {
  float* to = out.data();
  const size_t count = out.size();
  for (size_t i = 0; i < count; ++i) to[i] = kE4M3Values[static_cast<uint8_t>(from[i])] * scale;
}

void float_to_bf16(std::span<const float> from, std::span<uint16_t> out) {
  CHECK_EQ(from.size(), out.size());
  const float* values = from.data();
  uint16_t* to = out.data();
  const size_t count = out.size();
  for (size_t i = 0; i < count; ++i) to[i] = float_to_bf16(values[i]);
}

}  // namespace wideep
