// The 8- and 16-bit floats of checkpoints as bits: exact conversions to float, and rounding back.
//
//   BF16  1 sign, 8 exponent, 7 mantissa bits: the upper half of a float
//   F16   1, 5, 10: IEEE half precision
//   E4M3  1, 4, 3, bias 7 (OCP FP8, "e4m3fn"): no infinities, 0x7f and 0xff are NaN, largest 448
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

namespace wideep {

constexpr float bf16_to_float(uint16_t bits) {
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

// To the nearest, ties to even; beyond the largest: infinity. NaN stays NaN and becomes quiet.
constexpr uint16_t float_to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
  const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
  return static_cast<uint16_t>((is_nan ? bits | 0x00400000 : rounded) >> 16);
}

// All three cases and masks, no branch: so it vectorises. Subnormals come by way of an integer,
// with no denormal float in between, whatever the thread's mode.
constexpr float f16_to_float(uint16_t bits) {
  const uint32_t sign = (uint32_t{bits} & 0x8000u) << 16;
  const uint32_t rest = uint32_t{bits} & 0x7fffu;  // exponent and mantissa
  const uint32_t normal = (rest << 13) + ((127u - 15u) << 23);
  const uint32_t special = (rest << 13) | 0x7f800000u;  // infinity and NaN
  const auto small = std::bit_cast<uint32_t>(static_cast<float>(static_cast<int>(rest)) * 0x1p-24F);
  const uint32_t is_small = 0u - static_cast<uint32_t>(rest < 0x0400u);
  const uint32_t is_special = 0u - static_cast<uint32_t>(rest >= 0x7c00u);
  return std::bit_cast<float>(sign | (small & is_small) | (special & is_special) |
                              (normal & ~(is_small | is_special)));
}

constexpr float e4m3_to_float(uint8_t bits) {
  const int exponent = (bits >> 3) & 15;
  const int mantissa = bits & 7;
  float magnitude = std::numeric_limits<float>::quiet_NaN();
  if (exponent == 0) {
    magnitude = static_cast<float>(mantissa) * 0x1p-9F;
  } else if ((bits & 0x7f) != 0x7f) {
    const uint32_t shifted =
        (static_cast<uint32_t>(exponent + 127 - 7) << 23) | (static_cast<uint32_t>(mantissa) << 20);
    magnitude = std::bit_cast<float>(shifted);
  }
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

namespace detail {
constexpr std::array<float, 256> make_e4m3_table() {
  std::array<float, 256> table{};
  for (int code = 0; code < 256; ++code) {
    table[static_cast<size_t>(code)] = e4m3_to_float(static_cast<uint8_t>(code));
  }
  return table;
}
}  // namespace detail

// The value of each code.
inline constexpr std::array<float, 256> kE4M3Values = detail::make_e4m3_table();

// Rows of values, out.size() of them, from bytes at any alignment (files are mapped). The loops are
// written for the compiler to vectorise.
void bf16_to_float(const std::byte* from, std::span<float> out);
void f16_to_float(const std::byte* from, std::span<float> out);
// Times `scale`: a block of an FP8 matrix. One rounding, that of the product.
void e4m3_to_float(const std::byte* from, float scale, std::span<float> out);
void float_to_bf16(std::span<const float> from, std::span<uint16_t> out);

}  // namespace wideep
