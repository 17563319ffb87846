#include "base/float_formats.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "base/random.h"

namespace wideep {
namespace {

// A value from its fields, in double: what the formats' definitions say, by another road.
double decoded(uint32_t bits, int exponent_bits, int mantissa_bits, bool has_infinity) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int top = (1 << exponent_bits) - 1;
  const int exponent = static_cast<int>(bits >> mantissa_bits) & top;
  const int mantissa = static_cast<int>(bits) & ((1 << mantissa_bits) - 1);
  const double sign = (bits >> (exponent_bits + mantissa_bits)) != 0 ? -1 : 1;
  if (has_infinity && exponent == top) return mantissa == 0 ? sign * INFINITY : NAN;
  if (!has_infinity && exponent == top && mantissa == (1 << mantissa_bits) - 1) return NAN;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
}

// The same bits, or both NaN.
void expect_same(float actual, double expected, uint32_t bits) {
  if (std::isnan(expected)) {
    EXPECT_TRUE(std::isnan(actual)) << std::hex << bits;
    return;
  }
  ASSERT_EQ(static_cast<double>(actual), expected) << std::hex << bits;
  ASSERT_EQ(std::signbit(actual), std::signbit(expected)) << std::hex << bits;
}

std::span<const std::byte> bytes_of(const std::vector<uint16_t>& values) {
  return std::as_bytes(std::span(values));
}

std::vector<uint16_t> all_codes() {
  std::vector<uint16_t> codes(1 << 16);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint16_t>(i);
  return codes;
}

TEST(FloatFormats, EveryE4M3Code) {
  for (uint32_t code = 0; code < 256; ++code) {
    expect_same(e4m3_to_float(static_cast<uint8_t>(code)), decoded(code, 4, 3, false), code);
    expect_same(kE4M3Values[code], decoded(code, 4, 3, false), code);
  }
  EXPECT_EQ(e4m3_to_float(0x7e), 448.0F) << "the largest";
  EXPECT_EQ(e4m3_to_float(0x01), 0x1p-9F) << "the smallest";
  EXPECT_EQ(e4m3_to_float(0xb8), -1.0F);
}

TEST(FloatFormats, EveryF16Code) {
  for (const uint16_t code : all_codes()) {
    expect_same(f16_to_float(code), decoded(code, 5, 10, true), code);
  }
  EXPECT_EQ(f16_to_float(0x7bff), 65504.0F) << "the largest";
  EXPECT_EQ(f16_to_float(0x0001), 0x1p-24F) << "the smallest";
}

TEST(FloatFormats, EveryBf16CodeAndBack) {
  for (const uint16_t code : all_codes()) {
    const float value = bf16_to_float(code);
    expect_same(value, decoded(code, 8, 7, true), code);
    const bool is_nan = std::isnan(value);
    EXPECT_EQ(float_to_bf16(value), is_nan ? code | 0x40 : code) << "NaN becomes quiet";
  }
}

// Of the two BF16 neighbours of a float the nearer one, of equally near ones the even.
TEST(FloatFormats, RoundsToTheNearestBf16) {
  Random random(1);
  for (int i = 0; i < 100000; ++i) {
    auto bits = static_cast<uint32_t>(random.next());
    if (i % 4 == 0) bits = (bits & 0xffff0000u) | 0x8000u;  // a tie
    const auto value = std::bit_cast<float>(bits);
    if (!std::isfinite(value)) continue;
    const auto below = static_cast<uint16_t>(bits >> 16);  // towards zero
    const auto above = static_cast<uint16_t>(below + 1);
    const double down = std::abs(static_cast<double>(value) - decoded(below, 8, 7, true));
    // The neighbour beyond the largest counts as 2^128, as IEEE 754 rounds.
    const double next = std::isfinite(bf16_to_float(above)) ? decoded(above, 8, 7, true)
                                                            : std::copysign(0x1p128, value);
    const double up = std::abs(next - static_cast<double>(value));
    const bool is_down = down < up || (down == up && below % 2 == 0);
    ASSERT_EQ(float_to_bf16(value), is_down ? below : above) << std::hex << bits;
  }
  EXPECT_EQ(float_to_bf16(1.0F), 0x3f80);
  EXPECT_EQ(float_to_bf16(std::numeric_limits<float>::max()), 0x7f80) << "infinity";
  EXPECT_EQ(float_to_bf16(std::bit_cast<float>(0x7f800001u)), 0x7fc0) << "NaN, not infinity";
}

// Rows are the scalars, at any alignment and length.
TEST(FloatFormats, RowsAreScalars) {
  const std::vector<uint16_t> codes = all_codes();
  Random random(2);
  for (int round = 0; round < 50; ++round) {
    const size_t offset = random.below(1000);  // bytes, odd ones too
    const size_t count = random.below(300);
    const std::byte* from = bytes_of(codes).data() + 2 * 30000 + offset;
    const float scale = static_cast<float>(random.uniform());
    std::vector<float> bf16(count);
    std::vector<float> f16(count);
    std::vector<float> e4m3(count);
    bf16_to_float(from, bf16);
    f16_to_float(from, f16);
    e4m3_to_float(from, scale, e4m3);
    std::vector<uint16_t> back(count);
    float_to_bf16(bf16, back);
    for (size_t i = 0; i < count; ++i) {
      uint16_t code = 0;
      std::memcpy(&code, from + 2 * i, sizeof code);
      expect_same(bf16[i], bf16_to_float(code), code);
      expect_same(f16[i], f16_to_float(code), code);
      const auto byte = static_cast<uint8_t>(from[i]);
      expect_same(e4m3[i], kE4M3Values[byte] * scale, byte);
      EXPECT_EQ(back[i], float_to_bf16(bf16[i]));
    }
  }
}

}  // namespace
}  // namespace wideep
